"""Exports: an output's rows as a data set.

They run in the process that was started.

export   `batchr1 export` without the command line
options  the export that was asked for
select   the rows that pass every filter
labels   majority answer and pass rate of each prompt
rows     the shape of exported rows
card     README.md of the data set
publish  the folder that an export becomes, whole or not at all
"""
