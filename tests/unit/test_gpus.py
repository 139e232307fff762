"""GPUs by name, as people and drivers write them; figures that no datasheet gives."""

from __future__ import annotations

import pytest

from batchr1.errors import JobError
from batchr1.sizing.gpus import GPUS, gpu_named, known_gpu, other_maker


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("rtx4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("RTX 4090 24 GB", "RTX 4090"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA GeForce RTX 5090", "RTX 5090"),
        ("NVIDIA A10", "A10"),
        ("l4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("A100-PCIE-40GB", "A100 40GB"),
        ("a100 80", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("h100-sxm", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("H200 141GB", "H200"),
        ("NVIDIA B200", "B200"),
        *((name, name) for name in GPUS),
    ],
)
def test_a_name_is_understood_as_it_is_commonly_written(written: str, name: str) -> None:
    assert gpu_named(written) is GPUS[name]


KNOWN = (
    "RTX 3090, RTX 4090, RTX 5090, A10, L4, L40S, A100 40GB, A100 80GB, H100, H100 PCIe, H200, B200"
)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("A100", "unknown GPU (got 'A100'). Did you mean A100 40GB or A100 80GB?"),
        ("L40", "unknown GPU (got 'L40'). Did you mean L40S or L4?"),
        (
            "RTX 4090 Laptop GPU",
            "unknown GPU (got 'RTX 4090 Laptop GPU'). Did you mean RTX 4090 or RTX 5090?",
        ),
        ("RTX 4090 48GB", "unknown GPU (got 'RTX 4090 48GB'). Did you mean RTX 4090 or RTX 5090?"),
        ("H100 NVL", "unknown GPU (got 'H100 NVL'). Did you mean H100?"),
        ("M40", f"unknown GPU (got 'M40'). Known: {KNOWN}; for others give --vram GIB."),
        ("", f"unknown GPU (got ''). Known: {KNOWN}; for others give --vram GIB."),
    ],
)
def test_another_card_is_not_taken_for_its_sibling(written: str, message: str) -> None:
    assert known_gpu(written) is None
    with pytest.raises(JobError) as caught:
        gpu_named(written)
    assert str(caught.value) == f"--gpu: {message}"


@pytest.mark.parametrize(
    ("written", "maker"),
    [
        ("MI300X", "AMD"),
        ("AMD Instinct MI250", "AMD"),
        ("RX 7900 XTX", "AMD"),
        ("Radeon Pro W7900", "AMD"),
        ("M2 Ultra", "Apple"),
        ("Apple M4 Pro (24GB)", "Apple"),
        ("m1", "Apple"),
        ("Gaudi 3", "Intel"),
    ],
)
def test_gpus_of_other_makers_are_refused_with_what_to_use(written: str, maker: str) -> None:
    with pytest.raises(JobError) as caught:
        gpu_named(written)
    assert str(caught.value) == (
        f"--gpu: {maker} GPUs are not supported (got {written!r}, need NVIDIA's CUDA). Use an "
        "NVIDIA GPU, such as RTX 4090 or H200; small models also run on the CPU (--gpus none)."
    )


@pytest.mark.parametrize(
    "written", [*GPUS, "M40", "M60", "A1000", "V100", "RTX 4090 Laptop GPU", "T4"]
)
def test_no_nvidia_gpu_is_taken_for_another_makers(written: str) -> None:
    assert other_maker(written) is None


# Gigabytes on the box, in GiB: CUDA never gives more, and at most 9 % less (error correction, the
# driver).
ON_THE_BOX = {
    "RTX 3090": 24,
    "RTX 4090": 24,
    "RTX 5090": 32,
    "A10": 24,
    "L4": 24,
    "L40S": 48,
    "A100 40GB": 40,
    "A100 80GB": 80,
    "H100": 80,
    "H100 PCIe": 80,
    "H200": 141,
    "B200": 180,
}


@pytest.mark.parametrize("name", GPUS)
def test_memory_is_what_cuda_gives_and_a_little_less_than_on_the_box(name: str) -> None:
    gigabytes = ON_THE_BOX[name]
    assert 0.91 * gigabytes < GPUS[name].memory_gib < gigabytes


def test_formats_follow_from_the_compute_capability() -> None:
    assert {g.name for g in GPUS.values() if g.fp8} == {
        "RTX 4090",
        "RTX 5090",
        "L4",
        "L40S",
        "H100",
        "H100 PCIe",
        "H200",
        "B200",
    }
    assert all(g.bf16 for g in GPUS.values())
