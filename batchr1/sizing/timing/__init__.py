"""Timing: how long an engine's steps and whole runs take.

It is pure arithmetic, and admission in the workers asks it too.

step_time  seconds of one step
course     a replica's run, moment by moment
"""
