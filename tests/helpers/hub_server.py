"""Hub on loopback: the HTTP API of huggingface_hub 2.4, with faults on demand.

    with serving() as hub:
        commit = hub.add("org/model", {"config.json": b"…", "model.safetensors": b"…"})
        hub.faults.append(Fault("model.safetensors", after=1000, cut=True))

As on the hub, weights are LFS files: known by SHA-256, and served by a redirect to a store at
another address, where a token has no business. Small files are known by git's SHA-1 and served as
they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_datasets import Answer, DataSets

BLOCK = 16_384
_DATASETS = re.compile(r"/api/(datasets/[^/]+/[^/]+)/(revision|tree|paths-info)/([^/]+)(?:/(.*))?")


@dataclass
class Fault:
    """What goes wrong with the next `times` requests for `what`: a file's name, or "api".

    After so many bytes of the answer's body: `cut` it, or let it `stall_s`. Or: an answer of HTTP
    `status`; `corrupt` bytes; a Range that is ignored.
    """

    what: str
    after: int = 0
    cut: bool = False
    stall_s: float = 0.0
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    corrupt: bool = False
    ignores_range: bool = False
    times: int = 1


@dataclass
class Repo:
    """`commits`: what each revision means; all of them hold `files`. Gated: for those with `token`
    only.
    """

    files: dict[str, bytes]
    commits: dict[str, str]
    gated: bool = False
    token: str | None = None
    sizes: dict[str, int] = field(
        default_factory=dict
    )  # claimed instead of the true ones, and so are
    checksums: dict[str, str] = field(default_factory=dict)


@dataclass
class Seen:
    """A request, and how many bytes of body it got."""

    at: str  # "hub" or "store"
    method: str
    path: str
    headers: dict[str, str]
    what: str = ""
    served: int = 0


class Hub:
    """Both servers, what they hold, and what they have seen."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.datasets = DataSets()
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._servers = [_Server(self, at) for at in ("hub", "store")]
        self.url, self.store = (server.url for server in self._servers)
        self.datasets.url = self.url

    def add(self, name: str, files: dict[str, bytes], **more: Any) -> str:
        """A repository; returns its commit, which `main` and the tag `v1` mean."""
        commit = hashlib.sha1(repr((name, sorted(files.items()))).encode()).hexdigest()
        self.repos[name] = Repo(files, {"main": commit, "v1": commit, commit: commit}, **more)
        return commit

    def served(self, what: str = "") -> int:
        """Bytes of file bodies that went out, of one file or of all."""
        return sum(one.served for one in self.seen if one.what and (not what or one.what == what))

    def take_fault(self, what: str) -> Fault:
        """The first fault that is meant for this request, else one that does nothing."""
        with self._lock:
            for fault in self.faults:
                if fault.what == what and fault.times > 0:
                    fault.times -= 1
                    return fault
        return Fault(what)

    def close(self) -> None:
        self.closing.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """A hub for the time of the block."""
    hub = Hub()
    try:
        yield hub
    finally:
        hub.close()


