"""Exports: rows of outputs as a data set.

They run in the process that was started.

export           `batchr1 export` without the command line
options          the export that was asked for
select           the rows that pass every filter
prompts          texts of prompts, read a part at a time
words            normalised words of texts, and hashes of their n-grams
decontaminate    overlap of prompts with benchmarks
matcher          n-grams of rows, and what prompts share with them
inputs           overlap of a job's prompts with benchmarks
near_duplicates  near duplicates among prompts, by MinHash
verdicts         verdicts of a judge's output, joined to the rows that it judged
rows             the shape of exported rows
columns          the columns of several outputs
card             README.md of the data set
publish          the folder that an export becomes, whole or not at all
push             the commit of an export on the hub
"""
