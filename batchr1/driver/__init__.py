"""Driver: the process that was started.

It holds the output's lock, leases work to workers and commits what they stage.

run_job       the walk from a spec to a summary
context       a job with all that it names opened; a run that holds the lock
preflight     checks before anything is touched; the weights
planning      the renderer and the plan of the engines
worker_setup  the setup of each worker
work          a run with work: feeder, fleet and driver from begin to end
driver        the loop: messages of workers, deaths, stops
leases        work handed out, and taken back
commits       parts and failed rows into the output
tally         counts of a run
fleet         replicas: start, death, successor, end
quarantine    the row that crashes engines, found
oom_restart   a worker's successor after out-of-memory, one rung lower
server_plan   the plan of a job that a server does
signals       SIGINT and SIGTERM

feed          pending rows to work items
resume        what earlier runs left: pending rows, changed prompts, exclusions, truncated rows
monitor       a run as seen from outside: record, progress, metrics, log, `on_finish`
"""
