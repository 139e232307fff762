"""Engine kinds: all that differs by `engine.kind`.

Used by the driver, and by a worker at its start. Their names are in `job/kinds.py`.

base       what a kind has to provide, and the way from a job to its kind
local      what kinds have in common whose engines batchr1 starts
renderers  the renderer of a job's prompts
vllm       vLLM's engines
openai     a server that somebody else runs
replay     a scripted engine
"""
