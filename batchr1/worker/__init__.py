"""Worker: one process a replica.

It generates, splits, stages and saves checkpoints.

main             the process: its pipe to the driver, and how it fails
loop             what every worker's loop has: mailbox, requests, stop, saving, end
engine_life      a worker with an engine, from loading it to its end
engine_worker    the step loop of an engine
server_worker    the event loop of a server's replica
server_requests  one sample at a server, until it is answered
server_health    how long a server is waited for
generation       a sample under way: budgets, loops, injected tokens
admission        how many samples to run at once (pure)
length_model     lengths of completions, learnt on the way (pure)
preemption_cost  seconds of a preemption, learnt on the way (pure)
collector        the collector thread: completions to rows to staged parts
outbox           finished samples, for the collector and for the driver
checkpointer     the checkpoint thread: tokens to storage every few seconds
"""
