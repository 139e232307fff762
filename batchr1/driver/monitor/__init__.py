"""Monitor: a run as seen from outside.

It runs in the driver. Metrics that fail never end a run that has begun.

recorder    the run's record, kept while it runs
summary     the record's beginning, the summary of the end, job.json
timeline    the load over time
cost        money spent at a server
stages      what a run prepares, in lines
progress    the progress bar and lines
prometheus  metrics in a file and on a port
logs        the run's log, for people and as JSON
on_finish   the command that gets the record at the end
"""
