"""Engine kinds: all that differs by `engine.kind`.

Used by the driver, and by a worker at its start.

openai   a server that somebody else runs: its model, its plan, its worker's setup
"""
