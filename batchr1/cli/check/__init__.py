"""`batchr1 check JOB`

entry  the command, its options, and what it looks at
text   what it prints about one job
"""

from batchr1.cli.check.entry import command, examine

__all__ = ["command", "examine"]
