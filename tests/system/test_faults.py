"""Faults, each with its outcome and the test that makes it happen.

docs/durability.md shows the same table.

Those that no other file has a place for are at the end of this one.
"""

from __future__ import annotations

import ast
import datetime as dt
import re
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from process_tree import until
from replay_job import keys_of, questions, replay, rows_of, run_replay, wanted_keys, write_job
from s3_fakes import S3
from s3_proxy import faulty_proxy

import batchr1.driver.run_job
from batchr1.cli.main import main
from batchr1.errors import OutputError
from batchr1.output.checkpoints import read_checkpoints
from batchr1.output.folder import Output
from batchr1.storage.base import open_storage

TESTS = Path(__file__).parents[1]

# (what goes wrong, what happens, where that is tested)
FAULTS: list[tuple[str, str, str]] = [
    (
        "SIGKILL of the driver",
        "its workers end with it; the next run goes on from committed parts and snapshots",
        "test_kill.py::test_killing_the_driver_ends_its_worker_and_killing_a_worker_does_not_end_the_run",
    ),
    (
        "SIGKILL of a worker",
        "another one goes on from the dead one's last snapshot",
        "test_checkpointer.py::test_the_replacement_of_a_dead_worker_goes_on_from_its_snapshot",
    ),
    (
        "SIGKILL of the whole tree",
        "nothing is left running; the next run goes on",
        "test_kill.py::test_killing_the_whole_tree_three_times_loses_and_doubles_nothing",
    ),
    (
        "SIGKILL of the whole tree at any moment, again and again",
        "every key once, with the tokens that an oracle expects; no temporary file stays",
        "crash/test_oracle.py::test_jobs_killed_hundreds_of_times_end_as_the_oracle_says",
    ),
    (
        "SIGKILL of vLLM's engine process",
        "noticed at once, the worker is replaced with its work",
        "crash/test_engine_process.py::test_a_killed_engine_process_is_noticed_at_once_and_its_work_goes_on",
    ),
    (
        "SIGKILL at a named step",
        "staging, commit, snapshot, take-over, finish: nothing lost or doubled",
        "crash/test_fault_points.py::test_a_driver_killed_at_this_step_loses_and_doubles_nothing",
    ),
    (
        "SIGKILL at any change that a run makes to its output",
        "the next run ends it: the rows of an undisturbed one, each once, and nothing left",
        "crash/test_kills.py::test_a_run_killed_at_any_change_is_ended_by_the_next",
    ),
    (
        "SIGKILL before any request that changes something on S3",
        "the same",
        "test_s3_kills.py::test_a_run_killed_at_any_request_is_ended_by_the_next",
    ),
    (
        "SIGKILL while parts are replaced",
        "the next run rolls the recorded intent forward",
        "crash/test_continue.py::test_killed_while_parts_are_replaced_it_ends_right",
    ),
    (
        "SIGKILL of `verify` while it replaces parts",
        "every row once; run again, it ends",
        "test_rejudge.py::test_a_kill_in_the_middle_leaves_every_row_once",
    ),
    (
        "dead engine, hung engine",
        "a new worker takes over: after an error at once, after silence in ten minutes",
        "test_run.py::test_a_worker_that_dies_or_hangs_is_replaced_and_nothing_is_lost_or_doubled",
    ),
    (
        "engine that always dies",
        "no row is blamed, exit code 75",
        "test_run.py::test_a_worker_that_always_dies_stops_the_run_and_the_next_run_goes_on",
    ),
    (
        "engine that cannot start",
        "exit code 75, the output is not claimed",
        "test_run.py::test_an_engine_that_cannot_start_stops_the_run_and_leaves_the_output_unclaimed",
    ),
    (
        "vLLM's packages that do not fit together",
        "exit code 1: it would fail again",
        "test_engine_arguments.py::test_packages_that_do_not_fit_end_a_run_for_good",
    ),
    (
        "value of an engine argument that vLLM refuses",
        "exit code 1: it would fail again",
        "test_engine_arguments.py::test_a_value_that_vllm_refuses_ends_a_run_for_good",
    ),
    (
        "engine out of memory",
        "it starts again with less; rows made before are kept",
        "test_oom.py::test_rows_made_before_memory_ran_out_are_kept",
    ),
    (
        "a replica of several that keeps dying",
        "it is given up, the others do its work; no row is blamed",
        "test_fleet.py::test_a_sick_replica_fails_no_row_and_is_given_up",
    ),
    (
        "replica that is late",
        "the run ends without it",
        "test_fleet.py::test_a_run_ends_without_a_replica_that_is_late",
    ),
    (
        "SIGKILL of a cluster's node",
        "its rows go on elsewhere from their snapshot; a node that joins takes its place",
        "test_ray.py::test_a_node_is_killed_and_one_is_added_and_every_row_comes_once",
    ),
    (
        "SIGKILL of the driver of a cluster's run",
        "relays and workers on all nodes end with it; the next run goes on",
        "test_ray.py::test_a_driver_that_is_killed_takes_its_workers_along_and_the_next_run_goes_on",
    ),
    (
        "poison row",
        "after three deaths, the last one alone, it is a failed row; the rest goes on",
        "test_checkpointer.py::test_a_row_that_kills_the_engine_fails_alone",
    ),
    (
        "refused or over-long prompt",
        "a failed row with its reason",
        "test_run.py::test_bad_rows_fail_alone_and_can_be_tried_again",
    ),
    (
        "torn snapshot",
        "named in the log and the record; its tokens are generated again",
        "test_checkpointer.py::test_a_torn_snapshot_costs_tokens_and_no_row",
    ),
    (
        "snapshot that cannot be written",
        "the one before stays; tried again later",
        "test_checkpoints.py::test_a_snapshot_that_cannot_be_written_leaves_the_one_before",
    ),
    (
        "truncated part",
        "refused with its name before anything is generated; deleted by hand, its rows run again",
        "test_faults.py::test_a_truncated_part_is_named_and_its_rows_run_again_once_it_is_deleted",
    ),
    (
        "torn record of a replacement",
        "refused with what to look at",
        "crash/test_continue.py::test_an_intent_that_is_no_intent_stops_the_run",
    ),
    (
        "clock set back",
        "the order of runs is not needed: nothing lost or doubled",
        "test_faults.py::test_a_clock_that_was_set_back_loses_and_doubles_nothing",
    ),
    (
        "clock jump while a lock is watched",
        "staleness is measured on the watcher's own monotonic clock",
        "test_lock.py::test_the_waiting_is_measured_on_the_observers_own_clock",
    ),
    (
        "full disk",
        "exit code 75 with whole files only; goes on when there is space",
        "test_bad_inputs.py::test_a_full_disk_stops_the_run_with_whole_files_only_and_the_run_goes_on_when_there_is_space",
    ),
    (
        "disk full from the start",
        "exit code 75, no file left behind",
        "test_bad_inputs.py::test_a_disk_that_is_full_from_the_start_stops_the_run",
    ),
    (
        "full disk below stderr, or its reader gone",
        "the run goes on; those lines are lost",
        "test_full_streams.py::test_a_log_that_nobody_takes_ends_no_run",
    ),
    (
        "full disk below stdout",
        "the rows are there; exit code 75, and the same command prints the summary",
        "test_full_streams.py::test_a_summary_that_nobody_takes_is_printed_by_the_next_run",
    ),
    (
        "read-only output",
        "exit code 2, nothing touched",
        "test_bad_inputs.py::test_a_read_only_output_is_refused",
    ),
    (
        "lost lock",
        "the run stops before its next commit, exit code 75",
        "test_run.py::test_a_run_that_lost_its_lock_commits_nothing_more",
    ),
    (
        "paused owner",
        "when it wakes after its lock was taken, nothing that it does has an effect",
        "crash/test_pauses.py::test_an_owner_paused_at_a_storage_call_changes_nothing_when_it_wakes",
    ),
    (
        "paused owner on S3",
        "the same; where a store ignores conditions on deletions, see below",
        "test_s3_pauses.py::test_an_owner_paused_at_a_request_changes_nothing_when_it_wakes",
    ),
    (
        "what an owner concluded after it lost its lock",
        "counts as nothing: exit code 75 for the lost lock",
        "test_lock.py::test_an_owner_that_lost_its_lock_says_so_whatever_it_read",
    ),
    (
        "machine that sleeps past the stale time and wakes",
        "the same: its run ends with exit code 75",
        "crash/test_pauses.py::test_an_owner_asleep_for_the_real_stale_time_changes_nothing_when_it_wakes",
    ),
    (
        "two hosts on one S3 output: cut off, heard by nobody, asleep, with wrong clocks",
        "one at a time has effect; each key once",
        "test_two_hosts.py::test_of_two_hosts_one_at_a_time_has_effect",
    ),
    (
        "keys that are there twice",
        "refused by export; the next run keeps the later run's row",
        "test_doubled.py::test_doubled_keys_are_refused_by_export_and_the_later_runs_stay",
    ),
    (
        "`_SUCCESS` that does not fit the parts",
        "counts as none; the next run writes it anew",
        "test_doubled.py::test_a_success_that_does_not_fit_is_none_until_the_next_run",
    ),
    (
        "forged snapshot",
        "as a torn one, with a right digest too",
        "test_checkpoints.py::test_a_forged_snapshot_costs_tokens_and_never_a_run",
    ),
    (
        "weights with a garbage header",
        "exit code 2 before a run, with the file's name",
        "crash/test_storage_errors.py::test_weights_with_a_garbage_header_are_refused",
    ),
    (
        "control characters in ids, data or errors",
        "escaped on terminals and in logs",
        "test_printable.py::test_status_lists_one_line_for_each_hostile_row",
    ),
    (
        "a fault of disk, mount or machine at any call",
        "survived, or exit code 75 (EIO, ESTALE, EMFILE and others)",
        "crash/test_storage_errors.py::test_a_run_with_a_fault_at_a_storage_call_ends_with_75",
    ),
    (
        "hostile answer of a server",
        "its row fails or is asked for again; bounds of bytes, decompressed too, and of counts",
        "test_hostile_peers.py::test_a_hostile_answer_costs_a_row_and_no_memory",
    ),
    (
        "a server that is hostile for many rows at once",
        "at most 500 MB above an honest one's; the other rows are done",
        "test_hostile_servers.py::test_a_run_against_a_hostile_server_takes_no_more_memory_and_does_the_honest_rows",
    ),
    (
        "absurd count in an answer",
        "counts as none",
        "test_hostile_peers.py::test_an_absurd_count_counts_as_none",
    ),
    (
        "cookies of a server",
        "not sent back",
        "test_hostile_peers.py::test_no_cookie_is_sent_back",
    ),
    (
        "silent connections to the driver's port",
        "cut when they are many or slow; relays with the key come in",
        "test_hostile_peers.py::test_a_thousand_silent_connections_leave_the_door_open_for_others",
    ),
    (
        "no file descriptor left for a connection to the driver's port",
        "waited for; later ones come in",
        "test_hostile_peers.py::test_the_door_survives_a_moment_without_file_descriptors",
    ),
    (
        "silent readers of the metrics port",
        "cut in time; others are answered",
        "test_hostile_peers.py::test_silent_readers_of_the_metrics_port_do_not_hold_it",
    ),
    (
        "two runs for one output",
        "one wins, the other names it and ends with exit code 4",
        "test_s3_faults.py::test_of_two_that_race_for_an_output_one_wins_fifty_times",
    ),
    (
        "input file that vanishes or changes during the run",
        "exit code 75; what is under way is saved first",
        "test_faults.py::test_an_input_that_goes_away_under_a_run_stops_it_with_its_partials_saved",
    ),
    (
        "changed prompt under a done id",
        "refused, generated anew or kept, as `input.on_changed_prompt` says",
        "test_changed_prompt.py::test_a_changed_prompt_is_refused_by_default_and_nothing_is_touched",
    ),
    (
        "changed prompt under saved tokens",
        "those tokens are dropped",
        "test_checkpointer.py::test_saved_tokens_of_a_changed_prompt_are_dropped",
    ),
    (
        "duplicate id",
        "exit code 2 with file and row, before anything is deleted or generated",
        "test_bad_inputs.py::test_fresh_refuses_a_bad_input_before_it_deletes",
    ),
    (
        "revoked credentials",
        "exit code 75, no secret in the message; goes on when they are back",
        "test_s3_faults.py::test_credentials_that_are_revoked_stop_a_run_resumably",
    ),
    (
        "gateway killed and started again",
        "waited for, up to two minutes",
        "test_s3_faults.py::test_a_gateway_that_is_killed_and_started_again_is_waited_for",
    ),
    (
        "every tenth request fails, is cut, or loses its answer",
        "tried again; the run ends complete",
        "test_s3_faults.py::test_with_every_tenth_request_failing_a_run_ends_complete",
    ),
    (
        "object store without conditional writes",
        "refused before anything is written",
        "test_lock.py::test_a_store_that_ignores_conditions_is_refused",
    ),
    (
        "slow storage",
        "the engine goes on beside it",
        "test_faults.py::test_slow_storage_does_not_stop_the_engine",
    ),
    (
        "SIGTERM, SIGINT",
        "finished rows committed, partials saved, exit code 75",
        "test_checkpointer.py::test_a_signal_saves_what_is_under_way_and_commits_what_is_finished",
    ),
    (
        "worker that does not leave in time",
        "killed when the time of grace is over",
        "test_run.py::test_a_worker_that_does_not_stop_in_time_is_killed",
    ),
]


