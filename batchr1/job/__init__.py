"""The job: YAML to a frozen, typed spec.

It is read in the driver.

spec          the job file as models: what was asked, nothing derived
load          reading, overrides, validation, complaints
server_rules  the rules of `engine.kind: openai`
fingerprint   what decides a job's answers
"""

from batchr1.job.load import Overrides, load_job
from batchr1.job.spec import JobSpec

__all__ = ["JobSpec", "Overrides", "load_job"]
