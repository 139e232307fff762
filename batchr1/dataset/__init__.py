"""Datasets: input files to rows, rows to prompts.

They run in the driver, mostly on its feeder thread.

source        the rows of Parquet and JSON lines, streamed batch by batch
readers       columns and predicates of one file
sampling      an even sample of rows from a large dataset
pending       the samples still to do: the input's ids against committed parts
prompts       a row through the chat template, to token ids
chat_prompts  a row as chat messages, for servers that render them
tokenizer     a model's tokenizer (workers load it too)
"""
