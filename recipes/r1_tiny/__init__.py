"""The recipe that made r1-tiny: problem generator, tokenizer, training, evaluation and the shipped
data set.
"""

from pathlib import Path

R1_TINY = Path(__file__).parents[2] / "batchr1/models/r1_tiny"  # where the weights and the card lie
