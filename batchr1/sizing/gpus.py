"""GPUs by name: memory, bandwidth, arithmetic, features of tensor cores.

Bandwidth and dense bf16 arithmetic are from NVIDIA's datasheets and architecture papers (where a
sheet gives the figure with sparsity, half of it; for GeForce the one with 32-bit accumulation):
GA102, Ada and Blackwell papers for the RTX cards; datasheets of A10, L4, L40S, A100, H100, H200;
the HGX B200 sheet. Compute capabilities: NVIDIA's list "CUDA GPUs".

`memory_gib` is not the number on the box: it is what CUDA gives a process as the total, after the
driver's and (on A10, L4, L40S) the error correction's share. Totals differ by up to 0.2 GiB between
drivers; the lower one is kept, in tenths of a GiB. H200 measured by this project (139.8). The
others from "total capacity" in people's out-of-memory reports: RTX 3090 23.69
(vllm-project/vllm#2140); RTX 4090 23.64 (ali-vilab/VGen#104), 23.52 under newer drivers; RTX 5090
31.37 (Wan-Video/Wan2.1#465); L4 22.03; A10 22.06; L40S 44.53 (Wan-Video/Wan2.1#205), its sibling
L40 44.40 (QwenLM/Qwen3-VL#2097); A100 40GB 42,298,834,944 bytes
(bottlerocket-os/bottlerocket#3873); A100 80GB 79.14 to 79.33 (hahnyuan/PB-LLM#3); H100 81,559 MiB
on the board (modal-labs/modal-client#2797), 79.18 for CUDA; B200 178.35. On the machine itself
NVML's figure replaces these (`sizing.devices`).

The cards of the second half stand here by their datasheets (V100, T4, A30, A40, RTX A6000, L20,
L40, RTX 6000 Ada, RTX PRO 6000 Blackwell, GH200, GB200, B300); A800 and H800 are A100 and H100 with
slower links, H20 is read from NVIDIA's sheet for China as quoted in vendors' lists. Their memory is
nvidia-smi's total in people's reports less half a GiB, which CUDA does not give: V100 16 GB 16,160
MiB, 32 GB 32,510; T4 15,360; A30 24,576; A40 46,068; A6000 49,140; L20 46,068; RTX 6000 Ada 49,140;
H20 97,871; RTX PRO 6000 97,887; GH200 97,871; GB200 189,471; B300 275,040. None of these was
measured by this project. Cards without bf16 (V100, T4) show the rate of their 16-bit floats.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from batchr1.errors import JobError

FP8_CAPABILITY = (8, 9)
BF16_CAPABILITY = (8, 0)
FP4_CAPABILITY = (10, 0)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU model.

    `memory_gib` as CUDA reports the total, `bandwidth_gb_s` in 10⁹ bytes per second, `bf16_tflops`
    dense; `fp8` and `bf16`: whether the tensor cores multiply in these formats.
    """

    name: str
    memory_gib: float
    bandwidth_gb_s: float
    capability: tuple[int, int]
    bf16_tflops: float
    fp8: bool
    bf16: bool


def _gpu(
    name: str,
    memory_gib: float,
    bandwidth_gb_s: float,
    capability: tuple[int, int],
    bf16_tflops: float,
) -> Gpu:
    fp8, bf16 = capability >= FP8_CAPABILITY, capability >= BF16_CAPABILITY
    return Gpu(name, memory_gib, bandwidth_gb_s, capability, bf16_tflops, fp8, bf16)


GPUS: dict[str, Gpu] = {
    g.name: g
    for g in (
        _gpu("RTX 3090", 23.7, 936, (8, 6), 71),
        _gpu("RTX 4090", 23.5, 1008, (8, 9), 165.2),
        _gpu("RTX 5090", 31.3, 1792, (12, 0), 209.5),
        _gpu("A10", 22.0, 600, (8, 6), 125),
        _gpu("L4", 22.0, 300, (8, 9), 121),
        _gpu("L40S", 44.4, 864, (8, 9), 362),
        _gpu("A100 40GB", 39.4, 1555, (8, 0), 312),
        _gpu("A100 80GB", 79.1, 2039, (8, 0), 312),  # SXM; the PCIe board reads 1,935 GB/s
        _gpu("H100", 79.1, 3350, (9, 0), 989),  # SXM
        _gpu("H100 PCIe", 79.1, 2000, (9, 0), 756),
        _gpu("H200", 139.8, 4800, (9, 0), 989),
        _gpu("B200", 178.3, 7700, (10, 0), 2250),  # as in HGX; "up to 8 TB/s" elsewhere
        _gpu("V100", 15.2, 900, (7, 0), 125),
        _gpu("V100 32GB", 31.2, 900, (7, 0), 125),
        _gpu("T4", 14.5, 320, (7, 5), 65),
        _gpu("A30", 23.5, 933, (8, 0), 165),
        _gpu("A40", 44.4, 696, (8, 6), 149.7),
        _gpu("RTX A6000", 47.4, 768, (8, 6), 154.8),
        _gpu("A800", 79.1, 2039, (8, 0), 312),
        _gpu("L20", 44.4, 864, (8, 9), 119.5),
        _gpu("L40", 44.4, 864, (8, 9), 181),
        _gpu("RTX 6000 Ada", 47.4, 960, (8, 9), 364.2),
        _gpu("H800", 79.1, 3350, (9, 0), 989),
        _gpu("H20", 95.0, 4000, (9, 0), 148),
        _gpu("GH200", 95.0, 4000, (9, 0), 989),  # with 96 GB; the later one has 144
        _gpu("RTX PRO 6000 Blackwell", 95.0, 1792, (12, 0), 503.8),
        _gpu("GB200", 184.5, 8000, (10, 0), 2500),
        _gpu("B300", 268.0, 8000, (10, 3), 2250),
    )
}

