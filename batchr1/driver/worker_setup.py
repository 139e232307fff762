"""The setup of each worker of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from batchr1.backends.base import backend_of
from batchr1.driver.context import RunContext
from batchr1.driver.planning import EngineInputs
from batchr1.driver.signals import GRACE_S
from batchr1.executors.local import share_cores
from batchr1.executors.setup import Assignment, Spending, WorkerSetup
from batchr1.job.fingerprint import continued_digest


@dataclass(frozen=True, slots=True)
class WorkerSetups:
    """Maker of the setups of a run's workers.

    `spent_usd`: the cost of earlier runs at a server. `verify_kind`: how rows are judged.
    """

    run: RunContext
    engines: EngineInputs
    spent_usd: float
    verify_kind: str

    def make(self, worker: int, kind: int) -> WorkerSetup:
        """Make one.

        `kind`: the kind of machine, of those in the plan, that the worker runs on.
        """
        job, whole = self.run.job, self.engines.plan
        verify = job.spec.verify.model_copy(update={"kind": self.verify_kind})
        return WorkerSetup(
            assignment=self._assignment(worker, kind),
            spec=job.spec.model_copy(update={"verify": verify}),
            plan=replace(whole.of_kind(kind), completions=whole.completions),
            model=job.model,
            model_label=backend_of(job.spec).label(job.model),
            storage=job.output.storage,
            kept_schema=job.source.kept_schema.serialize().to_pybytes(),
            format=self.engines.renderer.format,
            job_digest=continued_digest(job.semantic),
            spending=Spending(self.spent_usd),
        )

    def _assignment(self, worker: int, kind: int) -> Assignment:
        spec, options = self.run.job.spec, self.run.options
        plan = self.engines.plan.of_kind(kind)
        devices: tuple[str, ...] = ()
        cpus: tuple[int, ...] = ()
        if spec.executor.kind == "local":  # elsewhere the cluster chooses
            devices = self.engines.plan.device_groups[worker]
            if plan.device == "cpu" and plan.replicas > 1:
                cpus = share_cores(plan.replicas)[worker]
        return Assignment(
            run=self.run.name,
            worker=worker,
            kind=kind,
            devices=devices,
            cpus=cpus,
            num_threads=len(cpus) or plan.cpus_per_replica,
            grace_s=GRACE_S if options.grace_s is None else options.grace_s,
        )
