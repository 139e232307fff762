"""Needs of each variant: bytes of weights, and smallest GPUs.

At three precisions, and GPUs that run it usefully.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from batchr1.models.catalogue import Variant
from batchr1.records import PromptLengths
from batchr1.sizing.architecture import Architecture
from batchr1.sizing.estimate import Workload
from batchr1.sizing.fit import EngineConstraints, Fit, best_fit
from batchr1.sizing.gpus import GPUS
from batchr1.sizing.lengths import default_lengths
from batchr1.sizing.machine import named_machine

# The job that "fits" is said of: maths, prompts as people's benchmarks have them, one whole
# generation in the cache.
PROMPTS = PromptLengths(rows=1000, measured=1000, longest=1024, mean=256.0)
GPU_COUNTS = (1, 2, 4, 8, 16)  # 16: two nodes of eight
# Cards that are sold and rented everywhere: the list is a buyer's, not the whole catalogue.
COMMON = (
    *("RTX 3090", "RTX 4090", "RTX 5090", "A10", "L4", "L40S", "A100 40GB", "A100 80GB"),
    *("H100", "H100 PCIe", "H200", "B200"),
)


@dataclass(frozen=True, slots=True)
class Precision:
    """A variant's weights in one precision.

    `quantization` as in `model.quantization`. `repository` None: nobody's that batchr1 knows;
    `converted`: vLLM makes them from 16-bit weights while it loads. `arch` says how they are
    stored.
    """

    name: str
    quantization: str | None
    repository: str | None
    arch: Architecture
    converted: bool = False

    @property
    def weight_bytes(self) -> int:
        """On one GPU that holds all of them."""
        return self.arch.weight_bytes(self.quantization)


@dataclass(frozen=True, slots=True)
class GpuSet:
    """GPUs of one kind, and how a model is put on them."""

    gpu: str
    count: int
    fit: Fit


def precisions(entry: Variant) -> tuple[Precision, ...]:
    """List bf16, FP8 and 4 bits, published or not.

    4 bits as w4a16 where there is a choice.
    """
    arch = Architecture.of_config(entry.config)
    plain = replace(arch, stored_as=None)
    own = entry.repo or str(entry.path)
    is_fp8 = arch.stored == "fp8"
    four_bits = next((q for q in ("w4a16", "awq", "gptq") if q in entry.quantized), "w4a16")
    return (
        Precision("bf16", None, None if is_fp8 else own, plain),
        Precision(
            "FP8",
            "fp8",
            entry.quantized.get("fp8", own),
            plain,
            converted="fp8" not in entry.quantized,
        ),
        Precision("4 bit", four_bits, entry.quantized.get(four_bits), plain),
    )


def demand(entry: Variant) -> Workload:
    """Make a maths job of 1,000 rows.

    Each is answered as far as DeepSeek lets the model write.
    """
    new_tokens = min(entry.generation_len, entry.context_len)
    completions = default_lengths("math", new_tokens)
    return Workload(PROMPTS, completions, PROMPTS.rows, new_tokens, entry.context_len)


def on_gpus(entry: Variant, precision: Precision, gpu: str, count: int) -> Fit | None:
    """Fit the variant on these GPUs.

    None where it cannot be cut so.
    """
    devices = named_machine(gpu, count=count).devices
    return best_fit(
        precision.arch, precision.quantization, demand(entry), EngineConstraints(), devices
    )


def smallest_set(entry: Variant, precision: Precision) -> GpuSet | None:
    """Find the common GPUs with the least memory that hold it.

    Of equal ones, those with fewest GPUs.
    """
    for gpu, count in _sets_by_memory():
        if GPUS[gpu].memory_gib * count * 2**30 < precision.weight_bytes:
            continue
        fit = on_gpus(entry, precision, gpu, count)
        if fit is not None and fit.fits:
            return GpuSet(gpu, count, fit)
    return None


def _sets_by_memory() -> Iterator[tuple[str, int]]:
    sets = [(GPUS[name].memory_gib * count, count, name) for name in COMMON for count in GPU_COUNTS]
    for _, count, gpu in sorted(sets, key=lambda s: s[:2]):
        yield gpu, count
