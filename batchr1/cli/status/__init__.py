"""`batchr1 status OUTPUT…|JOB`

entry     the command and its options
text      what it prints about one output
many      what it prints about several
compared  outputs against each other
rows      the newest rows, and those that failed
"""

from batchr1.cli.status.entry import command, look_up

__all__ = ["command", "look_up"]
