"""The job: YAML → frozen, typed spec; overrides; fingerprint."""

from batchr1.job.load import Overrides, load_job
from batchr1.job.spec import JobSpec

__all__ = ["JobSpec", "Overrides", "load_job"]
