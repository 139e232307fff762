"""Monitoring: a run as others see it.

It runs in the driver. A monitor that fails never ends a run that has begun.

progress    the bar or the lines on stderr
timeline    how busy engines were, for the run's record
prometheus  a run as Prometheus metrics
watch       the metrics file and the metrics port
"""
