"""Engines: token ids or messages in, completions out.

They run in the worker, or in a subprocess of it.

protocol  the calls that a worker makes of an engine
lifeline  processes that end when their parent ends
vllm      vLLM behind the protocol
openai    a client of OpenAI-compatible servers
replay    a scripted engine without a model
"""
