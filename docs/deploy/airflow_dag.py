"""Airflow 3: a run of batchr1 for each date.

It starts at ten in the evening. Catchup back-fills every date since START. What ended with 75
(storage, engine, a spot machine) or was killed is tried again and goes on. What would fail again
(1, 2, 4) and what is complete but for failed rows (3) ends `night`, and `outcome` fails with that
code at once: alert there. No --stop-at: its 75 would be tried again in the same morning. A run that
is stopped (dagrun_timeout, or by hand) gets SIGTERM, saves, and goes on when it is cleared.

Checked: Airflow 3.3.2 loads it (DagBag); its operators run both tasks with a stand-in for batchr1,
for each exit code, and stop it; a run of the DAG tries 75 again (`airflow dags test`). All that by
`make airflow`, tests/docs/test_airflow.py. Not run by a scheduler.
"""

from datetime import timedelta

import pendulum
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

START = pendulum.datetime(2026, 11, 1, tz="Europe/Berlin")
FOLDER = "/srv/nightly"  # holds jobs/ and what they name; keys come from the worker's environment

# {{ ds }} is the date that the run is for, also in a back-fill. `outcome` reads its last line.
NIGHT = """
/opt/batchr1/bin/batchr1 run jobs/nightly.yaml --date {{ ds }} --grace 60s --log-format json
code=$?
echo "$code"
case "$code" in 0 | 1 | 2 | 3 | 4) ;; *) exit "$code" ;; esac
"""

with DAG(
    "batchr1_nightly",
    schedule="0 22 * * *",
    start_date=START,
    catchup=True,
    max_active_runs=1,  # two dates at once do not see what the other has under way
) as dag:
    night = BashOperator(
        task_id="night",
        bash_command=NIGHT,
        cwd=FOLDER,
        append_env=True,
        retries=10,
        retry_delay=timedelta(minutes=5),
    )
    outcome = BashOperator(
        task_id="outcome",
        bash_command="exit {{ ti.xcom_pull(task_ids='night') }}",
        retries=0,
    )
    night >> outcome
