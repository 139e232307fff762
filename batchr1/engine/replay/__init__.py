"""A scripted engine without a model, for dry runs and measurements.

It runs in the worker.

engine      completions from a script, step by step
vocabulary  what a script must know of a model's tokens
gpu         a KV cache that fills up and steps that take their time
"""
