"""Offers: what else would run a job, or a model.

They are reckoned in the driver, for plans and lists.

alternatives   flags that would make a job fit, cheapest first
choices        hours and cost by number of GPUs and precision
smallest_gpus  the smallest GPUs that run each variant
"""
