"""Loop of a worker with a server: bounded requests over HTTP.

    backlog ─▶ requests under way (a task each) ─▶ Outbox

To the driver it is a worker like any other. There are no tokens under way to save. Answers cost
money, so finished ones are saved whole until they are committed. The server's troubles are no
row's.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import resource
import time
from array import array
from collections.abc import Callable

from batchr1.dataset.prompts import instruction_text
from batchr1.engine.openai.client import ChatClient
from batchr1.engine.protocol import EngineInfo, EngineLoad
from batchr1.errors import BatchError, FailedError, StorageError, UsageError
from batchr1.executors.messages import FirstAnswer, RequestStop
from batchr1.executors.setup import WorkerSetup
from batchr1.output.checkpoints import GenerationCheckpoint
from batchr1.reasoning.results import RowRules, form_of
from batchr1.reasoning.server_replies import server_result
from batchr1.reasoning.verify import Verify
from batchr1.records import Failure, Reply, Result, SampleKey, ServerCompletion, WorkItem
from batchr1.worker.collector import Collector
from batchr1.worker.loop import Channel, Figures, WorkerLoop
from batchr1.worker.server_health import ServerGone
from batchr1.worker.server_requests import ServerRequests

POLL_S = 0.05
BACKLOG_SHARE = 4  # of the concurrency in the worker's own hand
DOUBT_S = 2.0  # for which refused rows wait for another to be answered, when nothing is sent
LEAVE_SHARE = 0.6  # of the grace, for requests under way; the rest is for writing


def serve(setup: WorkerSetup, channel: Channel) -> None:
    """Run a worker from the server's check to its last part."""
    spec = setup.spec
    _raise_open_files(spec.engine.concurrency)
    rules = RowRules(
        setup.model_label,
        setup.assignment.run,
        spec.prompting.instruction == "math",
        instruction_text(spec.prompting.instruction),
        Verify(**spec.verify.model_dump()),
        tuple(spec.sampling.stop or ()),
        form_of(spec.sampling),
    )

    def to_result(completion: ServerCompletion, finished_at: dt.datetime) -> Result:
        return server_result(
            completion,
            forced=spec.prompting.think == "force",
            format=setup.format,
            rules=rules,
            finished_at=finished_at,
        )

    collector = Collector(setup, to_result, channel.send)
    try:
        asyncio.run(ServerWorker(setup, collector, channel).run())
    except (StorageError, FailedError):
        raise
    except BatchError:
        collector.finish()  # what was answered before was paid for
        raise


