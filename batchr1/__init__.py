"""batchr1: run reasoning models over datasets, offline, and keep every token that was paid for."""

__version__ = "0.1.0"
