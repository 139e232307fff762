"""The setup of each worker of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from batchr1.backends.openai import server_setup
from batchr1.driver.context import RunContext
from batchr1.driver.driver import GRACE_S
from batchr1.driver.planning import EngineInputs
from batchr1.engine.protocol import Sampling
from batchr1.executors.local import share_cores
from batchr1.executors.messages import BudgetSetup, EngineSpec, WorkerSetup
from batchr1.job.fingerprint import continued_digest
from batchr1.job.spec import JobSpec
from batchr1.reasoning.verify import Verify
from batchr1.worker.checkpointer import CheckpointSetup


@dataclass(frozen=True, slots=True)
class WorkerSetups:
    """Makes the setups of a run's workers. `spent_usd`: the cost of earlier runs at a server."""

    run: RunContext
    engines: EngineInputs
    spent_usd: float

    def make(self, worker: int, kind: int) -> WorkerSetup:
        """Make one. `kind`: the kind of machine, of those in the plan, that the worker runs on."""
        job, options = self.run.job, self.run.options
        spec, model, plan = job.spec, job.model, self.engines.plan.of_kind(kind)
        s = spec.sampling
        remote = None
        if spec.engine.is_server:
            grace_s = GRACE_S if options.grace_s is None else options.grace_s
            remote = server_setup(spec, before_usd=self.spent_usd, grace_s=grace_s)
        engine = EngineSpec(
            kind="vllm" if remote is None else "openai",
            device="cuda" if plan.device == "cuda" else "cpu",
            model=model.location,
            revision=model.revision,
            trust_remote_code=spec.model.trust_remote_code,
            args=plan.engine_args,
            sampling=Sampling(s.temperature, s.top_p, s.top_k, s.min_p, s.ignore_eos),
        )
        if options.engine is not None:
            engine = replace(options.engine, args=plan.engine_args | options.engine.args)
        local = spec.executor.kind == "local"
        cpus = (
            share_cores(plan.replicas)[worker]
            if local and plan.device == "cpu" and plan.replicas > 1
            else ()
        )
        return WorkerSetup(
            run=self.run.name,
            worker=worker,
            epoch=0,
            engine=engine,
            max_num_seqs=plan.max_num_seqs,
            storage=job.output.storage,
            kept_schema=job.source.kept_schema.serialize().to_pybytes(),
            seed=s.seed,
            attempts=spec.retry.attempts,
            rows_per_part=spec.output.rows_per_part,
            part_every_s=spec.output.part_every_s,
            model_label=f"{model.name} ({model.identity[:80]})",
            expects_box=spec.prompting.instruction == "math",
            instruction=self.engines.renderer.instruction,
            verify=Verify(**spec.verify.model_dump()),
            budgets=_budgets_of(spec),
            stop_loops=s.stop_loops,
            judges=spec.stop_when is not None,
            retry_on=frozenset(spec.retry.on),
            keep_token_ids=spec.output.token_ids == "always",
            devices=self.engines.plan.device_groups[worker]
            if local
            else (),  # elsewhere the cluster chooses
            cpus=cpus,
            num_threads=len(cpus) or plan.cpus_per_replica,
            kind=kind,
            fixed_args=frozenset(plan.fixed),
            checkpoint=CheckpointSetup(spec.checkpoint.every_s, continued_digest(job.semantic)),
            expected=self.engines.plan.completions,
            step_time=plan.step_time,
            remote=remote,
        )


def _budgets_of(spec: JobSpec) -> BudgetSetup | None:
    """Token budgets of a sample; None without any."""
    s = spec.sampling
    if not s.closes_traces:
        return None
    return BudgetSetup(s.thinking_budget, s.answer_budget, s.max_tokens, s.closing_sentence)
