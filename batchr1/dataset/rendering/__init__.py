"""Rendering of chat messages, before tokens.

turns          a row as user, assistant and system turns, the instruction appended
chat_template  the model's chat template with the job's switches, on a pinned day
probe          findings about a template, before anything runs
"""
