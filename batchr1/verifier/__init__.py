"""Verification beside the engine, in processes of its own.

A process verifies one row at a time.

pool     the verifying processes and their rows (a thread each, in whoever verifies)
process  the process that verifies (`python -m batchr1.verifier.process`)
"""
