"""Resume: what earlier runs left, and what is still to do.

It runs in the driver, before the first lease.

pending_rows        the input's samples without those that are done or failed
changed_prompts     changed prompts under ids that are done
changed_golds       corrected right answers and kept columns of rows that are done
exclude             rows that earlier outputs hold
continue_truncated  rows that a limit cut, to go on
"""
