"""Server of OpenAI's chat completions on loopback, scripted; and jobs against it.

What happens to a request is the next word of its row's script: `ok`, `429`, `500`, `cut`, `json`,
`slow`, `hang` and so on, each a function below. A row without a script is answered.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import polars as pl
from replay_job import write_sections
from serving import serving

KEY = "sk-test-ODYSSEUS-4711"
MODEL = "teacher/r1"


class ChatServer(ThreadingHTTPServer):
    """`scripts`: by a part of the prompt, what happens to its first request, its second, …; the
    last goes on.
    """

    daemon_threads = True
    block_on_close = False  # a request that hangs shall not hang the test
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.scripts: dict[str, list[str]] = {}
        self.default = "ok"
        self.key: str | None = None  # None: none is asked for
        self.models: list[str] | None = [MODEL]
        self.software: str | None = None  # as `owned_by` of its models
        self.headers: dict[str, str] = {}  # of every answer
        self.reply = answer_to
        self.ending = ""  # what it leaves at the end of its texts
        self.usage = True
        self.form = "tags"  # how reasoning is told: tags, open_tag, native, none
        self.raw: dict[str, Callable[[], Iterable[bytes]]] = {}  # by name, all that is sent
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.under_way = self.most_under_way = 0
        self.delay_s = 0.0
        self.lock = threading.Lock()
        self.release = threading.Event()
        self._seen: dict[str, int] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about."""

    def prompts(self) -> list[str]:
        """What was asked, in order."""
        return [body["messages"][-1]["content"] for body in self.bodies]

    def next_word(self, prompt: str) -> str:
        for part, words in self.scripts.items():
            if part in prompt:
                at = self._seen.get(part, 0)
                self._seen[part] = at + 1
                return words[min(at, len(words) - 1)]
        return self.default


