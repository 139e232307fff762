"""The recipe that made r1-tiny: problem generator, tokenizer, training, evaluation and the shipped data set."""
