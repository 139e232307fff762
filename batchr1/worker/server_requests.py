"""Asking a server for samples: until it answers, until it is clear that it will not, or until
nothing may be asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from tenacity import AsyncRetrying, retry_if_exception_type

from batchr1.engine.openai.client import ChatClient, Served
from batchr1.engine.openai.faults import AccessError, NotFound, RowFailed, ServerFault, SlowRequest
from batchr1.errors import EngineError, UsageError
from batchr1.executors.messages import ServerSetup
from batchr1.records import Failure, Reply, WorkItem
from batchr1.seeds import next_attempt
from batchr1.worker.server_health import BACKOFF_S, ServerGone, ServerHealth, Wait

log = logging.getLogger("batchr1.worker")

REACH_S = 60.0  # so long, or for its patience, a server may not be there when a run begins
REFUSED_AT_FIRST = 10  # refusals, and no answer: it is the job that is refused


class ServerRequests:
    """What a run asks of one server, and what that has cost (`spent`). Use within one event loop.

    `seed` and `attempts` are the job's. `is_tail`: whether nothing is left to be sent but what is
    tried again.
    """

    def __init__(
        self,
        client: ChatClient,
        remote: ServerSetup,
        *,
        seed: int | None,
        attempts: int,
        is_tail: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._client, self._remote, self._clock = client, remote, clock
        self._seed, self._attempts, self._is_tail = seed, attempts, is_tail
        self._patience = ServerHealth(remote.patience_s, clock)
        self._served = Served(None)
        self._answered = self._refused = 0
        self.spent = remote.spent
        self.generated_tokens = 0

    async def reach(self) -> Served:
        """Look whether the server is there, and takes the key.

        Raises `EngineError` and `UsageError` where not.
        """
        reach_s = min(REACH_S, self._remote.patience_s)
        until, wait_s = self._clock() + reach_s, BACKOFF_S / 4
        while True:
            try:
                self._served = await self._client.models()
                return self._served
            except AccessError as exc:
                raise self._no_access(exc) from exc
            except ServerFault as fault:
                if self._clock() + wait_s > until:
                    raise EngineError(
                        f"engine.base_url {self._remote.server.base_url}: the server cannot be "
                        f"reached ({fault}; tried "
                        f"for {reach_s:g} s). Start it, or correct the address; the same command "
                        f"goes on."
                    ) from fault
                log.warning("the server is not there yet: %s", fault)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, 5.0)

    async def outcome(self, item: WorkItem) -> Reply | Failure | WorkItem:
        """The answer to a sample, why it fails, or what is to be asked for later in its place.

        Raises `ServerGone` where nothing more is to be had for now, `UsageError` where nothing ever
        will.
        """
        started = self._clock()
        try:
            reply = await self._answer(item)
        except SlowRequest as exc:
            return await self._slow(item, exc, started)
        except RowFailed as exc:
            return self._row_failed(item, exc)
        except AccessError as exc:
            raise self._shut(exc) from exc
        self._answered += 1
        self._patience.answered(item.key)
        self._pay(reply.prompt_tokens, reply.completion_tokens)
        return reply

    def check_usage(self) -> None:
        """Raise `UsageError` when a limit of cost cannot be kept."""
        if self._remote.max_cost is not None and self.spent.without_usage:
            raise UsageError(
                f"engine.max_cost: cannot be kept with {self._remote.server.base_url}, whose "
                f"answers have no usage "
                "(got no token counts). Leave it out, and watch the cost there."
            )

    async def _answer(self, item: WorkItem) -> Reply:
        max_tokens = item.max_tokens if item.limited_by == "max_tokens" else None
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(ServerFault), wait=Wait(), reraise=True
        ):
            with attempt:
                try:
                    return await self._client.ask(
                        item.prompt.messages,
                        max_tokens=max_tokens,
                        seed=item.seed,
                        on_token=self._patience.alive,
                    )
                except ServerFault as fault:
                    self._patience.note(fault, item.key)
                    raise
        raise AssertionError("retrying ends with an answer or an exception")

    async def _slow(self, item: WorkItem, exc: SlowRequest, started: float) -> Failure | WorkItem:
        """An attempt of the row, if the server was alive meanwhile; else it hung, and the row is as
        it was.
        """
        if not await self._was_alive_since(started):
            self._patience.note(ServerFault(str(exc), is_busy=True), item.key, since=started)
            return item
        if item.attempt < self._attempts:
            return next_attempt(item, self._seed)
        return self._row_failed(item, RowFailed("timed_out", f"{exc}, {item.attempt} times"))

    async def _was_alive_since(self, at: float) -> bool:
        """By what it gave; where that may well be nothing (no streams, the last rows), by its list
        of models.
        """
        if self._patience.was_alive_since(at):
            return True
        if self._remote.server.stream and not self._is_tail():
            return False
        try:
            await self._client.models()
        except (ServerFault, AccessError):
            return False
        return True

    def _row_failed(self, item: WorkItem, exc: RowFailed) -> Failure:
        if isinstance(exc, NotFound) and not self._answered:
            raise self._shut(AccessError(str(exc)))
        if exc.completion_tokens is not None:
            self._pay(exc.prompt_tokens, exc.completion_tokens)
        self._refused += exc.reason == "engine_refused"
        if self._refused >= REFUSED_AT_FIRST and not self._answered:
            raise UsageError(
                f"engine.base_url {self._remote.server.base_url}: the server refuses every "
                f"request of this job (got "
                f"{exc}). Correct what it complains about; nothing was answered."
            )
        return Failure(
            item.prompt.id, item.sample, exc.reason, str(exc), item.attempt, item.prompt.digest
        )

    def _shut(self, exc: AccessError) -> UsageError | ServerGone:
        """Before the first answer that is a mistake in the job or its key; later, something has
        changed.
        """
        error = self._no_access(exc)
        return ServerGone(f"{error} The same command then goes on.") if self._answered else error

    def _no_access(self, exc: AccessError) -> UsageError:
        server, said = self._remote.server, str(exc)
        if said.startswith(("HTTP 401", "HTTP 403")):
            what = (
                f"the key in {server.api_key_env} is not taken ({said}). Set that variable to "
                f"a right one."
            )
        elif said.startswith("HTTP 404"):
            hint = self._served.hint(server.model)
            what = (
                f"the server has no model {server.model!r}, or no /chat/completions there "
                f"({said}). {hint}"
            )
        else:
            what = f"the server lets nothing through ({said}). See to that."
        return UsageError(f"engine.base_url {server.base_url}: {what}")

    def _pay(self, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        self.spent = self.spent.plus(prompt_tokens, completion_tokens)
        self.generated_tokens += completion_tokens or 0
