"""docs/deploy/airflow_dag.py by the real Airflow, which `make airflow` puts into an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
AIRFLOW = Path(os.environ.get("BATCHR1_AIRFLOW", ROOT / ".airflow/bin/python"))
STAND_IN = """#!/bin/sh
echo "$@" >>arguments
echo rows
read -r code <code
[ "$code" = wait ] || exit "$code"
trap 'echo saved >saved; exit 75' TERM
touch waits
while :; do sleep 0.05; done
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not AIRFLOW.exists(), reason="no Airflow here: `make airflow` sets it up"),
]


def test_airflow_takes_the_dag_and_its_tasks_do_what_the_head_says(tmp_path: Path) -> None:
    (tmp_path / "batchr1").write_text(STAND_IN)
    (tmp_path / "batchr1").chmod(0o755)
    command = [AIRFLOW, ROOT / "tests/airflow_probe.py", ROOT / "docs/deploy/airflow_dag.py", tmp_path]
    codes = ["0", "1", "2", "3", "4", "75", "137"]
    environment = os.environ | {"AIRFLOW_HOME": str(tmp_path / "home")}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run([*command, *codes], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["errors"], found["dags"]) == ({}, ["batchr1_nightly"])
    assert (found["catchup"], found["max_active_runs"]) == (True, 1)
    assert found["tasks"] == {"night": [10, ["outcome"]], "outcome": [0, []]}
    failed = "Bash command failed. The command returned a non-zero exit code {}."
    assert found["nights"] == {
        **{code: [True, code] for code in ("0", "1", "2", "3", "4")},
        **{code: [False, failed.format(code)] for code in ("75", "137")},  # tried again
    }
    assert found["outcomes"] == {
        "0": [True, found["outcomes"]["0"][1]],
        **{code: [False, failed.format(code)] for code in ("1", "2", "3", "4")},
    }
    assert found["stopped"] == "saved\n"
    words = "run jobs/nightly.yaml --date 2026-11-03 --grace 60s --log-format json"
    assert (tmp_path / "arguments").read_text().splitlines() == [words] * (len(codes) + 1)
