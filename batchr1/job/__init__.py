"""The job: YAML to a frozen, typed spec.

It is read in the driver.

spec          the job file as models: what was asked, nothing derived
data          the sections `input` and `output`
engine        the section `engine`: its kind, and the keys of each kind
model         the section `model`
prompting     the section `prompting`
sampling      the section `sampling`
verify        the sections `verify` and `stop_when`
replay_script the script of the replay engine
base          the base of all models of a job file
kinds         the kinds of engine by name, each with its backend's module
load          reading, overrides, validation, complaints
server_rules  the rules of `engine.kind: openai`
fingerprint   what decides a job's answers
"""

from batchr1.job.load import Overrides, load_job
from batchr1.job.spec import JobSpec

__all__ = ["JobSpec", "Overrides", "load_job"]
