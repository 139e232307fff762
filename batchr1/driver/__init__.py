"""Driver: the process that was started.

It holds the lock, leases work and commits parts.

run_job      a spec to a summary: the walk through everything else
prepare      the job, model, input and output before anything is touched
driver       leases, commits, and who holds which row
feeder       the feeder thread: pending rows, ordered, rendered and tokenised ahead
schedule     the order of samples (pure)
early_stop   `stop_when`: waves of samples until enough are right (pure)
fleet        replicas: start, death, successor, end
quarantine   the row that crashes engines, found
oom_restart  the same worker one rung lower after out-of-memory
lengths      lengths of prompts and completions for the plan
server_plan  the plan of a job that a server does
cost         money spent at a server
empty        a run with nothing to do
summary      the run's record and the summary made of it
logs         the run's log, for people and as JSON
signals      SIGINT and SIGTERM
on_finish    the command that hears of a run's end

resume       what earlier runs left: changed prompts, exclusions, truncated rows
monitor      what others see of a run: progress, timeline, metrics
"""
