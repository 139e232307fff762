"""Sizing: which model, on which devices, in which batches."""
