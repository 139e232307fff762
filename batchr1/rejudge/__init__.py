"""Verdicts of an existing output, given again: `batchr1 verify`.

Nothing is generated. It runs in the process that was started, which holds the output's lock.

parts   the verdicts of one part: its rows judged anew, as a run judges them
golds   right answers from another file, by id
output  the whole output: under its lock, part by part, each replaced through an intent
"""
