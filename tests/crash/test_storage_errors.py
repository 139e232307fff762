"""A storage fault at any call ends a command with 75 or is survived, and loses nothing."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from paused_runs import Case
from pauses import Pause, chosen, without_beats

from batchr1.cli.main import main
from batchr1.errors import BatchError, ModelError, StorageError
from batchr1.models.files import check_header
from batchr1.storage.errors import storage_error

FAULTS = ["EIO", "ESTALE", "ENOSPC", "EDQUOT", "EMFILE", "ENFILE", "EBUSY", "ENOLCK"]


def failing(name: str) -> Callable[[], None]:
    def fail() -> None:
        raise OSError(getattr(errno, name), "made up")

    return fail


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_machine_is_75_wherever_it_is_met(name: str) -> None:
    for kind in (BatchError, ModelError):
        error = storage_error(OSError(getattr(errno, name), "x"), "/out", lasting=kind)
        assert (type(error), error.exit_code) == (StorageError, 75)


@pytest.mark.usefixtures("warm_workers")
@pytest.mark.parametrize("calls", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_a_run_with_a_fault_at_a_storage_call_ends_with_75(
    tmp_path: Path, calls: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_beats(monkeypatch)
    case = Case(tmp_path, "plain", str(tmp_path / "out"))
    with Pause(case.uri, 0, lambda: None).armed() as count:
        assert case.run() == 0
    numbers = chosen(count.count)
    if calls == "some":
        numbers = [1, 3, 10, 30, count.count // 2]
    for number in numbers:
        case.reset()
        with Pause(case.uri, number, failing(FAULTS[number % 2])).armed() as pause:
            try:
                code = case.run()
            except BatchError as error:
                code = error.exit_code
        assert code in (0, 75), (number, pause.place)
        print(f"FAULT {number} of {count.count}: {code} {pause.place}", flush=True)
        assert case.run() == 0
        case.check()


def test_a_fault_outside_of_a_run_is_75_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import click.testing

    import batchr1.cli.status.entry

    monkeypatch.setattr(batchr1.cli.status.entry, "_open", lambda target: failing("EIO")())
    found = click.testing.CliRunner().invoke(main, ["status", str(tmp_path)])
    assert found.exit_code == 75
    assert "the disk reports an error (got EIO)" in found.stderr


GARBAGE = {
    "empty": b"",
    "short": b"\x01\x02",
    "text": b"<!DOCTYPE html><html>not found</html>",
    "a length beyond the end": (10**6).to_bytes(8, "little") + b"{}",
    "a length of exabytes": b"\xff" * 8 + b"{}",
    "a length of nothing": bytes(8) + b"{}",
    "no JSON": (5).to_bytes(8, "little") + b"hello",
    "a list": (2).to_bytes(8, "little") + b"[]",
    "no text": (4).to_bytes(8, "little") + b"\xff\xfe\xfd\xfc",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_weights_with_a_garbage_header_are_refused(name: str, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(GARBAGE[name])
    with pytest.raises(ModelError, match="not a safetensors file"):
        check_header(weights)


def test_weights_with_a_header_pass(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes((2).to_bytes(8, "little") + b"{}")
    check_header(weights)
