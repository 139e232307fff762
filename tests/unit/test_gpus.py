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
        ("Tesla V100-SXM2-16GB", "V100"),
        ("Tesla V100-SXM2-32GB", "V100 32GB"),
        ("Tesla T4", "T4"),
        ("a6000", "RTX A6000"),
        ("NVIDIA A800-SXM4-80GB", "A800"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("RTX PRO 6000", "RTX PRO 6000 Blackwell"),
        ("RTX 6000 Blackwell", "RTX PRO 6000 Blackwell"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "RTX PRO 6000 Blackwell"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA B300 SXM6 AC", "B300"),
        *((name, name) for name in GPUS),
    ],
)
def test_a_name_is_understood_as_it_is_commonly_written(written: str, name: str) -> None:
    assert gpu_named(written) is GPUS[name]


KNOWN = (
    "RTX 3090, RTX 4090, RTX 5090, A10, L4, L40S, A100 40GB, A100 80GB, H100, H100 PCIe, H200, "
    "B200, V100, V100 32GB, T4, A30, A40, RTX A6000, A800, L20, L40, RTX 6000 Ada, H800, H20, "
    "GH200, RTX PRO 6000 Blackwell, GB200, B300"
)
VRAM = "For any other give --vram GIB."


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("A100", "Did you mean A100 40GB or A100 80GB?"),
        ("RTX 4090 Laptop GPU", "Did you mean RTX 4090?"),
        ("RTX 4090 48GB", "Did you mean RTX 4090?"),
        ("V100 24GB", "Did you mean V100 or V100 32GB?"),
        ("H100 NVL", "Did you mean H100?"),
        ("Quadro RTX 6000", "Did you mean RTX A6000?"),
        ("Titan X", f"Known: {KNOWN}."),
        ("", f"Known: {KNOWN}."),
    ],
)
def test_another_card_is_not_taken_for_its_sibling(written: str, message: str) -> None:
    assert known_gpu(written) is None
    with pytest.raises(JobError) as caught:
        gpu_named(written)
    assert str(caught.value) == f"--gpu: unknown GPU (got {written!r}). {message} {VRAM}"


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


# Gigabytes on the box, in GiB: CUDA never gives more, and at most 10 % less (error correction, the
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
    "V100": 16,
    "V100 32GB": 32,
    "T4": 16,
    "A30": 24,
    "A40": 48,
    "RTX A6000": 48,
    "A800": 80,
    "L20": 48,
    "L40": 48,
    "RTX 6000 Ada": 48,
    "H800": 80,
    "H20": 96,
    "GH200": 96,
    "RTX PRO 6000 Blackwell": 96,
    "GB200": 186,
    "B300": 288,
}


@pytest.mark.parametrize("name", GPUS)
def test_memory_is_what_cuda_gives_and_a_little_less_than_on_the_box(name: str) -> None:
    gigabytes = ON_THE_BOX[name]
    assert 0.9 * gigabytes < GPUS[name].memory_gib < gigabytes


def test_formats_follow_from_the_compute_capability() -> None:
    assert {g.name for g in GPUS.values() if not g.fp8} == {
        *("V100", "V100 32GB", "T4", "RTX 3090", "A10", "A30", "A40", "RTX A6000"),
        *("A100 40GB", "A100 80GB", "A800"),
    }
    assert {g.name for g in GPUS.values() if not g.bf16} == {"V100", "V100 32GB", "T4"}
