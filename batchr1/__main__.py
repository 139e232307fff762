"""`python -m batchr1`"""

from batchr1.cli.main import program

program()