def test_every_fault_of_the_table_has_a_test_and_stands_in_the_docs() -> None:
    assert len(FAULTS) >= 20
    for _, _, reference in FAULTS:
        file, _, name = reference.partition("::")
        [path] = TESTS.rglob(file)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (
            reference
        )
    page = (TESTS.parent / "docs/durability.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (.+?) \| (.+?) \|$", page.partition("<!-- faults -->")[2], re.MULTILINE
    )[1:]
    assert rows == [(fault, outcome) for fault, outcome, _ in FAULTS]


def test_a_truncated_part_is_named_and_its_rows_run_again_once_it_is_deleted(
    tmp_path: Path,
) -> None:
    questions(40).write_parquet(tmp_path / "in.parquet")
    job = write_job(tmp_path)
    run_replay(job)
    part = sorted((tmp_path / "out/data").iterdir())[1]
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(OutputError) as refused:
        run_replay(job)
    assert str(refused.value).startswith(f"{part}: not a readable part (")
    assert str(refused.value).endswith(
        "something else changed it: delete it, and its rows run again."
    )
    part.unlink()
    assert run_replay(job).tally.done == 16
    assert keys_of(rows_of(tmp_path / "out")) == wanted_keys(questions(40))


def test_a_clock_that_was_set_back_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions(40).write_parquet(tmp_path / "in.parquet")
    run_replay(write_job(tmp_path))
    questions(70).write_parquet(tmp_path / "in.parquet")
    plain = batchr1.driver.run_job.run_name
    monkeypatch.setattr(
        batchr1.driver.run_job, "run_name", lambda now: plain(now - dt.timedelta(days=400))
    )
    summary = run_replay(write_job(tmp_path))
    assert (summary.exit_code, summary.tally.done) == (0, 30)
    assert keys_of(rows_of(tmp_path / "out")) == wanted_keys(questions(70))
    said = CliRunner().invoke(main, ["status", str(tmp_path / "out")]).output
    assert said.splitlines()[1].startswith("  rows       70 done, 0 failed, 0 pending, 2 runs")