def answer_to(prompt: str, seed: int | None = None) -> tuple[str, str]:
    """Reasoning and answer: the same for the same prompt and seed. Of characters that a line may
    end with, too.
    """
    mark = hashlib.sha256(f"{prompt}{seed}".encode()).hexdigest()[:8]
    return f"Let me see. \u2028 {mark} \x85 é 東 😀", f"It is \\boxed{{{mark}}}."


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        if self._has_wrong_key():
            return
        names = self.server.models
        if not self.path.endswith("/models") or names is None:
            self._send(404, {"detail": "Not Found"})
            return
        one: dict[str, Any] = {"max_model_len": 4096}
        if self.server.software:
            one["owned_by"] = self.server.software
        self._send(200, {"object": "list", "data": [{"id": name, **one} for name in names]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        if self._has_wrong_key():
            return
        prompt = body["messages"][-1]["content"]
        with server.lock:
            word = server.next_word(prompt)
            server.bodies.append(body)
            server.times.append(time.monotonic())
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        try:
            time.sleep(server.delay_s)
            self._act(word, body)
        finally:
            with server.lock:
                server.under_way -= 1

    def _has_wrong_key(self) -> bool:
        given = self.headers.get("Authorization")
        if self.server.key is None or given == f"Bearer {self.server.key}":
            return False
        self._send(
            401,
            {
                "error": {
                    "message": f"Incorrect API key provided: {given}.",
                    "code": "invalid_api_key",
                }
            },
        )
        return True

    def _act(self, word: str, body: dict[str, Any]) -> None:
        name, _, argument = word.partition(":")
        if name.isdigit():
            headers = {"Retry-After": argument} if argument else {}
            self._send(
                int(name), {"error": {"message": f"as told: {name}", "type": "told"}}, headers
            )
        elif name == "echo":  # FastAPI's way: what was wrong is shown
            self._send(
                422, {"detail": [{"msg": f"bad {body['messages'][-1]['content']}", "input": body}]}
            )
        elif name == "hang":
            self.server.release.wait(60)
        elif name == "raw":
            self.close_connection = True
            with suppress(OSError):  # the client has had enough
                for piece in self.server.raw[argument]():
                    self.connection.sendall(piece)
        elif name == "json":
            self._send_text(200, '{"choices": [{"message": {"content": "half', "application/json")
        elif name == "html":
            self._send_text(200, "<html>Welcome to nginx</html>", "text/html")
        elif name == "cut":
            self._answer(body, cut=True)
        elif name == "finish":
            self._answer(body, finish=argument)
        elif name == "slow":
            time.sleep(float(argument))
            self._answer(body)
        elif name == "trickle":
            self._answer(body, trickle_s=float(argument))
        elif name == "length":
            self._answer(body, finish="length", words=argument)
        else:
            self._answer(body)

    def _answer(
        self,
        body: dict[str, Any],
        *,
        cut: bool = False,
        finish: str = "stop",
        trickle_s: float = 0.0,
        words: str = "",
    ) -> None:
        reasoning, answer = self.server.reply(body["messages"][-1]["content"], body.get("seed"))
        message: dict[str, Any] = {"role": "assistant"}
        form = self.server.form
        if form in ("native", "reasoning"):
            message |= {
                "reasoning_content" if form == "native" else "reasoning": reasoning,
                "content": answer,
            }
        else:
            opening = {"tags": "<think>\n", "open_tag": "", "none": ""}[form]
            message["content"] = (
                answer if form == "none" else f"{opening}{reasoning}\n</think>\n\n{answer}"
            )
        if words:
            message = {"role": "assistant", "content": words}
        message["content"] += self.server.ending
        usage = {"prompt_tokens": 20, "completion_tokens": 100, "total_tokens": 120}
        if form == "native":
            usage["completion_tokens_details"] = {"reasoning_tokens": 90}
        if not body.get("stream"):
            document = {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}
            document |= {"usage": usage} if self.server.usage else {}
            if cut:
                self._send_cut(json.dumps(document).encode())
            else:
                self._send(200, document)
            return
        chunks: list[dict[str, Any]] = [{"delta": {"role": "assistant", "content": ""}}]
        for name in ("reasoning", "reasoning_content", "content"):
            text = message.get(name)
            chunks += [{"delta": {name: text[i : i + 7]}} for i in range(0, len(text or ""), 7)]
        chunks.append({"delta": {}, "finish_reason": finish})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._chunk(b": keep-alive\n\n")
        for i, chunk in enumerate(chunks):
            if cut and i == len(chunks) // 2:
                self.close_connection = True
                return
            time.sleep(trickle_s)
            self._event({"choices": [{"index": 0, "finish_reason": None, **chunk}]})
        if self.server.usage and body.get("stream_options", {}).get("include_usage"):
            self._event({"choices": [], "usage": usage})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _event(self, document: dict[str, Any]) -> None:
        self._chunk(f"data: {json.dumps(document, ensure_ascii=False)}\n\n".encode())

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _send_cut(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.close_connection = True

    def _send(
        self, status: int, document: dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        self._send_text(status, json.dumps(document), "application/json", headers)

    def _send_text(
        self, status: int, text: str, kind: str, headers: dict[str, str] | None = None
    ) -> None:
        data = text.encode()
        self.send_response(status)
        for name, value in (
            {"Content-Type": kind, "Content-Length": str(len(data))}
            | self.server.headers
            | (headers or {})
        ).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def chat_server(**settings: Any) -> Iterator[ChatServer]:
    """A server in a thread, told how to behave."""
    server = ChatServer()
    for name, value in settings.items():
        setattr(server, name, value)
    with serving(server):
        try:
            yield server
        finally:
            server.release.set()


def remote_job(folder: Path, server: ChatServer | str, *, rows: int = 12, **sections: Any) -> Path:
    """A job file in `folder` whose work a server does, and its input of so many rows."""
    numbers = range(rows)
    pl.DataFrame(
        {
            "id": [f"row/{i}" for i in numbers],
            "problem": [f"What is {i} + {i}? (row {i}.)" for i in numbers],
        }
    ).write_parquet(folder / "in.parquet")
    job: dict[str, Any] = {
        "name": "remote",
        "model": {"served": MODEL},
        "engine": {
            "kind": "openai",
            "base_url": server if isinstance(server, str) else server.url,
            "concurrency": 4,
        },
        "input": {"path": "in.parquet", "id": "id", "prompt": "problem"},
        "output": {"path": "out", "rows_per_part": 5},
        "sampling": {"max_tokens": 200},
    }
    return write_sections(folder, job, sections)


def files_with(text: str, folder: Path) -> list[Path]:
    """Every file below a folder that holds a text, compressed parts of Parquet included."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if path.suffix == ".parquet":
            data += str(pl.read_parquet(path).rows()).encode()
        if text.encode() in data:
            found.append(path)
    return found


Told = Callable[[ChatServer], None]