class ServerWorker(WorkerLoop):
    """Runs leases through a server until `Drain` or `Stop`."""

    def __init__(
        self,
        setup: WorkerSetup,
        collector: Collector,
        channel: Channel,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(setup, collector, channel, clock)
        self._server = setup.spec.engine
        self._client = ChatClient(self._server, setup.model.location, setup.spec.sampling)
        self._requests = ServerRequests(
            self._client,
            setup,
            is_tail=lambda: self._draining and not self._backlog,
            clock=clock,
        )
        self._under_way: dict[SampleKey, asyncio.Task[None]] = {}
        self._stopping_at = 0.0
        self._wants_stop = False  # nothing more is to be had here: the driver is to stop the run
        self._has_answered = False
        self._doubted: list[Failure] = []  # refusals that may yet be the server's fault
        self._doubted_at = 0.0
        self._error: UsageError | None = None

    async def run(self) -> None:
        """Serve until `Drain` and everything is staged, or `Stop`.

        Raises `EngineError` for a server that is not there, `UsageError` for one that answers
        nothing of this job, and `StorageError`, after saving, where a part cannot be staged.
        """
        async with self._client:
            started = self._clock()
            served, server = await self._requests.reach(), self._server
            info = EngineInfo(
                f"openai at {server.base_url}", served.max_model_len or 0, server.concurrency, 0
            )
            try:
                await self._serve(info, self._clock() - started)
            except UsageError:
                self._report(now=True)  # what was spent until here
                raise
            except (StorageError, FailedError):
                self._leave()
                raise

    async def _serve(self, info: EngineInfo, load_s: float) -> None:
        self._begin(info, load_s)
        while not self._is_over:
            self._receive()
            self._take_retries()
            self._send_requests()
            await self._wait()
            if self._error is not None:
                raise self._error
            self._settle_doubts()
            self._requests.check_usage()
            self._report()
        await self._abandon()
        self._finish()  # the event loop stands still: nothing is under way any more

    @property
    def _is_over(self) -> bool:
        if self._stopping:
            leave_at = self._stopping_at + LEAVE_SHARE * self._setup.assignment.grace_s
            return self._clock() >= leave_at or not self._under_way
        return self._draining and self._is_idle and not self._wants_stop

    @property
    def _is_idle(self) -> bool:
        is_empty = not self._backlog and not self._under_way and not self._doubted
        return is_empty and not self._outbox.is_waiting

    async def _wait(self) -> None:
        """Wait until a request ends, or for a moment."""
        if not self._under_way:
            await asyncio.sleep(POLL_S)
            return
        tasks = list(self._under_way.values())
        done, _ = await asyncio.wait(tasks, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # raises what was not foreseen

    # What the loop asks of its body

    def _room(self) -> int:
        if not self._may_send:
            return 0
        most = self._server.concurrency
        in_hand = max(1, most // BACKLOG_SHARE)
        return most + in_hand - len(self._under_way) - len(self._backlog)

    def _on_stop(self) -> None:
        """Send nothing more.

        Requests under way have a while to end, because they are paid for.
        """
        self._stopping_at = self._clock()
        self._checkpointer.save()  # first what is quick

    def _cancel(self, keys: set[SampleKey]) -> None:
        """Give up samples without an answer.

        A request under way is cut, and perhaps paid for.
        """
        cancelled = [key for key in self._under_way if key in keys]
        for key in cancelled:
            self._under_way.pop(key).cancel()
        cancelled += self._cancel_in_backlog(keys)
        self._outbox.drop(keys)
        self._outbox.give_up(cancelled)

    def _to_save(self) -> list[GenerationCheckpoint]:
        return self._collector.uncommitted()

    def _figures(self) -> Figures:
        load = EngineLoad(running=len(self._under_way), waiting=len(self._backlog))
        requests = self._requests
        return Figures(requests.generated_tokens, len(self._under_way), load, requests.spent)

    # Requests

    @property
    def _may_send(self) -> bool:
        return not self._stopping and not self._wants_stop and self._error is None

    def _send_requests(self) -> None:
        most = self._server.concurrency
        while self._backlog and self._may_send and len(self._under_way) < most:
            saved = self._backlog[0].partial
            if saved is not None and saved.reply is not None:
                item = self._backlog.popleft()
                self._hand_over(item, saved.reply, saved.finished_at, is_new=False)
                continue
            if (reason := self._requests.limit_reached()) is not None:
                if not self._under_way:  # what is under way ends in peace
                    self._request_stop(reason)
                return
            item = self._backlog.popleft()
            self._under_way[item.key] = asyncio.create_task(self._run_one(item))

    async def _run_one(self, item: WorkItem) -> None:
        """Lead one sample to its answer or its end.

        Always gives up its place.
        """
        try:
            outcome = await self._requests.outcome(item)
        except ServerGone as exc:
            self._request_stop(str(exc))
        except UsageError as exc:
            self._error = self._error or exc
        else:
            match outcome:
                case Reply():
                    self._hand_over(item, outcome, dt.datetime.now(dt.UTC), is_new=True)
                case Failure() if self._requests.is_in_doubt:
                    self._doubted.append(outcome)
                    self._doubted_at = self._clock()
                case Failure():
                    self._fail(outcome)
                case WorkItem():
                    self._backlog.append(outcome)
        finally:
            if self._under_way.get(item.key) is asyncio.current_task():
                del self._under_way[item.key]

    def _settle_doubts(self) -> None:
        """Let refused rows fail, once the server has answered others.

        Or once nothing is left to ask. Those of a server that refuses everything stay pending.
        """
        if not self._doubted or self._wants_stop or self._stopping:
            return
        is_quiet = not self._under_way and not self._backlog
        waited = self._clock() - self._doubted_at >= DOUBT_S
        if not self._requests.is_in_doubt or (is_quiet and (waited or self._draining)):
            for failure in self._doubted:
                self._fail(failure)
            self._doubted.clear()

    def _request_stop(self, reason: str) -> None:
        if not self._wants_stop and not self._stopping:
            self._wants_stop = True
            self._channel.send(RequestStop(reason))

    def _hand_over(
        self, item: WorkItem, reply: Reply, finished_at: dt.datetime | None, *, is_new: bool
    ) -> None:
        """Hand over a whole answer.

        It is saved as it is until its part is committed.
        """
        if not self._has_answered:
            self._has_answered = True
            self._channel.send(FirstAnswer())
        saved = GenerationCheckpoint(
            item.prompt.id,
            item.sample,
            item.attempt,
            item.prompt.digest,
            array("i"),
            (),
            reply.finish_reason,
            finished_at or dt.datetime.now(dt.UTC),
            reply=reply,
        )
        length = reply.completion_tokens or 0
        carried = 0 if is_new else length
        self._outbox.put(ServerCompletion(item, reply), saved, length, carried=carried)

    async def _abandon(self) -> None:
        """Cancel what is still under way."""
        tasks = list(self._under_way.values())
        self._under_way.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _raise_open_files(concurrency: int) -> None:
    """Raise the soft limit of open files, often 1024.

    A connection is a file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = concurrency + 256
    if soft < need and (hard == resource.RLIM_INFINITY or hard > soft):
        new = need if hard == resource.RLIM_INFINITY else min(need, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (new, hard))
