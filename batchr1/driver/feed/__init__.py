"""Feed: pending rows become work items, in the order of a schedule.

feeder      the thread that reads, orders and renders ahead of the workers
items       prompts and work items from input rows
schedule    the order of samples (pure)
early_stop  `stop_when`: waves of samples until enough are right (pure)
golds       the kind of verification that the right answers ask for
samples     real rows of every file, tried before a model loads
lengths     lengths of prompts and completions, for the plan
"""
