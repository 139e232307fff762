"""Parts of a model's shape, read from its config.

numbers        sizes by the names that models give them
layers         what each layer remembers: the context, a window of it, or a state
experts        mixtures of experts: how many, how wide, in which layers
weights        how the weights are stored, and bytes of each
"""
