"""docs/deploy and the Dockerfile, each file read by its own tool.

Its command is parsed by batchr1's own parser.

The tools are pinned in requirements/dev.txt, but for systemd. airflow_dag.py is also loaded by the
real Airflow, and spot-notice.sh run beside a real job: tests/docs/test_airflow.py,
tests/docs/test_spot_notice.py.
"""

from __future__ import annotations

import ast
import datetime as dt
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import jinja2
import pytest
import yaml
from docker.utils import exclude_paths

from batchr1.cli.main import main
from batchr1.cli.options import address, days, duration, next_time

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs/deploy"
UNITS = ("batchr1-nightly.service", "batchr1-nightly.timer", "batchr1-spot-notice.service")
STAND_IN = '#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done >>"$ARGUMENTS"\n'
CHECKED: set[str] = set()

Test = TypeVar("Test", bound=Callable[..., None])


def checks(*names: str) -> Callable[[Test], Test]:
    """The test gives these files to the tool that they are made for."""
    CHECKED.update(names)
    return lambda test: test


def tool(
    name: str, *arguments: str | Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program of this environment or of the machine. In CI none may be missing."""
    found = shutil.which(
        name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    if not found:
        assert not os.environ.get("CI"), f"{name} is not installed"
        pytest.skip(f"{name} is not installed")
    words = [found, *map(str, arguments)]
    return subprocess.run(
        words, capture_output=True, text=True, env=os.environ | (env or {}), cwd=ROOT
    )


def text_of(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


def test_every_file_has_a_check_and_says_what_was_checked_and_what_was_not() -> None:
    files = sorted(DEPLOY.iterdir())
    assert {path.name for path in files} | {"Dockerfile"} == CHECKED
    for path in [*files, ROOT / "Dockerfile"]:
        head = path.read_text(encoding="utf-8")[:2000]
        assert re.search(r"Checked(:| by )", head), path
        assert re.search(r"\bNot (run|built|tried)\b", head), path


# Dockerfile: hadolint, and what the build is given.


def docker_lines(instruction: str) -> list[str]:
    """What stands behind an instruction of the Dockerfile, each time, on one line."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return [
        " ".join(rest.split())
        for rest in re.findall(rf"^{instruction}\s+(.*)$", text, re.MULTILINE)
    ]


