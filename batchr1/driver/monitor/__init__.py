"""Monitoring: a run as others see it.

It runs in the driver. A monitor that fails never ends a run that has begun.

progress    the bar or the lines on stderr
timeline    how busy engines were, for the run's record
prometheus  metrics in a file and on a port
recorder    the run's record, kept while it runs
"""
