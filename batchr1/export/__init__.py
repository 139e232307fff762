"""An output's rows as a data set: chosen, shaped, split, described, published."""
