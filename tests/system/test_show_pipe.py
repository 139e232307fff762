"""`batchr1 show` into a pipe whose reader has gone."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from made_output import good_row, table_of, write_output


def test_a_reader_that_has_gone_ends_it_quietly(tmp_path: Path) -> None:
    rows = [good_row(i, reasoning="so " * 2000) for i in range(200)]
    write_output(tmp_path / "out", [table_of(rows)])
    command = f"{sys.executable} -m batchr1 show {tmp_path}/out --rows 200 --chars 0"
    piped = f"{command} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")
    assert done.stdout == "row/0 · sample 0 · right\n"
