"""Commands: one module a command, words but no logic.

They run in the process that was started.

main      the group `batchr1`, exit codes, leaving the process
options   options that several commands share
printing  a line of JSON or text, as a command prints it
init      `batchr1 init DATA`: a job file for a dataset, its columns guessed
run       `batchr1 run JOB`: a job's run and its summary
check     `batchr1 check JOB`: the job, its data and its server, before anything runs
plan      `batchr1 plan JOB`: memory, batch and time of a job
variants  `batchr1 variants`: models by name and what they need
fetch     `batchr1 fetch MODEL`: a model's files
status    `batchr1 status OUTPUT…|JOB`: how far a run is, and whether it is alive
show      `batchr1 show OUTPUT…`: rows to read
report    `batchr1 report OUTPUT…`: an output in numbers and as a page
score     `batchr1 score OUTPUT`: log-probabilities of its rows
verify    `batchr1 verify OUTPUT`: verdicts given again, without generating
export    `batchr1 export OUTPUT… DEST`: rows as a data set
schema    `batchr1 schema job|output|run|log`: JSON schemas
"""
