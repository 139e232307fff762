"""docs/deploy: each file by the tool that reads it, where that is installed; its command by batchr1's own parser."""

from __future__ import annotations

import datetime as dt
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from batchr1.cli.main import main
from batchr1.cli.options import address, days, duration, next_time

DEPLOY = Path(__file__).parent.parent / "docs/deploy"
UNITS = ("batchr1-nightly.service", "batchr1-nightly.timer")
STAND_IN = '#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done >>"$ARGUMENTS"\n'


def text_of(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


def cron_command() -> str:
    [line] = [line for line in text_of("crontab").splitlines() if re.match(r"[\d*]", line)]
    *fields, command = line.split(None, 5)
    assert fields == ["0", "22", "*", "*", "*"]
    assert not re.search(r"(?<!\\)%", command), "cron takes a bare % for a line feed"
    return command.replace("\\%", "%")


def systemd_command() -> str:
    [line] = re.findall(r"^ExecStart=(.*)$", text_of("batchr1-nightly.service"), re.MULTILINE)
    shell, option, command = shlex.split(line)
    assert (shell, option) == ("/bin/sh", "-c")
    return command.replace("%%", "%")


def container() -> dict[str, Any]:
    pod = yaml.safe_load(text_of("cronjob.yaml"))["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    [only] = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] > (duration("60s") or 0)
    return dict(only)


def kubernetes_command() -> str:
    only = container()
    assert only["command"] == ["sh", "-c"]
    [command] = only["args"]
    return str(command)


def with_stand_ins(folder: Path, *names: str, text: str = STAND_IN) -> dict[str, str]:
    """An environment in which these programs write their arguments down, a line each."""
    bin = folder / "bin"
    bin.mkdir(exist_ok=True)
    for name in names:
        (bin / name).write_text(text)
        (bin / name).chmod(0o755)
    return os.environ | {"PATH": f"{bin}:{os.environ['PATH']}", "ARGUMENTS": str(folder / "arguments")}


def assert_is_a_good_command(words: list[str]) -> None:
    """The options are there, and their values mean something."""
    assert words[:2] == ["run", "jobs/nightly.yaml"]
    command = main.get_command(click.Context(main), "run")
    assert command is not None
    given = command.make_context("run", words[1:]).params
    today = dt.date.today()
    assert days(given["date"]) == [(today - dt.timedelta(days=1)).isoformat(), today.isoformat()]
    next_time(given["stop_at"], dt.datetime.now())
    address(given["metrics_port"])
    duration(given["grace"], "--grace")
    assert given["log_format"] == "json"


@pytest.mark.parametrize("command", [cron_command, systemd_command, kubernetes_command])
def test_what_a_scheduler_starts_is_a_good_command(tmp_path: Path, command: Any) -> None:
    environment = with_stand_ins(tmp_path, "batchr1")
    (tmp_path / "secrets.env").write_text("AWS_PROFILE=nightly\n")
    line = command().replace("/srv/nightly", str(tmp_path)).replace("/opt/batchr1/bin/batchr1", "batchr1")
    subprocess.run(["sh", "-c", line], env=environment, cwd=tmp_path, check=True)
    assert_is_a_good_command((tmp_path / "arguments").read_text().splitlines())


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    for name in UNITS:
        shutil.copy(DEPLOY / name, tmp_path)
    units = [str(tmp_path / name) for name in UNITS]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if "batchr1" in line]
    assert (done.returncode, ours) == (0, [])
    [when] = re.findall(r"^OnCalendar=(.*)$", text_of("batchr1-nightly.timer"), re.MULTILINE)
    subprocess.run(["systemd-analyze", "calendar", when], capture_output=True, check=True)


@pytest.mark.skipif(not shutil.which("kubernetes-validate"), reason="no kubernetes-validate here")
def test_kubernetes_knows_every_key_of_the_cron_job() -> None:
    command = ["kubernetes-validate", "--strict", str(DEPLOY / "cronjob.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_cron_job_starts_again_what_goes_on_and_nothing_else() -> None:
    job = yaml.safe_load(text_of("cronjob.yaml"))["spec"]["jobTemplate"]["spec"]
    [rule] = [rule for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert rule["onExitCodes"]["values"] == [1, 2, 3, 4]
    assert rule["onExitCodes"]["containerName"] == container()["name"]
    assert "--stop" not in kubernetes_command(), "the window is the deadline"


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck here")
def test_shellcheck_finds_nothing_in_the_slurm_script() -> None:
    done = subprocess.run(["shellcheck", str(DEPLOY / "nightly.sbatch")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_slurms_signal_reaches_batchr1_and_its_exit_code_comes_back(tmp_path: Path) -> None:
    environment = with_stand_ins(tmp_path, "sbatch")
    program = STAND_IN.replace("\n", "\ntrap 'kill $!; exit 75' TERM\nsleep 60 &\n", 1) + "wait\n"  # ready, then said
    (tmp_path / "bin/batchr1").write_text(program)
    (tmp_path / "bin/batchr1").chmod(0o755)
    script = subprocess.Popen(["bash", str(DEPLOY / "nightly.sbatch")], env=environment, cwd=tmp_path)
    end = time.monotonic() + 30
    while "--log-format" not in (tmp_path / "arguments").read_text() if (tmp_path / "arguments").exists() else True:
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.2)  # the script's own trap comes after the start
    script.send_signal(signal.SIGTERM)
    assert script.wait(30) == 75
    words = (tmp_path / "arguments").read_text().splitlines()
    assert words[:3] == ["--begin=22:00", "--dependency=singleton", "nightly.sbatch"]
    assert_is_a_good_command(words[3:])
