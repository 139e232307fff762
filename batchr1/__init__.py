"""Run reasoning models over datasets, offline, and keep every token.

What flows:       records, errors, events, faults, columns, seeds
What is asked:    job
What is stored:   storage, dataset, output
What is computed: reasoning, models, sizing
What generates:   engine, verifier, backends
Who does it:      driver (the process that was started), worker (one process a replica),
                  executors (the wire between them)
Who looks on:     report, export, rejudge
Who is called:    cli

docs/design.md says which process each of them runs in.
"""

__version__ = "0.2.0"
