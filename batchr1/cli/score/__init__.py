"""`batchr1 score JOB|OUTPUT|FILES`

entry  the command and its options
words  what it prints
"""

from batchr1.cli.score.entry import command

__all__ = ["command"]
