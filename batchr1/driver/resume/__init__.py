"""Resuming: samples that earlier runs left, done or begun.

It runs in the driver, before the first lease.

pending_rows        the rows that a run still has to do
changed_prompts     done rows whose prompt is another one now
exclude             rows that earlier outputs hold
continue_truncated  rows that a limit cut, pending again with their tokens
"""
