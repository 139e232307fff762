"""Requests to a server for samples.

Each goes on until the server answers, until it clearly will not, or until nothing may be sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from tenacity import AsyncRetrying, retry_if_exception_type

from batchr1.engine.openai.client import ChatClient
from batchr1.engine.openai.faults import (
    AccessError,
    CertificateError,
    NotFound,
    ProxyFault,
    RowFailed,
    ServerFault,
    SlowRequest,
)
from batchr1.engine.openai.served import Served
from batchr1.engine.openai.server import access_problem, money
from batchr1.errors import EngineError, UsageError
from batchr1.executors.setup import WorkerSetup
from batchr1.records import Failure, Reply, WorkItem
from batchr1.seeds import next_attempt
from batchr1.worker.server_health import BACKOFF_S, ServerGone, ServerHealth, Wait

log = logging.getLogger("batchr1.worker")

REACH_S = 60.0  # so long, or for its patience, a server may not be there when a run begins
LOOKED_AT = 8  # answers, before something is said of them
REFUSED_AT_FIRST = 10  # refusals, and no answer: it is the job that is refused
REFUSED_IN_A_ROW = 10  # refusals after answers: an answered prompt is asked again


class ServerRequests:
    """Requests of a run to one server, and their cost (`spent`).

    Use within one event loop. `is_tail`: whether nothing is left to send but retries.
    """

    def __init__(
        self,
        client: ChatClient,
        setup: WorkerSetup,
        *,
        is_tail: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._client, self._server, self._clock = client, setup.spec.engine, clock
        self._model, self._before_usd = setup.model.location, setup.spending.before_usd
        self._seed, self._attempts = setup.spec.sampling.seed, setup.spec.retry.attempts
        self._is_tail = is_tail
        self._health = ServerHealth(self._server.patience_s, clock)
        self._served = Served(None)
        self._answered = self._refused = self._streak = 0
        self._refused_at = 0.0
        self._answered_prompt: Sequence[tuple[str, str]] = ()
        self._asking_again = asyncio.Lock()
        self._gone: ServerGone | None = None  # what the first that asked again found
        self._only_reasoning, self._has_warned = 0, False
        self.spent = setup.spending.spent
        self.generated_tokens = 0

    async def reach(self) -> Served:
        """Look whether the server is there, and takes the key.

        Raises `EngineError` and `UsageError` where not.
        """
        reach_s = min(REACH_S, self._server.patience_s)
        until, wait_s = self._clock() + reach_s, BACKOFF_S / 4
        while True:
            try:
                self._served = await self._client.models()
                return self._served
            except AccessError as exc:
                raise self._no_access(exc) from exc
            except ServerFault as fault:
                if self._clock() + wait_s > until:
                    raise self._unreached(fault, reach_s) from fault
                log.warning("the server is not there yet: %s", fault)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, 5.0)

    def _unreached(self, fault: ServerFault, reach_s: float) -> EngineError:
        where = f"engine.base_url {self._server.base_url}"
        if isinstance(fault, ProxyFault):
            return EngineError(
                f"{where}: the way to the server is barred ({fault}; tried for {reach_s:g} s). "
                f"Correct {fault.variable}, or put the server's host into NO_PROXY; the same "
                f"command goes on."
            )
        return EngineError(
            f"{where}: the server cannot be reached ({fault}; tried for {reach_s:g} s). Start it, "
            f"or correct the address; the same command goes on."
        )

    async def outcome(self, item: WorkItem) -> Reply | Failure | WorkItem:
        """Get the answer to a sample, or the reason of its failure.

        It may be a sample to send later in its place. Raises `ServerGone` where nothing more is to
        be had for now, `UsageError` where nothing ever will.
        """
        started = self._clock()
        try:
            reply = await self._answer(item)
        except SlowRequest as exc:
            return await self._slow(item, exc, started)
        except RowFailed as exc:
            failure = self._row_failed(item, exc)
            await self._look_at_streak(exc)
            return failure
        except AccessError as exc:
            raise self._shut(exc) from exc
        self._answered += 1
        if started >= self._refused_at:  # asked later than the latest refusal
            self._streak = 0
        self._answered_prompt = item.prompt.messages
        self._look_at(reply)
        self._health.answered(item.key)
        self._pay(reply.prompt_tokens, reply.completion_tokens)
        return reply

    @property
    def is_in_doubt(self) -> bool:
        """Whether the latest refusals may be the server's fault."""
        return self._streak > 0

    async def _look_at_streak(self, exc: RowFailed) -> None:
        """Tell rows that are refused from a server that refuses everything.

        After many refusals in a row it is asked for one token of a prompt that it has answered.
        Raises `ServerGone` where it refuses that too.
        """
        if exc.reason == "engine_refused":
            self._streak, self._refused_at = self._streak + 1, self._clock()
        if self._streak < REFUSED_IN_A_ROW or not self._answered_prompt:
            return
        async with self._asking_again:
            if self._gone is not None:
                raise self._gone
            if self._streak < REFUSED_IN_A_ROW:
                return
            try:
                reply = await self._client.ask(self._answered_prompt, max_tokens=1)
            except RowFailed as again:
                if again.reason == "engine_refused":
                    self._gone = ServerGone(
                        f"the server refuses everything, also what it has answered before "
                        f"({self._streak} in a row, last: {exc}). Look at it; the same command "
                        f"goes on."
                    )
                    raise self._gone from again
            except (ServerFault, SlowRequest, AccessError):
                return  # another kind of trouble, which the next row meets
            else:
                self._pay(reply.prompt_tokens, reply.completion_tokens)
            self._streak = 0

    def _look_at(self, reply: Reply) -> None:
        """Say once that a server's parser puts answers where reasoning belongs."""
        if self._answered == 1 and (said := self._served.oddity(self._model)):
            log.warning("%s", said)
        self._only_reasoning += bool(reply.reasoning and not reply.content)
        if reply.finish_reason != "stop" or self._has_warned or self._answered < LOOKED_AT:
            return
        if self._only_reasoning * 2 > self._answered:
            self._has_warned = True
            log.warning(
                "the server gave %d of %d answers as reasoning only: rows become unclosed, without "
                "an answer. Its reasoning parser may not fit the model; correct it there",
                self._only_reasoning,
                self._answered,
            )

    def check_usage(self) -> None:
        """Raise `UsageError` when a limit of cost cannot be kept."""
        if self._server.max_cost is not None and self.spent.without_usage:
            raise UsageError(
                f"engine.max_cost: cannot be kept with {self._server.base_url}, whose "
                f"answers have no usage "
                "(got no token counts). Leave it out, and watch the cost there."
            )

    def limit_reached(self) -> str | None:
        """Say why nothing more may be sent; None while money is left."""
        price, most = self._server.price, self._server.max_cost
        if most is None or price is None:
            return None
        usd = self._before_usd + price.usd(self.spent.prompt_tokens, self.spent.completion_tokens)
        if usd < most:
            return None
        return (
            f"engine.max_cost is reached: {money(usd)} USD of {money(most)} are spent on this "
            "output. Raise it, and the same command goes on."
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
                        own=item.prompt.own,
                        on_token=self._health.alive,
                    )
                except ServerFault as fault:
                    self._health.note(fault, item.key)
                    raise
        raise AssertionError("retrying ends with an answer or an exception")

    async def _slow(self, item: WorkItem, exc: SlowRequest, started: float) -> Failure | WorkItem:
        """Count an attempt of a row that took too long.

        It counts only if the server was alive meanwhile. Else the server hung, and the row is as it
        was.
        """
        if not await self._was_alive_since(started):
            self._health.note(ServerFault(str(exc), is_busy=True), item.key, since=started)
            return item
        if item.attempt < self._attempts:
            return next_attempt(item, self._seed)
        return self._row_failed(item, RowFailed("timed_out", f"{exc}, {item.attempt} times"))

    async def _was_alive_since(self, at: float) -> bool:
        """Whether the server has given anything since.

        Where that may well be nothing (no streams, the last rows), its list of models decides.
        """
        if self._health.was_alive_since(at):
            return True
        if self._server.stream and not self._is_tail():
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
                f"engine.base_url {self._server.base_url}: the server refuses every "
                f"request of this job (got "
                f"{exc}). Correct what it complains about; nothing was answered."
            )
        return Failure(
            item.prompt.id, item.sample, exc.reason, str(exc), item.attempt, item.prompt.digest
        )

    def _shut(self, exc: AccessError) -> UsageError | ServerGone:
        """Turn a refusal into the error that ends the run.

        Before the first answer it is a mistake in the job or its key. Later, something has changed.
        """
        error = self._no_access(exc)
        return ServerGone(f"{error} The same command then goes on.") if self._answered else error

    def _no_access(self, exc: AccessError) -> UsageError:
        server, said = self._server, str(exc)
        certificate = isinstance(exc, CertificateError)
        what = access_problem(server.key_env, said, is_certificate=certificate)
        if what is None and said.startswith("HTTP 404"):
            hint = self._served.hint(self._model)
            what = (
                f"the server has no model {self._model!r}, or no /chat/completions there "
                f"({said}). {hint}"
            )
        if what is None:
            what = f"the server lets nothing through ({said}). See to that."
        return UsageError(f"engine.base_url {server.base_url}: {what}")

    def _pay(self, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        self.spent = self.spent.plus(prompt_tokens, completion_tokens)
        self.generated_tokens += completion_tokens or 0
