"""The replica whose engine is somebody else's server: bounded requests over HTTP, one a sample, from one process.

    channel ─▶ backlog ─▶ requests under way (a task each) ─▶ Collector (split, verify, Parquet, staging) ─▶ channel

To the driver it is a worker like any other. What differs: there are no tokens under way to save,
answers cost money, so finished ones are saved whole until they are committed, and the server's
troubles are nobody's row.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import resource
import time
from array import array
from collections import deque
from collections.abc import Callable

from batchr1.driver.monitor.cost import spent_all
from batchr1.engine.openai.client import ChatClient
from batchr1.engine.protocol import EngineInfo, EngineLoad
from batchr1.errors import BatchError, FailedError, StorageError, UsageError
from batchr1.executors.messages import (
    CancelSamples,
    Drain,
    FirstAnswer,
    Lease,
    RequestStop,
    RequestWork,
    SamplesCommitted,
    SamplesFailed,
    ServerSetup,
    Stop,
    WorkerEnded,
    WorkerReady,
    WorkerSetup,
)
from batchr1.output.checkpoints import GenerationCheckpoint
from batchr1.reasoning.server_replies import server_result
from batchr1.records import Failure, Reply, Result, SampleKey, ServerCompletion, WorkItem
from batchr1.storage.errors import set_leaving
from batchr1.worker.checkpointer import checkpointer_of
from batchr1.worker.collector import Collector
from batchr1.worker.engine_worker import Channel
from batchr1.worker.outbox import Outbox
from batchr1.worker.server_health import ServerGone
from batchr1.worker.server_requests import ServerRequests

POLL_S = 0.05
BACKLOG_SHARE = 4  # of the concurrency in the worker's own hand
LEAVE_SHARE = 0.6  # of the grace, for requests under way; the rest is for writing


def serve(setup: WorkerSetup, remote: ServerSetup, channel: Channel) -> None:
    """A worker's life, from looking at the server to the last staged part."""
    _raise_open_files(remote.server.concurrency)

    def to_result(completion: ServerCompletion, finished_at: dt.datetime) -> Result:
        return server_result(
            completion,
            forced=remote.forced,
            model=setup.model_label,
            run=setup.run,
            expects_box=setup.expects_box,
            instruction=setup.instruction,
            verify=setup.verify,
            finished_at=finished_at,
        )

    collector = Collector(setup, to_result, channel.send)
    try:
        asyncio.run(ServerWorker(setup, remote, collector, channel).run())
    except (StorageError, FailedError):
        raise
    except BatchError:
        collector.finish()  # what was answered before was paid for
        raise


