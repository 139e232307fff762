"""Datasets: input files to rows, rows to prompts.

They run in the driver, mostly on its feeder thread.

source        the rows of data files, streamed batch by batch
columns       the columns that a job names, checked
guess         which columns of an unknown dataset are which, for `batchr1 init`
types         Arrow types: what each may be used for
values        Arrow values as Python values and as text
readers       batches of one file, Parquet or lines
lines         JSON lines, CSV and TSV as batches
predicate     `input.where`, a SQL condition on one row
bounds        bounds on what prompts, templates and batches may cost
sampling      an even sample of rows from a large dataset
pending       the samples still to do: the input's ids against committed parts
messages      chat messages of a row, as values
rendering     templates: turns, rendering, what a template does
prompts       a row through the chat template, to token ids
chat_prompts  a row as chat messages, for servers that render them
tokenizer     a model's tokenizer (workers load it too)
without_torch whether this process goes without torch
"""
