"""Scores of rows that exist, by a model's prefill: `batchr1 score`.

It runs in the process that was started, which holds the lock of the folder of scores. On CPUs the
engine runs inside it, on GPUs in vLLM's own subprocess.

target    what is scored, and the models on both sides
rows      its rows, in the model's tokens
columns   the columns of scores, and their tables
folder    the folder of scores: its record, what is done, its parts
planning  tokens, engine arguments, throughput, bytes on disk
score     the run over all rows
"""
