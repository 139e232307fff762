"""Script of the replay engine: its completions, speed and faults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from batchr1.job.base import PositiveInt, Section

_Count = Annotated[int, Field(ge=0)]


class ReplayScript(Section):
    """A scripted engine's behaviour. Lengths in tokens, times in seconds."""

    mean_len: float = 60.0
    """Mean length of a completion's reasoning, log-normal by the prompt's hash."""
    sigma: float = 0.8
    """Standard deviation of that length's logarithm."""
    letters: PositiveInt | None = None
    """Letters that texts are made of, at most; null: all. With 1, every generation is a loop."""
    answer_len: _Count = 5
    """Tokens of each answer."""
    groups: list[list[PositiveInt]] = []
    """Lengths of completions instead of log-normal ones: the prompt's hash picks a group, the
    sample's seed one of it."""
    max_model_len: PositiveInt | None = None
    """The context; null: as planned."""
    max_num_seqs: PositiveInt | None = None
    """Sequences in a step; null: as planned."""
    kv_cache_tokens: _Count = 1_000_000
    """Tokens of all running sequences, rounded up to blocks; where it runs full, the newest is
    preempted."""
    max_num_batched_tokens: PositiveInt | None = None
    """Tokens prefilled in a step; null: as planned."""
    tokens_per_step: PositiveInt = 1
    """Tokens of each running sequence in a step."""
    step_s: float = 0.0
    """Seconds of a step."""
    step_time: dict[str, float] | None = None
    """A step's seconds by what is in it: fields of StepTime, in batchr1/engine/replay/gpu.py."""
    time_scale: float = 1.0
    """The share of those seconds that is slept."""
    runs_apart: bool = False
    """Whether a step's time begins when the last one was over, as in an engine process of its
    own."""
    start_s: float = 0.0
    """Seconds until the engine is loaded."""
    refuse_every: _Count = 0
    """One prompt in so many is refused; 0: none."""
    poison_every: _Count = 0
    """One prompt in so many kills the process; 0: none."""
    poison_at: _Count = 0
    """Once so many of its tokens are there."""
    poison_up_to: _Count | None = None
    """Only by completions that short."""
    die_at_step: _Count | None = None
    """The process is killed at this step."""
    error_at_step: _Count | None = None
    """The engine raises at this step."""
    hang_at_step: _Count | None = None
    """The engine sleeps at this step."""
    once: str | None = None
    """A file that marks a fault as done, so that the restarted worker goes on."""
    journal: str | None = None
    """A file that gets a line of JSON for each submission, and for each request in each step."""
    fits: dict[str, Any] | None = None
    """Engine arguments and the most that the memory allows of each; above them the engine runs out
    of memory."""
    oom: Literal["busy", "kv_too_small", "oom_load", "oom", "bad_alloc"] = "oom"
    """With whose words."""
    oom_at_step: _Count | None = None
    """At this step; null: at its start."""
    oom_as: Literal["raised", "printed", "abort"] = "raised"
    """Whether the words are raised, printed as by a subprocess, or printed by a process that
    aborts."""
    engine_args: dict[str, Any] = {}
    """Engine arguments in place of those that were planned."""
