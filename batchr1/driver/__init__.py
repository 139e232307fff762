"""Driver: the process that was started.

It holds the lock, leases work and commits parts.

run_job       a spec to a summary: the walk through everything else
context       a job with its model, input and output opened; the context of a run
preflight     checks before anything is touched, and the weights before engines start
planning      the renderer of prompts and the plan of engines
work          a run with work to do: feeder, workers and driver put together
worker_setup  the setup of each worker
driver        leases, commits, and who holds which row
feeder        the feeder thread: pending rows, ordered, rendered and tokenised ahead
schedule      the order of samples (pure)
early_stop    `stop_when`: waves of samples until enough are right (pure)
fleet         replicas: start, death, successor, end
quarantine    the row that crashes engines, found
oom_restart   the same worker one rung lower after out-of-memory
lengths       lengths of prompts and completions for the plan
server_plan   the plan of a job that a server does
cost          money spent at a server
summary       the summary of a run
logs          the run's log, for people and as JSON
signals       SIGINT and SIGTERM
on_finish     the command that hears of a run's end

resume        what earlier runs left: changed prompts, exclusions, truncated rows
monitor       what others see of a run: progress, timeline, metrics
"""
