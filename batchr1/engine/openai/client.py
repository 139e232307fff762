"""Client of any server that speaks OpenAI's chat completions.

Such are vLLM, SGLang, Ollama, llama.cpp and DeepSeek's own API. One request is one sample. It is
streamed, so that no gateway takes a long silence for a dead connection; a server that answers in
one piece all the same is understood too. The key is in one header and in no message.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any

import httpx

from batchr1.engine.openai.bounds import (
    MAX_COUNT,
    MAX_ERROR_BYTES,
    MAX_MODELS_BYTES,
    MAX_TEXT_BYTES,
    Held,
    Share,
    chunks_of,
    lines,
    no_cookies,
    small_int,
    start_of,
    too_large,
    whole,
)
from batchr1.engine.openai.faults import (
    RowFailed,
    ServerFault,
    SlowRequest,
    fault_of,
    without,
    words_of,
)
from batchr1.engine.openai.network import check_url, fault_of_network, said
from batchr1.engine.openai.served import NEUTRAL, Served, served_by
from batchr1.engine.openai.server import drawing_of, key_of
from batchr1.errors import UsageError
from batchr1.job.engine import EngineKind
from batchr1.job.spec import SamplingSpec
from batchr1.records import NOTHING_OWN, FinishReason, Reply, RowSampling
from batchr1.version import __version__

CONNECT_S = 30.0
LOOK_S = 15.0  # for /models
ESTIMATING = "x-litellm-"  # headers of a gateway that counts reasoning by a tokenizer of its own
_MOST_PIECES = 256  # of a text
_MARK = "\ufeff"  # of UTF-8, before the first event or the document
_BROKEN_OFF = {
    "abort",
    "error",
    "insufficient_system_resource",
}  # finish reasons of a server in trouble
_FINISH: dict[str, FinishReason] = {  # by the names that servers have for them
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "model_length": "length",
    "max_tokens": "length",
    "max_length": "length",
}


class ChatClient:
    """Requests to one server. For one event loop; `async with` it."""

    def __init__(self, server: EngineKind, model: str, sampling: SamplingSpec) -> None:
        """`model`: the name that the server has for it."""
        self._server, self._model, self._base_url = server, model, str(server.base_url)
        self._drawing = drawing_of(sampling)
        self._stops_anywhere = sampling.stop_in == "anywhere"
        self._same = self._drawing | server.extra_body  # in every request
        check_url(self._base_url)
        self._key = key_of(server.key_env)
        self._held = Held(server.concurrency)
        headers = {"User-Agent": f"batchr1/{__version__}", "Accept-Encoding": "gzip, deflate"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        # A connection for each request: against minutes of generating it costs nothing, a server
        # that closes idle ones surprises nobody, and httpx looks at each idle one before each
        # request (9 ms of CPU with 64 of them).
        most = server.concurrency + 1  # one for /models
        try:
            self._http = httpx.AsyncClient(
                headers=headers,
                cookies=no_cookies(),
                timeout=httpx.Timeout(None, connect=CONNECT_S),
                limits=httpx.Limits(max_connections=most, max_keepalive_connections=0),
            )
        except (
            ImportError,
            OSError,
            ValueError,
            httpx.InvalidURL,
        ) as exc:  # whose words may hold a password
            raise UsageError(
                "the environment's proxy or certificates cannot be used (HTTP_PROXY, HTTPS_PROXY, "
                "ALL_PROXY, "
                f"SSL_CERT_FILE, SSL_CERT_DIR; got {type(exc).__name__}). Correct them, or set "
                f"NO_PROXY."
            ) from exc

    async def __aenter__(self) -> ChatClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def models(self) -> Served:
        """List the server's models, as far as it tells them.

        Raises `AccessError` (the key) and `ServerFault`.
        """
        try:
            async with self._http.stream(
                "GET", f"{self._base_url}/models", timeout=LOOK_S
            ) as response:
                body = await start_of(response, MAX_MODELS_BYTES)
        except httpx.RequestError as exc:
            raise self._network_fault(exc, ()) from exc
        if response.status_code in (
            401,
            403,
            502,
            503,
            504,
        ):  # the key is wrong; the server is starting
            text = body[:MAX_ERROR_BYTES].decode(errors="replace")
            raise self._fault(response.status_code, response.headers, text, ())
        if response.status_code != 200:
            return Served(None)
        try:
            served = served_by(json.loads(body), self._model)
        except (ValueError, KeyError, TypeError, RecursionError):
            return Served(None)
        # What the job leaves unset is said too, where it is known how to say it: a server's own
        # defaults would draw by other rules than the output records.
        unset = NEUTRAL.get(served.software or "", {})
        self._same = unset | self._drawing | self._server.extra_body
        return served

    async def ask(
        self,
        messages: Sequence[tuple[str, str]],
        *,
        max_tokens: int | None = None,
        seed: int | None = None,
        own: RowSampling = NOTHING_OWN,
        on_token: Callable[[], None] = lambda: None,
    ) -> Reply:
        """One answer. `on_token` is called as often as something of it comes.

        Raises what `engine.server_faults` names.
        """
        request = self._body(messages, max_tokens, seed) | own.drawing
        if own.stop is not None and self._stops_anywhere:
            request["stop"] = list(own.stop)
        url = f"{self._base_url}/chat/completions"
        contents = [content for _, content in messages]
        try:
            async with (
                asyncio.timeout(self._server.timeout_s),
                self._http.stream("POST", url, json=request) as response,
            ):
                if response.status_code != 200:
                    body = await start_of(response, MAX_ERROR_BYTES)
                    text = body.decode(errors="replace")
                    raise self._fault(response.status_code, response.headers, text, contents)
                with closing(self._held.share()) as share:
                    answer = await self._read(response, contents, on_token, share)
                answer.estimates = any(name.startswith(ESTIMATING) for name in response.headers)
                return answer.reply(max_tokens=max_tokens)
        except TimeoutError:
            raise SlowRequest(
                f"no answer within engine.timeout_s, {self._server.timeout_s:g} s"
            ) from None
        except httpx.RequestError as exc:
            raise self._network_fault(exc, contents) from exc

    def _body(
        self, messages: Sequence[tuple[str, str]], max_tokens: int | None, seed: int | None
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": role, "content": content} for role, content in messages],
            **self._same,
        }
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        if seed is not None:
            body["seed"] = seed
        if self._server.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body

    async def _read(
        self,
        response: httpx.Response,
        contents: list[str],
        on_token: Callable[[], None],
        share: Share,
    ) -> Answer:
        answer = Answer(share)
        if response.headers.get("content-type", "").lower().startswith("text/event-stream"):
            async for document in _events(chunks_of(response), share):
                if document is None:
                    answer.is_whole = True
                    break
                self._take(answer, document, contents)
                on_token()
        else:
            text = (await whole(response, MAX_TEXT_BYTES, share)).decode(errors="replace")
            self._take(answer, _document(text), contents)
            answer.is_whole = True
        return answer

    def _take(self, answer: Answer, document: dict[str, Any], contents: list[str]) -> None:
        if document.get("error"):
            error = document["error"]
            code = error.get("code") if isinstance(error, dict) else None
            if isinstance(code, int) and 400 <= code < 600:
                raise self._fault(code, {}, json.dumps(document), contents)
            words = words_of(document, hide=functools.partial(self._clean, contents=contents))
            raise ServerFault(f"its answer was broken off: {words}")
        answer.take(document)

    def _fault(self, status: int, headers: Any, text: str, contents: Sequence[str]) -> Exception:
        hide = functools.partial(self._clean, contents=contents)
        return fault_of(status, headers, text, model=self._model, hide=hide)

    def _network_fault(self, exc: httpx.RequestError, contents: Sequence[str]) -> Exception:
        return fault_of_network(exc, self._base_url, self._clean(said(exc), contents))

    def _clean(self, words: str, contents: Sequence[str]) -> str:
        return without(
            words, [*([self._key] if self._key else []), *(c for c in contents if len(c) >= 8)]
        )


class Answer:
    """An answer as it comes, in one piece or many.

    `is_whole`: the server has said that nothing more comes. `estimates`: its count of reasoning
    tokens is a guess. `model`: the name that it answers by.
    """

    def __init__(self, share: Share) -> None:
        self.is_whole = False
        self.estimates = False
        self.model: str | None = None
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._unreadable: str | None = None
        self._has_choice = False
        self._finish: str | None = None
        self._usage: dict[str, Any] = {}
        self._share, self._length = share, 0  # of its texts

    def take(self, document: dict[str, Any]) -> None:
        """The next piece, or the whole. Raises `ServerFault` for what is neither."""
        try:
            if isinstance(document.get("usage"), dict):
                self._usage = document["usage"]
            if isinstance(document.get("model"), str):
                self.model = document["model"]
            choices = document.get("choices") or []
            if not choices:
                return
            choice = choices[0]
            said = choice.get("delta") or choice.get("message") or {}
            content = said.get("content")
            reasoning = said.get("reasoning_content") or said.get("reasoning")
            refusal = said.get("refusal")
            finish = choice.get("finish_reason")
        except (AttributeError, TypeError, KeyError, IndexError) as exc:
            raise ServerFault("its answer is no chat completion") from exc
        self._has_choice = True
        self._add(reasoning, self._reasoning)
        self._add(content, self._content)
        self._add(refusal, self._refusal)
        self._finish = str(finish) if finish else self._finish  # some servers write "" for not yet

    def _add(self, text: Any, parts: list[str]) -> None:
        """Take text, or a list of parts that say what they are."""
        if isinstance(text, str):
            self._length += len(text)
            if self._length > MAX_TEXT_BYTES:
                raise too_large(MAX_TEXT_BYTES)
            self._share.take(sys.getsizeof(text))
            parts.append(text)
            if len(parts) > max(_MOST_PIECES, self._length // 64):
                self._join(parts)
        elif isinstance(text, list):
            for part in text:
                self._add_part(part, parts)
        elif text is not None:
            self._unreadable = type(text).__name__

    def _join(self, parts: list[str]) -> None:
        """Make one piece of many.

        A token's text is small beside what Python adds to it.
        """
        before, joined = sum(map(sys.getsizeof, parts)), "".join(parts)
        self._share.take(sys.getsizeof(joined) - before)
        parts[:] = [joined]

    def _add_part(self, part: Any, parts: list[str]) -> None:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(part, str):
            self._add(part, parts)
        elif kind in ("thinking", "reasoning"):
            self._add(part.get(kind, part.get("text")), self._reasoning)
        elif kind == "refusal":
            self._add(part.get("refusal"), self._refusal)
        elif kind in ("text", "output_text"):
            self._add(part.get("text"), parts)
        else:
            self._unreadable = f"a part of type {str(kind)[:40]}"

    def reply(self, *, max_tokens: int | None = None) -> Reply:
        """The whole; `max_tokens` is what was asked for.

        Raises `ServerFault` where it was cut, `RowFailed` where it is no text or the server ended
        it for other reasons: that was paid for, and is not asked for again.
        """
        prompt, completion = (
            _count(self._usage, "prompt_tokens"),
            _count(self._usage, "completion_tokens"),
        )
        if self._unreadable is not None:
            raise RowFailed(
                "engine_refused",
                f"its answer is no text (got {self._unreadable}, need text or parts of text)",
                prompt_tokens=prompt,
                completion_tokens=completion,
            )
        if self._finish is None and not (self.is_whole and self._has_choice):
            raise ServerFault("its answer was cut: it has no end")
        if self._finish is None:  # some servers give no reason
            most = float("inf") if max_tokens is None else max_tokens
            self._finish = "length" if (completion or 0) >= most else "stop"
        if self._finish in _BROKEN_OFF:
            raise ServerFault(f"its answer was broken off (finish_reason {self._finish})")
        if self._finish not in _FINISH:
            name = (
                self._finish
                if re.fullmatch(r"[a-z_]{1,40}", self._finish)
                else "other_finish_reason"
            )
            raise RowFailed(
                name,
                (
                    f"the server ended it (got finish_reason {self._finish[:40]!r}, need stop or "
                    f"length)"
                ),
                prompt_tokens=prompt,
                completion_tokens=completion,
            )
        return Reply(
            content=_text(self._content if any(self._content) else self._refusal or self._content),
            reasoning=_text(self._reasoning),
            finish_reason=_FINISH[self._finish],
            prompt_tokens=prompt,
            completion_tokens=completion,
            reasoning_tokens=self._reasoning_tokens(completion),
        )

    def _reasoning_tokens(self, completion: int | None) -> int | None:
        """Read the count of reasoning tokens; None for a guess.

        One that leaves no token for the answer is none of the model's.
        """
        details = self._usage.get("completion_tokens_details")
        if self.estimates or not isinstance(details, dict):
            return None
        found = _count(details, "reasoning_tokens")
        answered = bool(any(self._content) and any(self._reasoning))
        if found is not None and completion is not None and found + answered > completion:
            return None
        return found


async def _events(
    chunks: AsyncIterator[bytes], share: Share
) -> AsyncIterator[dict[str, Any] | None]:
    """Cut a stream of server-sent events; None is its `[DONE]`.

    Cut at line feeds and nowhere else: a text may hold any other character that Python takes for
    the end of a line.
    """
    async for line in lines(chunks, share):
        line = line.removeprefix(_MARK.encode())
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            yield None
            return
        yield _document(data.decode(errors="replace"))


def _document(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text.removeprefix(_MARK), parse_int=small_int)
    except (ValueError, RecursionError) as exc:
        raise ServerFault("its answer is no JSON") from exc
    if not isinstance(document, dict):
        raise ServerFault("its answer is no JSON object")
    return document


def _text(parts: list[str]) -> str | None:
    """Join the parts to one text that Parquet takes.

    Escaped surrogates are paired, or replaced where one is alone.
    """
    text = "".join(parts)
    return (
        text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") if parts else None
    )


def _count(usage: dict[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return (
        value
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT
        else None
    )
