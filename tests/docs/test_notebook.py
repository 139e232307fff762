"""The notebook of docs/python.md, run by nbclient in a kernel: `make notebook`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
INSTALLED = REPOSITORY / ".notebook"
RUN = """
import sys, nbformat, nbclient
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=1500, resources={"metadata": {"path": "."}}).execute()
nbformat.write(notebook, sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_main_job_runs_in_a_notebook(tmp_path: Path) -> None:
    if not (INSTALLED / "nbclient").is_dir():
        pytest.skip("needs nbclient and a kernel: make notebook")
    page = (REPOSITORY / "docs/python.md").read_text(encoding="utf-8")
    cells = [
        {
            "cell_type": "code",
            "source": source,
            "metadata": {},
            "outputs": [],
            "id": f"cell{at}",
            "execution_count": None,
        }
        for at, source in enumerate(re.findall(r"```py\n(.*?)```", page, re.DOTALL))
    ]
    assert len(cells) == 2
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "math.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    shutil.copytree(REPOSITORY / "jobs", tmp_path / "jobs")
    paths = [str(INSTALLED), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "JUPYTER_PATH": str(INSTALLED / "share/jupyter"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN, "math.ipynb"],
        cwd=tmp_path,
        env=env,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    ran = json.loads((tmp_path / "math.ipynb").read_text(encoding="utf-8"))["cells"]
    told = "".join(
        "".join(output["text"]) for output in ran[0]["outputs"] if output["output_type"] == "stream"
    )
    assert "240/240" in told, "tqdm's bar"
    results = [
        "".join(output["data"]["text/plain"])
        for cell in ran
        for output in cell["outputs"]
        if output["output_type"] == "execute_result"
    ]
    assert results[0] == "(240, 0)"
    assert "family" in results[1]
    assert len(list((tmp_path / "out/math-notebook/data").glob("*.parquet"))) >= 1
