"""OpenAI-compatible servers, seen from a client.

The client runs in the worker; `batchr1 check` uses it too.

client  requests, replies and their usage
bounds  how much a server may send
served  the models of a server, and parameters that its program knows
network whose fault a failed connection is
faults  whose fault a fault is: the row's, the server's or the job's
server  the key of a server, and what its answers cost
"""
