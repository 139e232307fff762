"""vLLM behind the `Engine` protocol.

It runs in the worker. No other package imports vllm.

engine        requests, steps and outputs of vLLM
scorer        log-probabilities of rows that exist (the process of `batchr1 score`)
imports       the import of vLLM, and what it means where that fails
arguments     the names of vLLM's engine arguments, without importing it (the driver reads them)
memory_probe  memory figures from vLLM's own subprocesses
"""
