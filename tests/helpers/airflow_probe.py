"""Program for Airflow's own Python: a DAG file as its DagBag reads and runs it, in JSON.

`python airflow_probe.py DAG FOLDER CODE…` runs the tasks with FOLDER/batchr1 for batchr1, once for
each exit code that it is to end with, and once more to be stopped.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from airflow.dag_processing.dagbag import DagBag  # type: ignore[import-not-found]
from airflow.exceptions import AirflowException  # type: ignore[import-not-found]

DAG_ID, DS = "batchr1_nightly", "2026-11-03"
INSTALLED = "/opt/batchr1/bin/batchr1"


class Messages:
    """A task instance, as far as templates look at it."""

    def __init__(self, pushed: object) -> None:
        self.pushed = pushed

    def xcom_pull(self, *, task_ids: str) -> object:
        assert task_ids == "night"
        return self.pushed


def task(bag: Any, name: str, folder: Path, pushed: object = None) -> Any:
    """A fresh task, rendered for a date."""
    operator = bag.dags[DAG_ID].get_task(name).prepare_for_execution()
    operator.render_template_fields({"ds": DS, "ti": Messages(pushed)})
    assert isinstance(operator.bash_command, str)
    operator.bash_command = operator.bash_command.replace(INSTALLED, f"{folder}/batchr1")
    operator.cwd = str(folder)
    return operator


def outcome_of(operator: Any) -> Any:
    """[True, what it hands on], or [False, why it failed]"""
    try:
        return [True, operator.execute({})]
    except AirflowException as exc:
        return [False, str(exc)]


def stopped(bag: Any, folder: Path) -> Any:
    """What a stand-in that waits for a signal wrote down after the task was told to stop."""
    (folder / "code").write_text("wait")
    operator = task(bag, "night", folder)
    thread = threading.Thread(target=outcome_of, args=(operator,))
    thread.start()
    while not (folder / "waits").exists():
        time.sleep(0.05)
    operator.on_kill()
    thread.join()
    while not (folder / "saved").exists():
        time.sleep(0.05)
    return (folder / "saved").read_text()


def main() -> None:
    path, folder, codes = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    bag = DagBag(path)
    found: dict[str, Any] = {
        "errors": {str(k): str(v) for k, v in bag.import_errors.items()},
        "dags": list(bag.dags),
    }
    if DAG_ID in bag.dags:
        dag = bag.dags[DAG_ID]
        found["catchup"], found["max_active_runs"] = dag.catchup, dag.max_active_runs
        found["tasks"] = {
            each.task_id: [each.retries, sorted(each.downstream_task_ids)] for each in dag.tasks
        }
        found["nights"], found["outcomes"] = {}, {}
        for code in codes:
            (folder / "code").write_text(code)
            done, said = found["nights"][code] = outcome_of(task(bag, "night", folder))
            if done:
                found["outcomes"][code] = outcome_of(task(bag, "outcome", folder, said))
        found["stopped"] = stopped(bag, folder)
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