# Words of a full product name that say nothing a catalogued name needs, and the sizes on the boxes.
_NOISE = {
    "nvidia",
    "geforce",
    "tesla",
    "gpu",
    "gb",
    "sxm",
    "sxm4",
    "sxm5",
    "sxm6",
    "hbm2",
    "hbm2e",
    "hbm3",
    "hbm3e",
    "hgx",
    "sxm2",
    "generation",
    "superchip",
}
_ON_THE_BOX = {
    "RTX 3090": {"24gb"},
    "RTX 4090": {"24gb"},
    "RTX 5090": {"32gb"},
    "A10": {"24gb"},
    "L4": {"24gb"},
    "L40S": {"48gb"},
    "A100 40GB": {"pcie"},
    "A100 80GB": {"pcie"},
    "H100": {"80gb"},
    "H100 PCIe": {"80gb"},
    "H200": {"141gb"},
    "B200": {"180gb", "192gb"},
    "V100": {"16gb", "pcie"},
    "V100 32GB": {"pcie"},
    "T4": {"16gb"},
    "A30": {"24gb", "pcie"},
    "A40": {"48gb", "pcie"},
    "RTX A6000": {"48gb"},
    "A800": {"80gb", "pcie"},
    "L20": {"48gb"},
    "L40": {"48gb"},
    "RTX 6000 Ada": {"48gb"},
    "H800": {"80gb"},
    "H20": {"96gb"},
    "GH200": {"96gb", "480gb"},  # 480 is its processor's memory, which drivers put in the name
    "RTX PRO 6000 Blackwell": {"96gb", "workstation", "server", "edition", "max", "q"},
    "GB200": {"186gb", "192gb"},
    "B300": {"288gb", "ac"},
}
# Words that may be left out, where no other card would be meant.
_UNSAID: dict[str, tuple[set[str], ...]] = {
    "RTX PRO 6000 Blackwell": ({"rtx", "blackwell"}, {"rtx", "pro"}),
}

_SIZES = {"16gb", "32gb", "40gb", "80gb"}  # of cards that were sold with two

_OTHER_MAKERS = {
    "AMD": r"amd|radeon|instinct|mi ?\d{2,3}[a-z]?|(rx|pro w|w) ?\d{4}( ?xtx?| ?gre)?|gfx\d+|rocm",
    "Apple": r"apple|mac|metal|mps|m[1-9]( ?(pro|max|ultra))?( ?\d+ ?gb)?",
    "Intel": r"intel|arc|gaudi ?\d?|max 1\d{3}",
}


def gpu_named(name: str) -> Gpu:
    """Find the entry for a name as people or drivers write it.

    Such as "rtx4090" or "NVIDIA A100-SXM4-80GB".

    A card of another size or build ("RTX 4090 Laptop GPU", "L40") is not taken for its sibling.
    Raises `JobError` with the nearest names, and says so where the maker is not NVIDIA.
    """
    if found := known_gpu(name):
        return found
    if maker := other_maker(name):
        raise JobError(
            f"--gpu: {not_supported(maker)} (got {name!r}, need NVIDIA's CUDA). {INSTEAD}"
        )
    words = _words(name)
    sizes = [known for known in GPUS if _words(known) - words <= _SIZES and words & _words(known)]
    if sizes:
        near = sizes
    else:
        lower = {known.lower(): known for known in GPUS}
        near = [
            lower[n]
            for n in difflib.get_close_matches(
                " ".join(sorted(words, reverse=True)), lower, n=2, cutoff=0.6
            )
        ]
    known = f"Known: {', '.join(GPUS)}"
    if near:
        known = f"Did you mean {' or '.join(near)}"
    mark = "?" if near else "."
    raise JobError(
        f"--gpu: unknown GPU (got {name!r}). {known}{mark} For any other give --vram GIB."
    )


def known_gpu(name: str) -> Gpu | None:
    """As `gpu_named`; None where the catalogue has no such GPU."""
    words = _words(name)
    for gpu in GPUS.values():
        own = _words(gpu.name)
        said = any(own <= words | unsaid for unsaid in _UNSAID.get(gpu.name, ({"rtx"},)))
        if said and words - own <= _ON_THE_BOX[gpu.name]:
            return gpu
    return None


INSTEAD = (
    "Use an NVIDIA GPU, such as RTX 4090 or H200; small models also run on the CPU (--gpus none)."
)


def not_supported(maker: str) -> str:
    """Say that GPUs of another maker are not supported."""
    return f"{maker} GPUs are not supported"


def other_maker(name: str) -> str | None:
    """Name the maker of a GPU that is not NVIDIA's.

    AMD, Apple or Intel, for names such as "MI300X", "RX 7900 XTX" or "M2 Ultra".
    """
    text = " ".join(re.findall(r"[a-z0-9]+", name.lower()))
    for maker, pattern in _OTHER_MAKERS.items():
        first = re.match(rf"({pattern})\b", text)
        if first and (
            first.end() == len(text)
            or first.group() in ("amd", "radeon", "instinct", "apple", "mac", "intel")
        ):
            return maker
    return None


def _words(name: str) -> set[str]:
    """List the words that tell GPUs apart in a name.

    "NVIDIA A100-SXM4-80GB" → a100, 80gb; "rtx4090" → rtx, 4090.
    """
    text = re.sub(r"rtx(?=\d)", "rtx ", name.lower())
    text = re.sub(r"\b(\d{2,3}) ?(?:g|gb|gib)?\b", r"\1gb", text)
    return set(re.findall(r"[a-z0-9]+", text)) - _NOISE
