"""Storage: disk and S3 behind one interface, and the lock.

It runs in the driver and in workers.

base          the interface
inputs        the files that an `input.path` names
names         names of data files: formats, and what is refused
uri           kinds of URI and their S3 servers
local         a local or mounted file system
files         files and folders of a disk, written durably
web           web servers and the hub, read by ranges
fsspec_files  files of other file systems, read by fsspec
s3            an S3 bucket
s3_client     the S3 client, and files read by ranges
errors        storage faults: one line each, and which to try again
lock          one run an output: a lock that its owner keeps alive (driver)
fence         the folder through which an owner's writes pass
owner         an output's lock and fence, taken together
lock_record   the lock's file, and replacing it
"""
