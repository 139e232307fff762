"""Sizing: memory, batch and time by arithmetic.

It runs in the driver, before any engine loads.

plan           what a run will ask of its machine
planning       plans: on GPUs, on several models of them, on the CPU
fit            one candidate: a model on so many GPUs
memory         how vLLM divides a GPU's memory
estimate       hours and cost of a job
timing         seconds of a step and of a whole run (workers ask too)
graphs         batch sizes that have a CUDA graph
lengths        lengths of completions that nobody has stated
offers         what else would run a job, or a model
adapters       room for LoRA adapters
architecture   a model's config: parameters, bytes of weights and KV cache
shape          the parts of it: layers, experts, formats of weights
gpus           GPUs that batchr1 knows by name
machine        the machine that a plan is for
devices        the GPUs of this machine, and who holds their memory
nvml           NVIDIA's management library
oom            an engine's out-of-memory message, and the next argument to lower (workers ask too)
"""
