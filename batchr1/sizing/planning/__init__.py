"""Plans: made from spec, model, machine and lengths.

make           a job's plan
gpu            on GPUs of one model
mixed          on GPUs of several models
cpu            on the CPU
arguments      engine arguments that a plan must respect
misfit         the message where nothing fits
"""
