"""Data sets of the loopback hub: what a client asks for to read about, create and commit.

Paths and documents are those that huggingface_hub 2.4 uses without Xet. Parquet files go to the
store by LFS, and are committed by their SHA-256; small ones travel in the commit. A commit that
names another parent than the newest is refused (412), as on the hub.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

Answer = tuple[int, Any]
"""HTTP status, and a document or the text of an error."""
GOOD_TOKEN = "hf_of_somebody_who_may_write"


@dataclass
class DataSet:
    """A data set, with the files of its newest commit. `history`: files of each commit."""

    private: bool = True
    files: dict[str, bytes] = field(default_factory=dict)
    history: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def sha(self) -> str:
        return self.history[-1][0] if self.history else "0" * 40

    def commit(self, files: dict[str, bytes]) -> str:
        """Take these files as the next commit's."""
        content = sorted((rel, hashlib.sha256(data).hexdigest()) for rel, data in files.items())
        sha = hashlib.sha1(repr((self.sha, content)).encode()).hexdigest()
        self.files = files
        self.history.append((sha, files))
        return sha


@dataclass
class DataSets:
    """All data sets, blobs that were uploaded, and owners that `GOOD_TOKEN` may write to."""

    sets: dict[str, DataSet] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    url: str = ""
    owners: set[str] = field(default_factory=lambda: {"lab"})
    broken: set[str] = field(default_factory=set)
    """What is answered with no document of the hub's."""
    refused: dict[str, int] = field(default_factory=dict)
    """What is asked for, such as "commit", and the HTTP status that it is answered with."""

    def put(self, path: str, body: bytes) -> Answer:
        """Take a blob, if its name is its SHA-256."""
        oid = path.rpartition("/")[2]
        if hashlib.sha256(body).hexdigest() != oid:
            return 400, "another checksum"
        self.blobs[oid] = body
        return 200, {}

    def answer(self, method: str, path: str, token: str, body: bytes, store: str) -> Answer | None:
        """Answer a request for data sets; None for another."""
        for pattern, kind, handle in _ROUTES:
            if (match := re.fullmatch(pattern, path)) and kind == method:
                if token != GOOD_TOKEN:
                    return 401, "Invalid credentials in Authorization header"
                what = handle.__name__.removeprefix("_")
                if what in self.refused:
                    return self.refused[what], "no"
                if what in self.broken:
                    return 200, b"<html>a proxy</html>"
                return handle(self, match, body, store)
        return None

    def writable(self, name: str) -> bool:
        return name.partition("/")[0] in self.owners


def _whoami(hub: DataSets, match: re.Match[str], body: bytes, store: str) -> Answer:
    return 200, {"type": "user", "name": "somebody", "orgs": [], "auth": {}}


def _validate(hub: DataSets, match: re.Match[str], body: bytes, store: str) -> Answer:
    """Check a card: it must begin with metadata, as the hub demands."""
    content = json.loads(body)["content"]
    front = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    if front is None or not isinstance(yaml.safe_load(front[1]), dict):
        return 400, "no metadata"
    return 200, {"errors": [], "warnings": []}


def _create(hub: DataSets, match: re.Match[str], body: bytes, store: str) -> Answer:
    asked = json.loads(body)
    name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else ""
    if asked["type"] != "dataset" or not hub.writable(name):
        return 403, "You don't have the rights"
    if name in hub.sets:
        return 409, "You already created this dataset repo"
    hub.sets[name] = DataSet(private=asked.get("visibility") == "private")
    hub.sets[name].commit({".gitattributes": b"*.parquet filter=lfs\n"})
    return 200, {"url": f"{hub.url}/datasets/{name}", "name": name}


def _info(hub: DataSets, match: re.Match[str], body: bytes, store: str) -> Answer:
    found = hub.sets.get(match[1])
    if found is None:
        return 404, "Repository not found"
    card = found.files.get("README.md", b"").decode()
    front = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    metadata = yaml.safe_load(front[1]) if front else {}
    return 200, {
        "_id": "0",
        "id": match[1],
        "sha": found.sha,
        "private": found.private,
        "tags": metadata.get("tags", []),
        "siblings": [{"rfilename": rel} for rel in sorted(found.files)],
    }


def _refs(hub: DataSets, match: re.Match[str], body: bytes, store: str) -> Answer:
    found = hub.sets[match[1]]
    tags = [
        {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": sha}
        for tag, sha in found.tags.items()
    ]
    return 200, {"branches": [], "converts": [], "tags": tags}


def _preupload(hub: DataSets, match: re.Match[str], body: bytes, store: str) -> Answer:
    if match[1] not in hub.sets:
        return 404, "Repository not found"
    if not hub.writable(match[1]):
        return 403, "You don't have the rights"
    files = [
        {
            "path": one["path"],
            "uploadMode": "lfs" if one["path"].endswith(".parquet") else "regular",
            "shouldIgnore": False,
            "oid": None,
        }
        for one in json.loads(body)["files"]
    ]
    return 200, {"files": files}


def _batch(hub: DataSets, match: re.Match[str], body: bytes, store: str) -> Answer:
    objects = []
    for one in json.loads(body)["objects"]:
        url = f"{store}/upload/{one['oid']}"
        actions = {} if one["oid"] in hub.blobs else {"actions": {"upload": {"href": url}}}
        objects.append(one | actions)
    return 200, {"transfer": "basic", "objects": objects}


def _commit(hub: DataSets, match: re.Match[str], body: bytes, store: str) -> Answer:
    found = hub.sets[match[1]]
    header, *operations = [json.loads(line) for line in body.splitlines()]
    parent = header["value"].get("parentCommit")
    if parent is not None and parent != found.sha:
        return 412, "A commit has happened since"
    files = dict(found.files)
    for operation in operations:
        value = operation["value"]
        match operation["key"]:
            case "file":
                files[value["path"]] = base64.b64decode(value["content"])
            case "lfsFile":
                files[value["path"]] = hub.blobs[value["oid"]]
            case "deletedFile":
                del files[value["path"]]
            case other:
                return 400, f"unknown operation {other}"
    sha = found.commit(files)
    return 200, {
        "success": True,
        "commitOid": sha,
        "commitUrl": f"{hub.url}/datasets/{match[1]}/commit/{sha}",
    }


def _tag(hub: DataSets, match: re.Match[str], body: bytes, store: str) -> Answer:
    tag = json.loads(body)["tag"]
    found = hub.sets[match[1]]
    if tag in found.tags:
        return 409, "Tag already exists"
    found.tags[tag] = match[2]
    return 200, {}


Handle = Callable[[DataSets, re.Match[str], bytes, str], Answer]
_NAME = r"([^/]+/[^/]+)"
_ROUTES: list[tuple[str, str, Handle]] = [
    (r"/api/whoami-v2", "GET", _whoami),
    (r"/api/validate-yaml", "POST", _validate),
    (r"/api/repos/create", "POST", _create),
    (rf"/api/datasets/{_NAME}", "GET", _info),
    (rf"/api/datasets/{_NAME}/refs", "GET", _refs),
    (rf"/api/datasets/{_NAME}/preupload/main", "POST", _preupload),
    (rf"/datasets/{_NAME}\.git/info/lfs/objects/batch", "POST", _batch),
    (rf"/api/datasets/{_NAME}/commit/main", "POST", _commit),
    (rf"/api/datasets/{_NAME}/tag/(\w+)", "POST", _tag),
]
