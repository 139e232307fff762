"""Fixtures that more than one test file uses: S3 servers with a bucket, a hub, a real output."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hub_server
import hypothesis
import pytest
from hub_server import Hub
from s3_fakes import S3, FaultyS3
from serving import serving
from warm_workers import Standing, WarmWorkers

if TYPE_CHECKING:
    from hub_machine import Machine

# A machine that others use, too, makes an example slow: that is no fault of the code.
hypothesis.settings.register_profile("any-machine", deadline=None)
hypothesis.settings.load_profile("any-machine")

S3_VARIABLES = {
    "AWS_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
}


@pytest.fixture(autouse=True)
def no_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine adds no lines about what a run prepares to what tests compare."""
    monkeypatch.setattr("batchr1.driver.monitor.stages.LOGGED_AFTER_S", 600.0)


@pytest.fixture(scope="session")
def warm_process() -> Iterator[WarmWorkers]:
    workers = WarmWorkers()
    yield workers
    workers.close()


@pytest.fixture
def warm_workers(warm_process: WarmWorkers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers on this machine are forked where all is imported: many runs in a short time."""
    monkeypatch.setattr("batchr1.executors.worker_process.subprocess", Standing(warm_process))


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def faulty_s3(s3_moto: S3) -> Iterator[FaultyS3]:
    """An S3 server that fails as told."""
    with serving(FaultyS3()) as server:
        yield server


@pytest.fixture
def s3_moto(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> S3:
    """An empty bucket in a moto server of this process; any key opens it."""
    for name in S3_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return _bucket(moto_endpoint, real=False)


@pytest.fixture
def s3_real(monkeypatch: pytest.MonkeyPatch) -> S3:
    """An empty bucket in the server that BATCHR1_TEST_S3_ENDPOINT names; AWS_ACCESS_KEY_ID and its
    secret open it.
    """
    endpoint = os.environ.get("BATCHR1_TEST_S3_ENDPOINT")
    if not endpoint:
        pytest.skip(
            "BATCHR1_TEST_S3_ENDPOINT is not set: run tests/helpers/s3_server.py pytest -m s3"
        )
    for name in S3_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return _bucket(endpoint, real=True)


@pytest.fixture(
    params=[
        pytest.param("s3_moto", id="moto"),
        pytest.param("s3_real", id="real", marks=pytest.mark.s3),
    ]
)
def s3(request: pytest.FixtureRequest) -> S3:
    """An empty bucket: in moto by default, in a real server with `-m s3`."""
    bucket: S3 = request.getfixturevalue(request.param)
    return bucket


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub on loopback, empty."""
    with hub_server.serving() as hub:
        yield hub


@pytest.fixture
def machine(hub: Hub, tmp_path: Path) -> Iterator[Machine]:
    """A machine that knows that hub; processes that a failed test left on it are killed."""
    from hub_machine import Machine

    machine = Machine(tmp_path / "home", hub.url)
    yield machine
    for process in machine.started:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture(scope="session")
def real_output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a job of forty rows left: driver, worker process and Parquet are the real ones. To be
    read only.
    """
    from replay_job import questions, replay, run_replay, write_job

    folder = tmp_path_factory.mktemp("real")
    questions(40).write_parquet(folder / "in.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "batchr1.driver.monitor.recorder.RECORD_EVERY_S", 0.0
        )  # as if every second were a minute
        job = write_job(folder, output={"keep": ["problem"]})
        run_replay(job, replay(step_s=0.05, mean_len=60.0, max_num_seqs=4))
    return folder / "out"


def _bucket(endpoint: str, *, real: bool) -> S3:
    s3 = S3(endpoint, f"test-{secrets.token_hex(6)}", real)
    s3.client().create_bucket(Bucket=s3.bucket)
    return s3
