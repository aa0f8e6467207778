"""The Hugging Face Hub, as far as models come and go, on a port of this machine; and a client that asks it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

Files = dict[str, bytes]

WRITER = "hf_writer"  # the token that may write
READER = "hf_reader"


@dataclass
class FakeRepository:
    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)  # names to commits
    commits: dict[str, Files] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: Files, message: str = "") -> str:
        everything = self.commits.get(self.branches.get(branch, ""), {}) | files
        oid = hashlib.sha1(f"{len(self.commits)}{sorted(everything)}".encode()).hexdigest()
        self.branches[branch], self.commits[oid] = oid, everything
        self.messages.append(message)
        return oid


@dataclass
class FakeHub:
    """Its repositories, uploaded large files by SHA-256, and all requests as "METHOD path"."""

    repositories: dict[str, FakeRepository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    endpoint: str = ""
    failing: bool = False

    def add(self, name: str, files: Files, **properties: Any) -> FakeRepository:
        self.repositories[name] = FakeRepository(**properties)
        self.repositories[name].commit("main", files)
        return self.repositories[name]

    def downloads(self) -> list[str]:
        """Names of the files that were asked for."""
        return [request.split("/", 5)[5] for request in self.requests if re.match(r"GET .*/resolve/", request)]


class Refusal(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", content: Any = None) -> None:
        self.status, self.content = status, content or {}
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self.headers = {name: value for name, value in headers.items() if value}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        try:
            if self.hub.failing:
                raise Refusal(500, message="out of order")
            self.reply(200, *self.route(path, body))
        except Refusal as refusal:
            self.reply(refusal.status, refusal.content, refusal.headers)

    def reply(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def route(self, path: str, body: bytes) -> tuple[Any, ...]:
        if path == "/api/repos/create":
            return (self.create(json.loads(body)),)
        if path == "/api/validate-yaml":
            return ({"errors": [], "warnings": []},)
        if match := re.fullmatch(r"/large/(\w+)", path):
            assert hashlib.sha256(body).hexdigest() == match[1]
            self.hub.large[match[1]] = body
            return ({},)
        if match := re.fullmatch(r"/(.+/.+)\.git/info/lfs/objects/batch", path):
            self.writable(match[1])
            uploads = {
                each["oid"]: {"href": f"{self.hub.endpoint}/large/{each['oid']}"}
                for each in json.loads(body)["objects"]
            }
            return (
                {
                    "objects": [
                        {"oid": oid, "size": 0, "actions": {"upload": upload}} for oid, upload in uploads.items()
                    ]
                },
            )
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(\w+)/(.+))?", path):
            return (self.api(match[1], match[2] or "revision", match[3] or "main", body),)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.resolve(*match.groups())
        raise Refusal(404)

    def token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def readable(self, name: str) -> FakeRepository:
        repository = self.hub.repositories.get(name)
        known = self.token() in (READER, WRITER)
        if repository is None or (repository.private and not known):
            raise Refusal(404 if known else 401, "RepoNotFound", "Repository not found")
        if repository.gated:
            raise Refusal(403, "GatedRepo", "Access to model is restricted")
        return repository

    def writable(self, name: str) -> FakeRepository:
        if self.token() not in (READER, WRITER):
            raise Refusal(401, message="Invalid credentials in Authorization header")
        if self.token() == READER:
            raise Refusal(403, message="You don't have the rights to do this")
        return self.readable(name)

    def create(self, wanted: dict[str, Any]) -> dict[str, str]:
        name = f"{wanted['organization']}/{wanted['name']}"
        address = {"url": f"{self.hub.endpoint}/{name}"}
        if self.token() == WRITER and name in self.hub.repositories:
            raise Refusal(409, message="You already created this model repo", content=address)
        if self.token() == WRITER:
            private = wanted.get("visibility") == "private" or wanted.get("private") is True
            self.hub.add(name, {}, private=private)
        self.writable(name)
        return address

    def api(self, name: str, action: str, revision: str, body: bytes) -> Any:
        if action == "preupload":
            self.writable(name)
            modes = {
                each["path"]: "lfs" if each["path"].endswith(".safetensors") else "regular"
                for each in json.loads(body)["files"]
            }
            return {
                "files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
            }
        if action == "branch":
            repository = self.writable(name)
            if revision in repository.branches:
                raise Refusal(409, message="Reference already exists")
            repository.branches[revision] = repository.branches["main"]
            return {}
        if action == "commit":
            oid = self.commit(name, revision, [json.loads(line) for line in body.splitlines()])
            return {"commitUrl": f"{self.hub.endpoint}/{name}/commit/{oid}", "commitOid": oid}
        oid, files = self.snapshot(name, revision)
        if action == "tree":
            return [
                {"type": "file", "path": path, "size": len(data), "oid": etag(data)} for path, data in files.items()
            ]
        return {"id": name, "sha": oid, "siblings": [{"rfilename": path} for path in files]}

    def snapshot(self, name: str, revision: str) -> tuple[str, Files]:
        repository = self.readable(name)
        oid = repository.branches.get(revision, revision)
        if oid not in repository.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return oid, repository.commits[oid]

    def commit(self, name: str, branch: str, operations: list[dict[str, Any]]) -> str:
        files, message = {}, ""
        for operation in operations:
            key, value = operation["key"], operation["value"]
            if key == "header":
                message = value["summary"]
            else:
                large = key == "lfsFile"
                files[value["path"]] = self.hub.large[value["oid"]] if large else base64.b64decode(value["content"])
        return self.writable(name).commit(branch, files, message)

    def resolve(self, name: str, revision: str, path: str) -> tuple[bytes, dict[str, str]]:
        oid, files = self.snapshot(name, revision)
        if path not in files:
            raise Refusal(404, "EntryNotFound")
        return files[path], {"ETag": f'"{etag(files[path])}"', "X-Repo-Commit": oid}


def etag(data: bytes) -> str:
    """What git calls a file of these contents."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """`hub` answers at its endpoint until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process's client ask `hub`, with a cache of its own and without a token."""
    from huggingface_hub import close_session, constants

    values = {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(cache),
        "HF_TOKEN_PATH": str(cache / "token"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
    }
    for name, value in values.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    close_session()
