"""Jobs on a real Ray cluster: a head and nodes that are raylets of their own, on this machine.

Nodes are killed with everything on them and added while a job runs. What the replay engine does
here, vLLM does with `-m "slow and s3"`, writing to a real S3 server.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from process_tree import Tree, tree, until
from ray_cluster import RayCluster, ray_cluster
from replay_job import keys_of, questions, replay, rows_of, wanted_keys, write_job
from s3_fakes import S3

from batchr1.output.folder import Output

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

HELPER = str(Path(__file__).parents[1] / "helpers/replay_job.py")
PROBLEMS = Path(__file__).parents[2] / "jobs/data/math.parquet"
ROWS = 800
END_S = 15.0  # a driver was killed: so soon its workers must be gone


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """Two nodes, and after each test two again."""
    with ray_cluster(tmp_path_factory.mktemp("ray"), nodes=2) as running:
        yield running


def replay_on(cluster: RayCluster, folder: Path, **sections: Any) -> Path:
    questions(ROWS).write_parquet(folder / "in.parquet")
    executor = {"kind": "ray", "address": cluster.address, "shared_storage": True} | sections.pop(
        "executor", {}
    )
    job = write_job(
        folder,
        model={"variant": "r1-tiny", "engine_args": {"max_num_seqs": 8}},
        executor=executor,
        checkpoint={"every_s": 0.5},
        **sections,
    )
    script = replay(max_num_seqs=8, step_s=0.1)
    job.with_name("script.json").write_text(json.dumps(script))
    return job


def start(job: Path) -> Any:
    return tree([HELPER, str(job.with_name("script.json")), "run", str(job), "--json"], job.parent)


def parts(output: Path) -> int:
    return len(list((output / "data").glob("*"))) if (output / "data").exists() else 0


def record_of(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(max((output / ".batchr1/runs").glob("*.json")).read_text())
    return found


def assert_all_once(run: Tree, output: Path) -> dict[str, Any]:
    assert run.wait(600) == 0, run.stderr
    assert json.loads(run.stdout)["done"] == ROWS, "and nothing but the result is on stdout"
    assert keys_of(rows_of(output)) == wanted_keys(questions(ROWS))
    assert (output / "_SUCCESS").exists()
    assert list((output / ".batchr1/staging").glob("*")) == []
    assert list((output / ".batchr1/inflight").glob("*")) == []
    return record_of(output)


def test_a_driver_that_is_killed_takes_its_workers_along_and_the_next_run_goes_on(
    tmp_path: Path, cluster: RayCluster
) -> None:
    job, output = replay_on(cluster, tmp_path), tmp_path / "out"
    with start(job) as run:
        until(lambda: parts(output) > 4)
        os.kill(run.driver.pid, signal.SIGKILL)
        run.driver.wait()
        until(
            lambda: not cluster.workers() and not cluster.relays(),
            END_S,
            "the end of workers and relays",
        )
    before = parts(output)
    with start(job) as run:
        record = assert_all_once(run, output)
    assert parts(output) > before
    assert record["taken_over"]["tokens"] > 0


def test_a_node_is_killed_and_one_is_added_and_every_row_comes_once(
    tmp_path: Path, cluster: RayCluster
) -> None:
    job, output = replay_on(cluster, tmp_path), tmp_path / "out"
    with start(job) as run:
        until(lambda: parts(output) > 4 and len(cluster.workers()) == 2)
        cluster.kill()
        until(
            lambda: len(cluster.workers()) == 1, END_S, "the end of the worker on the killed node"
        )
        cluster.add()
        record = assert_all_once(run, output)
    events = [(event["worker"], event["event"]) for event in record["replicas"]["events"]]
    lost = [event for _, event in events].count(
        "lost"
    )  # again where Ray takes the dead node for alive for a while
    assert record["tally"]["restarts"] == lost >= 1
    assert [event for _, event in events].count("ready") == 3, (
        "two at first, and one on the new node"
    )
    assert record["tally"]["carried"] > 0, "what the lost node had saved was not generated again"
    assert record["replicas"]["given_up"] == {}
    until(lambda: not cluster.workers() and not cluster.relays(), END_S, "the end of all workers")


def test_a_node_that_joins_gets_a_replica_up_to_the_most_that_is_asked_for(
    tmp_path: Path, cluster: RayCluster
) -> None:
    job, output = replay_on(cluster, tmp_path, executor={"replicas": 3}), tmp_path / "out"
    with start(job) as run:
        until(lambda: parts(output) > 1)
        cluster.add()
        cluster.add()
        record = assert_all_once(run, output)
    cluster.kill()
    cluster.kill()
    ready = {event["worker"] for event in record["replicas"]["events"] if event["event"] == "ready"}
    assert ready == {0, 1, 2}


def test_killed_at_random_a_job_ends_with_every_row_once(
    tmp_path: Path, cluster: RayCluster
) -> None:
    """Driver, relay, worker and node, in random order, at random moments."""
    rng, job, output = random.Random(7), replay_on(cluster, tmp_path), tmp_path / "out"
    targets = rng.sample(["driver", "relay", "worker", "node"], 4)
    while targets:
        with start(job) as run:
            over = False
            while targets and not over:
                goal = parts(output) + rng.randint(1, 3)
                until(
                    lambda goal=goal: (
                        run.driver.poll() is not None
                        or (parts(output) >= goal and cluster.workers())
                    )
                )
                assert run.driver.poll() is None, (
                    f"the run was over before a {targets[-1]} could be killed"
                )
                time.sleep(rng.uniform(0.0, 0.5))
                match targets.pop():
                    case "driver":
                        os.kill(run.driver.pid, signal.SIGKILL)
                        run.driver.wait()
                        until(lambda: not cluster.workers(), END_S, "the end of all workers")
                        over = True
                    case "relay":
                        os.kill(rng.choice(cluster.relays()), signal.SIGKILL)
                    case "worker":
                        os.kill(rng.choice(cluster.workers()), signal.SIGKILL)
                    case _:
                        cluster.kill()
                        cluster.add()
            if not over:
                assert_all_once(run, output)
                return
    with start(job) as run:
        assert_all_once(run, output)


def test_without_a_cluster_a_run_says_so(tmp_path: Path) -> None:
    questions(3).write_parquet(tmp_path / "in.parquet")
    executor = {"kind": "ray", "address": "127.0.0.1:1", "shared_storage": True}
    job = write_job(tmp_path, executor=executor)
    job.with_name("script.json").write_text(json.dumps(replay()))
    with start(job) as run:
        assert run.wait(120) == 2
        assert "executor.address: no Ray cluster answers (got '127.0.0.1:1'" in run.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.s3
def test_vllm_on_a_cluster_writes_to_s3_while_a_node_is_killed_and_one_is_added(
    tmp_path: Path, s3_real: S3, cluster: RayCluster
) -> None:
    job = write_job(
        tmp_path,
        model={"variant": "r1-tiny", "engine_args": {"max_num_seqs": 8}},
        input={"path": str(PROBLEMS), "gold": "answer", "limit": 300},
        output={"path": f"s3://{s3_real.bucket}/out", "rows_per_part": 10},
        sampling={"max_tokens": 1024},
        storage={"endpoint": s3_real.endpoint},
        executor={"kind": "ray", "address": cluster.address},
        checkpoint={"every_s": 1},
    )
    output = Output(s3_real.storage("out"))
    with tree(["-m", "batchr1", "run", str(job), "--json"], tmp_path) as run:
        until(
            lambda: run.driver.poll() is not None or len(output.storage.list_files("data")) > 3, 900
        )
        assert run.driver.poll() is None, run.stderr
        cluster.kill()
        cluster.add()
        assert run.wait(1200) == 0, run.stderr
        summary = json.loads(run.stdout)
    rows = pl.concat(
        [pl.DataFrame(table) for table in output.tables(["id", "sample", "resumed_at"])]
    )
    assert keys_of(rows) == wanted_keys(pl.read_parquet(PROBLEMS).head(300))
    assert (summary["done"], summary["failed"], summary["given_up"]) == (300, 0, {})
    keys = [
        e["Key"]
        for e in s3_real.client().list_objects_v2(Bucket=s3_real.bucket, Prefix="out/")["Contents"]
    ]
    assert "out/_SUCCESS" in keys
    assert [key for key in keys if "/staging/" in key or "/inflight/" in key] == [], (
        "nothing is left over"
    )
    until(lambda: not cluster.workers() and not cluster.relays(), END_S, "the end of all workers")
    (record,) = output.storage.list_files(".batchr1/runs", suffix=".json")
    events = json.loads(output.storage.read_bytes(record.rel))["replicas"]["events"]
    print(f"\n{(rows['resumed_at'].list.len() > 0).sum()} rows resumed;", *events, sep="\n")
