"""`python -m batchr1`"""

from batchr1.cli.main import main

main(prog_name="batchr1")
