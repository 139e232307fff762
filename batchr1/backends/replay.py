"""A scripted engine without weights, for dry runs and tests.

Prompts, tokenizer, plan, worker process and output are the real ones. Rows say that they are
replayed, and no output or checkpoint of another engine is ever continued.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchr1.backends.base import Backend, Measured, label_of
from batchr1.backends.local import LocalBackend
from batchr1.job.replay_script import ReplayScript

if TYPE_CHECKING:
    from batchr1.engine.protocol import Engine, ModelFiles
    from batchr1.executors.setup import WorkerSetup
    from batchr1.job.spec import JobSpec
    from batchr1.models.resolve import ModelSource
    from batchr1.sizing.plan import Plan

_PLANNED = ("max_model_len", "max_num_seqs", "max_num_batched_tokens")


class ReplayBackend(LocalBackend):
    """Jobs on a script."""

    needs_weights = False
    own_keys = frozenset({"script"})
    title = "the scripted engine"

    def plan(
        self,
        spec: JobSpec,
        model: ModelSource,
        measure: Callable[[], Measured],
        *,
        price: float | None = None,
    ) -> Plan:
        """Size as for vLLM, then let the script overrule the engine's arguments."""
        plan, script = super().plan(spec, model, measure, price=price), script_of(spec)
        own = {name: value for name in _PLANNED if (value := getattr(script, name)) is not None}
        args = own | script.engine_args
        kinds = tuple(replace(kind, engine_args=kind.engine_args | args) for kind in plan.kinds)
        return replace(plan, engine_args=plan.engine_args | args, kinds=kinds)

    def fingerprint(self, spec: JobSpec) -> dict[str, Any]:
        """Name the kind alone.

        A fault is scripted for one run, and the next one goes on.
        """
        return {"engine.kind": spec.engine.kind}

    def label(self, model: ModelSource) -> str:
        return f"replay of {label_of(model)}"

    def engine(self, setup: WorkerSetup, files: ModelFiles) -> Engine:
        from batchr1.dataset.without_torch import leave_torch_out

        leave_torch_out()
        from batchr1.dataset.prompts import PromptRow, load_tokenizer
        from batchr1.engine.replay.engine import ReplayEngine
        from batchr1.engine.replay.vocabulary import Vocabulary
        from batchr1.reasoning.formats import R1
        from batchr1.records import Prompt

        spec = setup.spec
        tokenizer = load_tokenizer(
            files.location,
            revision=files.revision,
            trust_remote_code=spec.model.trust_remote_code,
            needs_template=False,
        )
        renderer = self.renderer(spec, files.location, files.revision)
        rendered = renderer.render_many([PromptRow("0", "1 + 1"), PromptRow("1", "2 + 3?")])
        prompts = [prompt.token_ids for prompt in rendered if isinstance(prompt, Prompt)]
        words = Vocabulary.of(tokenizer, setup.format or R1, prompts)
        return ReplayEngine(script_of(spec), words, setup.plan.engine_args)


def script_of(spec: JobSpec) -> ReplayScript:
    """Give a job's script; the default one where it names none."""
    return spec.engine.script or ReplayScript()


BACKEND: Backend = ReplayBackend()