@checks("Dockerfile")
def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = tool("hadolint", "--no-color", "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_vllms_of_a_version_that_batchr1_takes_and_keeps_its_engine() -> None:
    [base] = docker_lines("FROM")
    version = re.fullmatch(r"vllm/vllm-openai:v(\d+)\.(\d+)\.(\d+)(@sha256:[0-9a-f]{64})?", base)
    assert version, base
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["optional-dependencies"]["cuda"] == ["vllm>=0.26,<0.34"]
    assert (0, 26) <= (int(version[1]), int(version[2])) < (0, 34)
    added = {
        line.split("==")[0] for line in (ROOT / "requirements/cuda.txt").read_text().splitlines()
    }
    assert not added & {
        "torch",
        "vllm",
        "transformers",
        "tokenizers",
        "triton",
        "numpy",
        "pydantic",
        "jinja2",
        "ray",
    }
    assert not [name for name in added if name.startswith("nvidia-") and name != "nvidia-ml-py"]
    assert all("--no-deps" in line for line in docker_lines("RUN") if "pip install" in line)


def test_the_build_is_given_what_is_copied_and_nothing_else(tmp_path: Path) -> None:
    """By docker's own reading of .dockerignore."""
    patterns = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in patterns if line and not line.startswith("#")]
    for name in (
        ".git/config",
        "out/x.parquet",
        "secrets.env",
        "batchr1/cli/__pycache__/x.pyc",
        "jobs/data/x",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    sources = [source for line in docker_lines("COPY") for source in line.split()[:-1]]
    for source in sources:
        assert (ROOT / source).exists(), source
        (tmp_path / source).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_file():
            shutil.copy(ROOT / source, tmp_path / source)
    (tmp_path / "batchr1/__init__.py").touch()
    given = {path for path in exclude_paths(str(tmp_path), patterns) if (tmp_path / path).is_file()}
    files = {source for source in sources if (ROOT / source).is_file()} | {"batchr1/__init__.py"}
    assert given - {"Dockerfile", ".dockerignore"} == files


def test_the_container_is_a_user_with_tini_a_cache_and_a_health_check(tmp_path: Path) -> None:
    assert docker_lines("USER")[-1] == "1000"
    assert json.loads(docker_lines("ENTRYPOINT")[-1]) == ["tini", "--", "batchr1"]
    [cache] = docker_lines("VOLUME")
    assert f"HF_HOME={cache}" in docker_lines("ENV")[-1].split()
    check = docker_lines("HEALTHCHECK")[-1]
    command = json.loads(check[check.index("CMD") + 3 :])
    environment = with_stand_ins(tmp_path, "batchr1")
    subprocess.run(command, env=environment | {"BATCHR1_OUTPUT": ""}, check=True)
    assert not (tmp_path / "arguments").exists(), "nothing is named, and nothing is watched"
    subprocess.run(command, env=environment | {"BATCHR1_OUTPUT": "s3://bucket/a b"}, check=True)
    assert_asks_for_health((tmp_path / "arguments").read_text().splitlines(), "s3://bucket/a b")


# docker-compose.yml: docker compose itself.


def composed(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What Compose makes of the file: its only service, as JSON."""
    files = ["--file", DEPLOY / "docker-compose.yml", "--project-directory", ROOT]
    return tool("docker-compose", *files, "config", "--format", "json", env=environment)


@checks("docker-compose.yml")
def test_docker_compose_takes_its_file_and_starts_a_good_command() -> None:
    done = composed({"JOB": "jobs/math.yaml", "OUTPUT": "out/math"})
    assert (done.returncode, done.stderr) == (0, "")
    service = json.loads(done.stdout)["services"]["batchr1"]
    params = parsed("run", service["command"][1:])
    assert service["command"][0] == "run"
    assert (params["job"], params["output"]) == (Path("jobs/math.yaml"), "out/math")
    assert params["stop_at"] is None and params["stop_after"] is None, (
        "it would be started again at once"
    )
    assert service["environment"]["BATCHR1_OUTPUT"] == "out/math"
    assert service["restart"] == "on-failure:5"
    assert (duration(params["grace"]) or 0) < (duration(service["stop_grace_period"]) or 0)
    [device] = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["capabilities"], device["count"]) == (["gpu"], -1)
    mounted = {volume["target"]: volume["source"] for volume in service["volumes"]}
    assert mounted == {docker_lines("VOLUME")[0]: "cache", docker_lines("WORKDIR")[-1]: str(ROOT)}
    assert service["build"]["context"] == str(ROOT)


def test_docker_compose_asks_for_a_job_and_an_output() -> None:
    done = composed({"JOB": "jobs/math.yaml"})
    assert done.returncode != 0
    assert "required variable OUTPUT is missing a value: a folder or s3://" in done.stderr


# What the schedulers start.


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
    assert only["command"] == ["tini", "--", "sh", "-c"]
    [command] = only["args"]
    return str(command)


def airflow_command(ds: str = "2026-11-03") -> str:
    """What `night` gives to bash."""
    tree = ast.parse(text_of("airflow_dag.py"))
    [template] = [
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NIGHT"
        if isinstance(node.value, ast.Constant)
    ]
    return jinja2.Template(str(template), undefined=jinja2.StrictUndefined).render(ds=ds)


def with_stand_ins(folder: Path, *names: str, text: str = STAND_IN) -> dict[str, str]:
    """An environment in which these programs write their arguments down, a line each."""
    bin = folder / "bin"
    bin.mkdir(exist_ok=True)
    for name in names:
        (bin / name).write_text(text)
        (bin / name).chmod(0o755)
    return os.environ | {
        "PATH": f"{bin}:{os.environ['PATH']}",
        "ARGUMENTS": str(folder / "arguments"),
    }


def parsed(name: str, words: list[str]) -> dict[str, Any]:
    """What a command of batchr1 makes of these words."""
    program = click.Context(main, **main.context_settings)
    command = main.get_command(program, name)
    assert command is not None
    return command.make_context(name, list(words), parent=program).params


def assert_asks_for_health(words: list[str], output: str) -> None:
    assert words[0] == "status"
    params = parsed("status", words[1:])
    assert (params["targets"], params["health"]) == ((output,), True)


def assert_is_a_good_command(words: list[str]) -> None:
    """The options are there, and their values mean something."""
    assert words[:2] == ["run", "jobs/nightly.yaml"]
    given = parsed("run", words[1:])
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
    line = (
        command()
        .replace("/srv/nightly", str(tmp_path))
        .replace("/opt/batchr1/bin/batchr1", "batchr1")
    )
    subprocess.run(["sh", "-c", line], env=environment, cwd=tmp_path, check=True)
    assert_is_a_good_command((tmp_path / "arguments").read_text().splitlines())


@pytest.mark.parametrize(
    ("command", "shell"),
    [
        (cron_command, "sh"),
        (systemd_command, "sh"),
        (kubernetes_command, "sh"),
        (airflow_command, "bash"),
    ],
)
def test_shellcheck_finds_nothing_in_the_shell_lines(
    tmp_path: Path, command: Any, shell: str
) -> None:
    (tmp_path / "line").write_text(command())
    done = tool("shellcheck", "--shell", shell, "--severity", "warning", tmp_path / "line")
    assert (done.returncode, done.stdout) == (0, "")


@checks("crontab")
def test_a_reader_of_crontabs_takes_the_crontab(tmp_path: Path) -> None:
    for text, code in ((text_of("crontab"), 0), (text_of("crontab").replace("0 22", "0 25"), 1)):
        (tmp_path / "crontab").write_text(text)
        done = tool("checkcrontab", "--strict", "--no-colors", "--user", tmp_path / "crontab")
        assert done.returncode == code, done.stdout + done.stderr


@checks(*UNITS)
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    """Programs that are not on this machine are an error to it, so a unit's own stands in a folder
    of the test.
    """
    program = with_stand_ins(tmp_path, "spot-notice.sh")["PATH"].split(":")[0]
    for name in UNITS:
        (tmp_path / name).write_text(text_of(name).replace("/opt/batchr1/bin", program))
    done = tool("systemd-analyze", "verify", *(tmp_path / name for name in UNITS))
    ours = [line for line in done.stderr.splitlines() if "batchr1" in line]
    assert (done.returncode, ours) == (0, [])
    [when] = re.findall(r"^OnCalendar=(.*)$", text_of("batchr1-nightly.timer"), re.MULTILINE)
    assert tool("systemd-analyze", "calendar", when).returncode == 0


@checks("cronjob.yaml")
def test_kubernetes_knows_every_key_of_the_cron_job(tmp_path: Path) -> None:
    for text, code in (
        (text_of("cronjob.yaml"), 0),
        (text_of("cronjob.yaml").replace("backoffLimit", "backOff"), 1),
    ):
        (tmp_path / "cronjob.yaml").write_text(text)
        done = tool(
            "kubernetes-validate",
            "--strict",
            "--kubernetes-version",
            "1.37.0",
            tmp_path / "cronjob.yaml",
        )
        assert done.returncode == code, done.stdout + done.stderr


def test_the_cron_job_starts_again_what_goes_on_and_nothing_else() -> None:
    job = yaml.safe_load(text_of("cronjob.yaml"))["spec"]["jobTemplate"]["spec"]
    [rule] = [rule for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert rule["onExitCodes"]["values"] == [1, 2, 3, 4]
    assert rule["onExitCodes"]["containerName"] == container()["name"]
    assert job["backoffLimit"] > 0
    assert container()["resources"]["limits"] == {"nvidia.com/gpu": 1}
    assert "--stop" not in kubernetes_command(), "the window is the deadline"


def test_the_cron_job_is_alive_while_its_newest_output_is(tmp_path: Path) -> None:
    environment = with_stand_ins(tmp_path, "batchr1")
    for age_s, day in enumerate(("03", "01", "02")):
        (tmp_path / f"out/nightly/2026-11-{day}").mkdir(parents=True)
        os.utime(tmp_path / f"out/nightly/2026-11-{day}", (time.time() - age_s,) * 2)
    command = container()["livenessProbe"]["exec"]["command"]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True)
    assert_asks_for_health(
        (tmp_path / "arguments").read_text().splitlines(), "out/nightly/2026-11-03/"
    )


@checks("airflow_dag.py")
@pytest.mark.parametrize(
    ("code", "passed_on"),
    [(0, "0"), (1, "1"), (2, "2"), (3, "3"), (4, "4"), (75, None), (137, None)],
)
def test_airflow_tries_again_what_goes_on_and_passes_on_the_rest(
    tmp_path: Path, code: int, passed_on: str | None
) -> None:
    """A task fails, and is retried, with a resumable code; others are its last line."""
    environment = with_stand_ins(tmp_path, "batchr1", text=f"{STAND_IN}echo rows; exit {code}\n")
    command = airflow_command().replace("/opt/batchr1/bin/batchr1", "batchr1")
    done = subprocess.run(
        ["bash", "-c", command], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    words = (tmp_path / "arguments").read_text().splitlines()
    given = parsed("run", words[1:])
    assert words[:2] == ["run", "jobs/nightly.yaml"]
    assert days(given["date"]) == ["2026-11-03"]
    assert given["stop_at"] is None and given["stop_after"] is None
    assert done.returncode == (code if passed_on is None else 0)
    assert done.stdout.splitlines() == ["rows", passed_on or str(code)]


# Slurm, and spot machines.


@checks("nightly.sbatch", "spot-notice.sh")
@pytest.mark.parametrize(("name", "shell"), [("nightly.sbatch", "bash"), ("spot-notice.sh", "sh")])
def test_shellcheck_and_the_shell_find_nothing_in_the_scripts(name: str, shell: str) -> None:
    for done in (tool("shellcheck", DEPLOY / name), tool(shell, "-n", DEPLOY / name)):
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_slurm_script_is_no_array_and_ends_before_it_is_killed() -> None:
    options = " ".join(re.findall(r"^#SBATCH (.*)$", text_of("nightly.sbatch"), re.MULTILINE))
    [signal_s] = re.findall(r"--signal=B:TERM@(\d+)", options)
    [grace] = re.findall(r"--grace (\S+)", text_of("nightly.sbatch"))
    assert (duration(grace) or 0) < int(signal_s)
    assert "--array" not in options


def test_slurms_signal_reaches_batchr1_and_its_exit_code_comes_back(tmp_path: Path) -> None:
    environment = with_stand_ins(tmp_path, "sbatch")
    program = (
        STAND_IN.replace("\n", "\ntrap 'kill $!; exit 75' TERM\nsleep 60 &\n", 1) + "wait\n"
    )  # ready, then said
    (tmp_path / "bin/batchr1").write_text(program)
    (tmp_path / "bin/batchr1").chmod(0o755)
    script = subprocess.Popen(
        ["bash", str(DEPLOY / "nightly.sbatch")], env=environment, cwd=tmp_path
    )
    end = time.monotonic() + 30
    while (
        "--log-format" not in (tmp_path / "arguments").read_text()
        if (tmp_path / "arguments").exists()
        else True
    ):
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.2)  # the script's own trap comes after the start
    script.send_signal(signal.SIGTERM)
    assert script.wait(30) == 75
    words = (tmp_path / "arguments").read_text().splitlines()
    assert words[:3] == ["--begin=22:00", "--dependency=singleton", "nightly.sbatch"]
    assert_is_a_good_command(words[3:])