class ServerWorker:
    """Runs leases through a server until it is told to finish or to stop."""

    def __init__(
        self,
        setup: WorkerSetup,
        remote: ServerSetup,
        collector: Collector,
        channel: Channel,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._setup, self._remote = setup, remote
        self._collector, self._channel, self._clock = collector, channel, clock
        self._client = ChatClient(remote.server)
        self._asking = ServerRequests(
            self._client,
            remote,
            seed=setup.seed,
            attempts=setup.attempts,
            is_tail=lambda: self._finishing and not self._backlog,
            clock=clock,
        )
        self._backlog: deque[WorkItem] = deque()
        self._wanted = 0
        self._under_way: dict[SampleKey, asyncio.Task[None]] = {}
        self._finishing = False
        self._stopping_at: float | None = None
        self._halted = False
        self._has_proven = False
        self._error: UsageError | None = None
        self._handover = Outbox(collector, channel.send, clock, decides=bool(setup.retry_on))
        self._checkpointer = checkpointer_of(setup, collector.uncommitted)

    async def run(self) -> None:
        """Serve until `Drain` and everything is staged, or `Stop`.

        Raises `EngineError` for a server that is not there, `UsageError` for one that answers
        nothing of this job, and `StorageError`, after saving, where a part cannot be staged.
        """
        async with self._client:
            started = self._clock()
            served, server = await self._asking.reach(), self._remote.server
            info = EngineInfo(
                f"openai at {server.base_url}", served.max_model_len or 0, server.concurrency, 0
            )
            self._channel.send(WorkerReady(info, self._clock() - started))
            try:
                await self._serve()
            except UsageError:
                self._report(now=True)  # what was spent until here
                raise
            except (StorageError, FailedError):
                set_leaving(True)
                if self._checkpointer is not None:
                    self._checkpointer.close()
                    self._checkpointer.save()
                raise

    async def _serve(self) -> None:
        if self._checkpointer is not None:
            self._checkpointer.start()
        while not self._is_over:
            self._receive()
            self._backlog.extendleft(self._handover.to_try_again())
            self._send_requests()
            await self._wait()
            if self._error is not None:
                raise self._error
            self._asking.check_usage()
            self._report()
        await self._leave_undone()
        self._collector.finish(
            self._while_finishing
        )  # the event loop stands still: nothing is under way any more
        if self._checkpointer is not None:
            self._checkpointer.close()
        self._report(now=True)
        self._channel.send(WorkerEnded())

    @property
    def _is_over(self) -> bool:
        if self._stopping_at is not None:
            late = self._clock() >= self._stopping_at + LEAVE_SHARE * self._remote.grace_s
            return late or not self._under_way
        return self._finishing and self._is_idle and not self._halted

    @property
    def _is_idle(self) -> bool:
        return not self._backlog and not self._under_way and not self._handover.is_waiting

    def _while_finishing(self) -> None:
        self._receive()
        self._report()

    async def _wait(self) -> None:
        """Until a request ends, or for a moment."""
        if not self._under_way:
            await asyncio.sleep(POLL_S)
            return
        tasks = list(self._under_way.values())
        done, _ = await asyncio.wait(tasks, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # whatever it raised, it is nothing that was foreseen

    # Messages

    def _receive(self) -> None:
        while (message := self._channel.receive(0)) is not None:
            match message:
                case Lease(items):
                    self._wanted -= len(items)
                    self._backlog.extend(items)
                case SamplesCommitted(keys):
                    self._collector.committed(keys)
                case CancelSamples(keys):
                    self._drop(set(keys))
                case Drain():
                    self._finishing = True
                case Stop():
                    self._stop()
        most = self._remote.server.concurrency
        room = (
            most
            + max(1, most // BACKLOG_SHARE)
            - len(self._under_way)
            - len(self._backlog)
            - self._wanted
        )
        if room > 0 and self._may_send and not self._finishing:
            self._wanted += room
            self._channel.send(RequestWork(room))

    def _stop(self) -> None:
        """Nothing more is sent; what is under way has a while to end, because it is paid for."""
        if self._stopping_at is None:
            self._stopping_at = self._clock()
            if self._checkpointer is not None:
                self._checkpointer.save()  # first what is quick

    @property
    def _may_send(self) -> bool:
        return self._stopping_at is None and not self._halted and self._error is None

    def _drop(self, keys: set[SampleKey]) -> None:
        """Give up what is not generated yet.

        An answer that is under way is cut, and perhaps paid for.
        """
        dropped = [key for key in self._under_way if key in keys]
        for key in dropped:
            self._under_way.pop(key).cancel()
        dropped += [item.key for item in self._backlog if item.key in keys]
        self._backlog = deque(item for item in self._backlog if item.key not in keys)
        self._handover.drop(keys)
        self._handover.give_up(dropped)

    # Requests

    def _send_requests(self) -> None:
        while (
            self._backlog
            and self._may_send
            and len(self._under_way) < self._remote.server.concurrency
        ):
            saved = self._backlog[0].partial
            if saved is not None and saved.reply is not None:
                self._hand_over(
                    self._backlog.popleft(), saved.reply, saved.finished_at, is_new=False
                )
                continue
            if (reason := spent_all(self._remote, self._asking.spent)) is not None:
                if not self._under_way:  # what is under way ends in peace
                    self._request_stop(reason)
                return
            item = self._backlog.popleft()
            self._under_way[item.key] = asyncio.create_task(self._run_one(item))

    async def _run_one(self, item: WorkItem) -> None:
        """One sample, to its answer or its end. Always gives up its place."""
        try:
            outcome = await self._asking.outcome(item)
        except ServerGone as exc:
            self._request_stop(str(exc))
        except UsageError as exc:
            self._error = self._error or exc
        else:
            match outcome:
                case Reply():
                    self._hand_over(item, outcome, dt.datetime.now(dt.UTC), is_new=True)
                case Failure():
                    self._collector.give_up([item.key])
                    self._channel.send(SamplesFailed((outcome,)))
                case WorkItem():
                    self._backlog.append(outcome)
        finally:
            if self._under_way.get(item.key) is asyncio.current_task():
                del self._under_way[item.key]

    def _request_stop(self, reason: str) -> None:
        if not self._halted and self._stopping_at is None:
            self._halted = True
            self._channel.send(RequestStop(reason))

    # Answers

    def _hand_over(
        self, item: WorkItem, reply: Reply, finished_at: dt.datetime | None, *, is_new: bool
    ) -> None:
        """An answer is whole: to the collector. It is saved as it is until its part is committed."""
        if not self._has_proven:
            self._has_proven = True
            self._channel.send(FirstAnswer())
        finished_at = finished_at or dt.datetime.now(dt.UTC)
        saved = GenerationCheckpoint(
            item.prompt.id,
            item.sample,
            item.attempt,
            item.prompt.digest,
            array("i"),
            (),
            reply.finish_reason,
            finished_at,
            reply=reply,
        )
        length = reply.completion_tokens or 0
        self._handover.put(
            ServerCompletion(item, reply), saved, length, carried=0 if is_new else length
        )

    def _report(self, *, now: bool = False) -> None:
        self._collector.raise_error()
        if now or self._handover.is_due:
            self._handover.tell(
                generated_tokens=self._asking.generated_tokens,
                under_way=len(self._under_way),
                load=EngineLoad(running=len(self._under_way), waiting=len(self._backlog)),
                spent=self._asking.spent,
            )

    async def _leave_undone(self) -> None:
        tasks = list(self._under_way.values())
        self._under_way.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _raise_open_files(concurrency: int) -> None:
    """A connection is a file. The soft limit is often 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = concurrency + 256
    if soft < need and (hard == resource.RLIM_INFINITY or hard > soft):
        resource.setrlimit(
            resource.RLIMIT_NOFILE,
            (need if hard == resource.RLIM_INFINITY else min(need, hard), hard),
        )