@pytest.mark.parametrize("what", ["vanishes", pytest.param("changes", marks=pytest.mark.slow)])
def test_an_input_that_goes_away_under_a_run_stops_it_with_its_partials_saved(
    tmp_path: Path, what: str
) -> None:
    first, second = tmp_path / "in/0.parquet", tmp_path / "in/1.parquet"
    first.parent.mkdir()
    questions(400).write_parquet(first)  # more than is read ahead
    questions(20, start=400).write_parquet(second)
    job = write_job(
        tmp_path,
        input={"path": "in"},
        model={"engine_args": {"max_num_seqs": 8}},
        checkpoint={"every_s": 3600},
        sampling={"max_tokens": 200},
    )

    def meddle() -> None:
        until(
            lambda: (
                list((tmp_path / "out/data").glob("*"))
                if (tmp_path / "out/data").exists()
                else False
            ),
            200,
        )
        if what == "vanishes":
            second.unlink()
        else:
            questions(20, start=900).write_parquet(second)

    thread = threading.Thread(target=meddle)
    thread.start()
    script: dict[str, Any] = {"max_num_seqs": 8, "step_s": 0.01, "mean_len": 100.0, "sigma": 0.3}
    summary = run_replay(job, replay(**script))
    thread.join()
    assert summary.exit_code == 75
    got = "no file" if what == "vanishes" else "another version"
    assert summary.stopped == (
        f"{second}: changed since this command began (got {got}, need the one that its ids were "
        "read from). Run the same command again."
    )
    left = read_checkpoints(open_storage(tmp_path / "out"))
    assert left.tokens > 0, "saved although no snapshot was due for an hour"
    done = rows_of(tmp_path / "out").height
    assert done % 16 or done == summary.tally.done, "and finished rows were committed"
    again = run_replay(job, replay(**{**script, "step_s": 0.0}))
    assert again.exit_code == 0
    assert again.tally.carried > 0
    wanted = (
        questions(400)
        if what == "vanishes"
        else pl.concat([questions(400), questions(20, start=900)])
    )
    assert keys_of(rows_of(tmp_path / "out")) == wanted_keys(wanted)


def test_slow_storage_does_not_stop_the_engine(s3_moto: S3, tmp_path: Path) -> None:
    questions(60).write_parquet(tmp_path / "in.parquet")
    script: dict[str, Any] = {"max_num_seqs": 8, "step_s": 0.01}
    with faulty_proxy(s3_moto.endpoint, 0.0) as proxy:
        job = write_job(
            tmp_path,
            output={"path": f"s3://{s3_moto.bucket}/out", "rows_per_part": 4},
            storage={"endpoint": proxy.endpoint},
            checkpoint={"every_s": 0.5},
        )
        proxy.delay_s = 0.2
        summary = run_replay(job, replay(**script))
    assert (summary.exit_code, summary.tally.done, summary.tally.restarts) == (0, 60, 0)
    rows = pl.concat(
        [
            pl.DataFrame(table)
            for table in Output(s3_moto.storage("out")).tables(["id", "sample", "finished_at"])
        ]
    )
    assert keys_of(rows) == wanted_keys(questions(60))
    finished = rows["finished_at"]
    generating_s = (finished.max() - finished.min()).total_seconds()  # type: ignore[operator]
    assert generating_s < 0.2 * 3 * len(summary.tally.parts), (
        "a part costs three requests and more, and nobody waits"
    )
