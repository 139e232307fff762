"""docs/deploy/airflow_dag.py by the real Airflow, which `make airflow` puts into an environment of
its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
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


def airflow(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command with an Airflow whose data base, logs and DAGs are below `folder`."""
    settings = {
        "HOME": f"{folder}/home",
        "_CORE__DAGS_FOLDER": f"{folder}/dags",
        "_CORE__LOAD_EXAMPLES": "False",
    }
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {f"AIRFLOW_{name}": value for name, value in settings.items()}
    environment["PATH"] = f"{AIRFLOW.parent}:{environment['PATH']}"
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


def test_airflow_takes_the_dag_and_its_tasks_do_what_the_head_says(tmp_path: Path) -> None:
    (tmp_path / "batchr1").write_text(STAND_IN)
    (tmp_path / "batchr1").chmod(0o755)
    command = [
        AIRFLOW,
        ROOT / "tests/helpers/airflow_probe.py",
        ROOT / "docs/deploy/airflow_dag.py",
        tmp_path,
    ]
    codes = ["0", "1", "2", "3", "4", "75", "137"]
    done = airflow(tmp_path, *command, *codes)
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
    succeeded, _ = found["outcomes"].pop("0")
    assert succeeded
    assert found["outcomes"] == {
        code: [False, failed.format(code)] for code in ("1", "2", "3", "4")
    }
    assert found["stopped"] == "saved\n"
    words = "run jobs/nightly.yaml --date 2026-11-03 --grace 60s --log-format json"
    assert (tmp_path / "arguments").read_text().splitlines() == [words] * (len(codes) + 1)


def test_in_a_dag_run_75_is_tried_again_and_failed_rows_fail_the_outcome(tmp_path: Path) -> None:
    """All of it real but batchr1: Airflow's data base, its retries, what one task hands to the
    next.
    """
    dag = (ROOT / "docs/deploy/airflow_dag.py").read_text(encoding="utf-8")
    for installed, here in (
        ("/opt/batchr1/bin/batchr1", f"{tmp_path}/batchr1"),
        ("/srv/nightly", str(tmp_path)),
        ("timedelta(minutes=5)", "timedelta(seconds=1)"),
    ):
        assert installed in dag
        dag = dag.replace(installed, here)
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags/nightly.py").write_text(dag)
    stand_in = (
        '#!/bin/sh\necho "$@" >>arguments\n[ "$(wc -l <arguments)" = 1 ] && exit 75\nexit 3\n'
    )
    (tmp_path / "batchr1").write_text(stand_in)
    (tmp_path / "batchr1").chmod(0o755)
    migrated = airflow(tmp_path, AIRFLOW.parent / "airflow", "db", "migrate")
    assert migrated.returncode == 0, migrated.stderr
    run = airflow(
        tmp_path,
        AIRFLOW.parent / "airflow",
        "dags",
        "test",
        "batchr1_nightly",
        "2026-11-03T21:00:00+00:00",
    )
    said = run.stdout + run.stderr
    assert run.returncode == 1, said
    assert re.findall(r"non-zero exit code (\d+)\.$", said, re.MULTILINE) == ["75", "3"], said
    assert re.findall(r"end task task_id=(\w+)", said) == ["night", "night", "outcome"], said
    assert said.rstrip().endswith("DagRun failed")
    words = "run jobs/nightly.yaml --date 2026-11-03 --grace 60s --log-format json"
    assert (tmp_path / "arguments").read_text().splitlines() == [words] * 2