def model_files(folder: Path, shards: int = 1) -> dict[str, bytes]:
    """A model's files as a repository has them, with its weights in so many shards."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    return files if shards == 1 else files | _sharded(files.pop("model.safetensors"), shards)


def _sharded(weights: bytes, shards: int) -> dict[str, bytes]:
    """On the bytes themselves: numpy, for which safetensors has a reader, knows no bfloat16."""
    start = 8 + int.from_bytes(weights[:8], "little")
    tensors = json.loads(weights[8:start])
    metadata = tensors.pop("__metadata__", {})
    names = sorted(tensors)
    files, index = {}, {}
    for i in range(shards):
        own, data, header = names[i::shards], b"", {"__metadata__": metadata}
        for name in own:
            first, last = tensors[name]["data_offsets"]
            header[name] = tensors[name] | {"data_offsets": [len(data), len(data) + last - first]}
            data += weights[start + first : start + last]
        text = json.dumps(header).encode()
        shard = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        files[shard] = len(text).to_bytes(8, "little") + text + data
        index |= dict.fromkeys(own, shard)
    whole = {"metadata": {"total_size": len(weights) - start}, "weight_map": index}
    return files | {"model.safetensors.index.json": json.dumps(whole).encode()}


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: Hub, at: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub, self.at = hub, at
        host = "127.0.0.1" if at == "hub" else "localhost"
        self.url = f"http://{host}:{self.server_address[1]}"
        threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        return  # a client that was killed


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        self._seen = Seen(
            self.server.at, self.command, self.path, {k.lower(): v for k, v in self.headers.items()}
        )
        hub.seen.append(self._seen)
        if (answer := self._of_datasets(path)) is not None:
            status, content = answer
            if isinstance(content, bytes):
                self._send(status, content, {})
            elif status == 200:
                self._send_json(content)
            else:
                self._send_error(status, "RepoNotFound" if status == 404 else "", content)
            return
        if self.server.at == "store":
            repo, _, rel = path.lstrip("/").partition("//")
            self._send_file(hub.repos[repo].files[rel], rel, {})
        elif match := re.fullmatch(r"/api/models/(.+?)(?:/(revision|tree)/([^/]+)/?)?", path):
            if (repo_ := self._allowed(match[1], match[3] or "main", is_file=False)) is not None:
                self._send_json(
                    self._api(match[1], repo_, match[2] or "revision", match[3] or "main")
                )
        elif match := _DATASETS.fullmatch(path):
            if (repo_ := self._allowed(match[1], match[3], is_file=False)) is not None:
                self._data_set(match[1], repo_, match[2], match[3], match[4] or "")
        elif match := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if (repo_ := self._allowed(match[1], match[2], is_file=True)) is not None:
                self._resolve(match[1], repo_, repo_.commits[match[2]], match[3])
        else:
            self._send_error(404, "", "Not found")

    def _of_datasets(self, path: str) -> Answer | None:
        """Answer a request for data sets; None for another."""
        hub, body = self.server.hub, b""
        if self.command in ("POST", "PUT"):
            body = self._body()
        self._sent = body
        if self.server.at == "store":
            return hub.datasets.put(path, body) if self.command == "PUT" else None
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        return hub.datasets.answer(self.command, path, token, body, hub.store)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _allowed(self, name: str, revision: str, *, is_file: bool) -> Repo | None:
        """The repository, or None when the answer was an error."""
        hub = self.server.hub
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        repo = hub.repos.get(name)
        fault = hub.take_fault("api") if not is_file else Fault("")
        if fault.status:
            self._send_error(fault.status, "", "at your service", fault.headers)
        elif token and "invalid" in token:
            self._send_error(401, "", "Invalid credentials in Authorization header")
        elif repo is None:
            self._send_error(404 if token else 401, "RepoNotFound", "Repository not found")
        elif (
            repo.gated and is_file and token != repo.token
        ):  # who looks may see a gated repository, without its files
            self._send_error(
                403 if token else 401, "GatedRepo", f"Access to model {name} is restricted."
            )
        elif not repo.gated and repo.token and token != repo.token:
            self._send_error(404 if token else 401, "RepoNotFound", "Repository not found")
        elif revision not in repo.commits:
            self._send_error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repo
        return None

    def _api(self, name: str, repo: Repo, kind: str, revision: str) -> Any:
        entries: list[dict[str, Any]] = []
        for rel, data in repo.files.items():
            entry: dict[str, Any] = {"size": repo.sizes.get(rel, len(data))}
            if _is_lfs(rel):
                sha256 = repo.checksums.get(rel, hashlib.sha256(data).hexdigest())
                lfs = {"sha256": sha256, "size": entry["size"], "pointerSize": 134}
                entry["lfs"] = lfs if kind == "revision" else lfs | {"oid": lfs["sha256"]}
            sha1 = repo.checksums.get(rel, git_sha1(data))
            entry |= (
                {"rfilename": rel, "blobId": sha1}
                if kind == "revision"
                else {"path": rel, "oid": sha1}
            )
            entries.append(entry if kind == "revision" else entry | {"type": "file"})
        if kind == "tree":
            return entries
        return {
            "_id": "0",
            "id": name,
            "modelId": name,
            "sha": repo.commits[revision],
            "siblings": entries,
            "tags": [],
        }

    def _data_set(self, name: str, repo: Repo, kind: str, revision: str, rel: str) -> None:
        """Answer as the API of a data set does: its commit, a folder's tree, some paths."""
        if kind == "revision":
            self._send_json(self._api(name, repo, kind, revision))
            return
        files = {entry["path"]: entry for entry in self._api(name, repo, "tree", revision)}
        folders = {
            rel.rsplit("/", depth)[0] for rel in files for depth in range(1, rel.count("/") + 1)
        }
        entries = [*files.values()]
        entries += [{"type": "directory", "path": one, "oid": "0" * 40} for one in folders]
        if kind == "paths-info":
            wanted = parse_qs(self._sent.decode())["paths"]
            self._send_json([entry for entry in entries if entry["path"] in wanted])
            return
        if rel and rel not in folders:
            self._send_error(404, "EntryNotFound", "Entry not found")
            return
        recursive = "recursive=True" in self.path or "recursive=true" in self.path
        below = [one for one in entries if one["path"].startswith(f"{rel}/" if rel else "")]
        depth = rel.count("/") + 1 if rel else 0
        self._send_json([one for one in below if recursive or one["path"].count("/") == depth])

    def _resolve(self, name: str, repo: Repo, commit: str, rel: str) -> None:
        data = repo.files.get(rel)
        headers = {"X-Repo-Commit": commit}
        if data is None:
            self._send_error(404, "EntryNotFound", "Entry not found", headers)
        elif _is_lfs(rel):
            sha256 = hashlib.sha256(data).hexdigest()
            headers |= {
                "X-Linked-Etag": f'"{sha256}"',
                "X-Linked-Size": str(len(data)),
                "X-Xet-Hash": sha256,
            }
            headers |= {
                "Location": f"{self.server.hub.store}/{name}//{rel}?X-Amz-Signature=signed-for-you"
            }
            self._send(302, b"", headers)
        else:
            self._send_file(data, rel, headers | {"ETag": f'"{git_sha1(data)}"'})

    def _send_file(self, data: bytes, rel: str, headers: dict[str, str]) -> None:
        if self.command == "HEAD":
            self._send(200, data, headers)
            return
        fault = self.server.hub.take_fault(rel)
        if fault.status:
            self._send_error(fault.status, "", "out of order", fault.headers)
            return
        if fault.corrupt:
            data = data[:-1] + bytes([data[-1] ^ 1])
        self._seen.what = rel
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and not fault.ignores_range:
            start = int(wanted[1])
            stop = min(int(wanted[2] or len(data)) + 1, len(data))
            headers |= {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
            self._send(206, data[start:stop], headers, fault)
        else:
            self._send(200, data, headers, fault)

    def _send_json(self, document: Any) -> None:
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _send_error(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        coded = {"X-Error-Code": code} if code else {}
        self._send(status, b"", {"X-Error-Message": message, **coded, **(headers or {})})

    def _send(
        self, status: int, data: bytes, headers: dict[str, str], fault: Fault | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        stop = fault.after if fault and (fault.cut or fault.stall_s) else None
        for at in range(0, len(data) if stop is None else min(stop, len(data)), BLOCK):
            block = data[at : at + BLOCK if stop is None else min(at + BLOCK, stop)]
            self.wfile.write(block)
            self._seen.served += len(block)
        if fault and fault.stall_s:
            self.wfile.flush()
            until = time.monotonic() + fault.stall_s
            while time.monotonic() < until and not self.server.hub.closing.wait(0.05):
                pass
        if stop is not None:
            self.close_connection = True
            self.connection.close()


def _is_lfs(rel: str) -> bool:
    return rel.endswith((".safetensors", ".bin", ".gguf", ".parquet"))
