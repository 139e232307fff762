"""Outputs: the folder that a run writes.

Only the driver commits; workers stage.

folder       paths, staging and the two ways in which a file enters
documents    JSON documents that name their fingerprint
parts        results to Parquet parts (in the worker)
replace      committed parts replaced by intent
checkpoints  tokens of uncommitted generations, on storage
run_record   the record of a run, typed and versioned
doubled      keys that are there twice, repaired by a rule
labels       majority answer and pass rate of each prompt
find         outputs by name or glob
across       rows of several outputs, each key once
"""
