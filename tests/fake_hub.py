"""A stand-in for the Hugging Face Hub on 127.0.0.1, as huggingface_hub's client sees the real one.

Serves a repository's listing, redirects its files to a "CDN" on 127.0.0.2 with ETag and X-Linked headers, answers
ranges, and breaks on demand. Offers no Xet storage, so files come over plain HTTP. `requests` keeps every request.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
import json
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import unquote, urlsplit

_CHUNK = 32 * 1024

__all__ = ["Blob", "FakeHub", "FakeRepo", "SeenRequest"]


@dataclass(frozen=True, slots=True)
class SeenRequest:
    method: str
    path: str
    range: str | None
    token: str | None


class Blob(NamedTuple):
    content: bytes
    sha256: str


@dataclass(slots=True)
class FakeRepo:
    """One repository: the files of each commit, and which commit each branch is at."""

    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    token: str | None = None
    """Callers without this token get 401, as for a private repository."""

    def push(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Add a commit and move the branch to it; return its hash."""
        seed = f"{len(self.commits)} {branch} {sorted(files)}"
        commit = hashlib.sha1(seed.encode(), usedforsecurity=False).hexdigest()
        self.commits[commit] = {name: Blob(content, _sha256(content)) for name, content in files.items()}
        self.branches[branch] = commit
        return commit


class FakeHub:
    """Use as a context manager; `url` is the endpoint."""

    def __init__(self) -> None:
        self.repos: dict[str, FakeRepo] = {}
        self.requests: list[SeenRequest] = []
        self.status: int | None = None
        """Answer every request with this status."""
        self.fail_once: list[int] = []
        """Statuses for the next requests, one each."""
        self.fail_files: list[int] = []
        """The same for the next files."""
        self.cut_after: int | None = None
        """Close the next file's connection after so many bytes."""
        self.cuts: random.Random | None = None
        """Close every other file's connection at a random byte."""
        self.wrong_bytes = 0
        """So many of the next answers with a file have one wrong byte."""
        self.bytes_per_s: float | None = None
        """All files' connections together: as from a line of this width."""
        self.trickles = 0
        """So many of the next answers with a file bring a byte now and then."""
        self.retry_after: str | None = None
        self.address_uses: int | None = None
        """So many answers from one signed address of the CDN; then it has expired and is answered with 403."""
        self.renamed: dict[str, str] = {}
        """Former names of repositories: requests for them are led on, as the Hub does."""
        self._signed = itertools.count(1)
        self._uses: collections.Counter[str] = collections.Counter()
        self.pages: dict[str, bytes] = {}
        """Files of a plain web server, by their path."""
        self.has_ranges = True
        self.bytes_served = 0
        self.leaving = threading.Event()
        self._line = threading.Lock()
        self._line_free_at = 0.0
        # The client keeps its token from a CDN on another host, so the files have one of their own.
        self._servers = [ThreadingHTTPServer((host, 0), _handler_for(self)) for host in ("127.0.0.1", "127.0.0.2")]
        self._threads = [
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
            for server in self._servers
        ]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_address[1]}"

    @property
    def cdn_url(self) -> str:
        return f"http://127.0.0.2:{self._servers[1].server_address[1]}"

    def repo(self, name: str, files: Mapping[str, bytes] | None = None) -> FakeRepo:
        repo = self.repos.setdefault(name, FakeRepo())
        if files is not None:
            repo.push(files)
        return repo

    def requested(self, method: str, part: str) -> list[SeenRequest]:
        return [request for request in self.requests if request.method == method and part in request.path]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.leaving.set()
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join(timeout=5)

    def serve(self, n_bytes: int) -> None:
        """Count bytes that go out, and wait until the line has room for them."""
        with self._line:
            self.bytes_served += n_bytes
            if self.bytes_per_s is None:
                return
            now = time.monotonic()
            self._line_free_at = max(now, self._line_free_at) + n_bytes / self.bytes_per_s
            wait_s = self._line_free_at - now
        self.leaving.wait(wait_s)

    def sign(self) -> str:
        """Return the query of a new address of the CDN."""
        return f"?Expires=60&Signature={next(self._signed)}" if self.address_uses is not None else ""

    def has_expired(self, query: str) -> bool:
        self._uses[query] += 1
        return self.address_uses is not None and self._uses[query] > self.address_uses

    def led_on(self, path: str) -> str | None:
        """Return where a path under a repository's former name is now."""
        return next((path.replace(old, new) for old, new in self.renamed.items() if f"/{old}" in path), None)

    def blob(self, sha256: str) -> Blob | None:
        commits = (files for repo in self.repos.values() for files in repo.commits.values())
        return next((blob for files in commits for blob in files.values() if blob.sha256 == sha256), None)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _handler_for(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        pass

    Handler.hub = hub
    return Handler


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        self.hub.requests.append(SeenRequest(self.command, path, self.headers.get("Range"), token))
        status = self.hub.fail_once.pop(0) if self.hub.fail_once else self.hub.status
        if status is None and path.startswith("/cdn/") and self.hub.fail_files:
            status = self.hub.fail_files.pop(0)
        if status is not None:
            self._refuse(status)
        elif elsewhere := self.hub.led_on(path):
            self._answer(307, b"", {"Location": elsewhere})
        elif path.startswith("/cdn/") and self.hub.has_expired(urlsplit(self.path).query):
            self._refuse(403)
        elif path.startswith("/cdn/"):
            blob = self.hub.blob(path.removeprefix("/cdn/"))
            self._content(blob.content, blob.sha256) if blob else self._refuse(404)
        elif path in self.hub.pages:
            self._content(self.hub.pages[path], _sha256(self.hub.pages[path])[:16])
        elif path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/").split("/"), token)
        elif "/resolve/" in path:
            self._resolve(path, token)
        else:
            self._refuse(404)

    def _open(self, name: str, revision: str, token: str | None) -> tuple[str, dict[str, Blob]] | None:
        """Return commit and files, or answer with the error that the Hub gives."""
        repo = self.hub.repos.get(name)
        if repo is None:
            # The Hub does not tell an anonymous caller whether a private repository exists.
            self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        elif repo.token is not None and token != repo.token:
            if repo.gated:
                self._refuse(403 if token else 401, "GatedRepo", f"Access to model {name} is restricted.")
            else:
                self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        elif (commit := repo.branches.get(revision, revision)) not in repo.commits:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return commit, repo.commits[commit]
        return None

    def _api(self, parts: list[str], token: str | None) -> None:
        """`/api/models/org/name[/revision/<rev>|/tree/<rev>]`."""
        name = "/".join(parts[:2])
        kind = parts[2] if len(parts) > 2 else "revision"
        opened = self._open(name, "/".join(parts[3:]) or "main", token)
        if opened is None:
            return
        commit, files = opened
        entries: list[dict[str, object]] = [
            {
                "path": path,
                "size": len(blob.content),
                "lfs": {"sha256": blob.sha256, "oid": blob.sha256, "size": len(blob.content), "pointerSize": 135},
            }
            for path, blob in files.items()
        ]
        if kind == "tree":
            self._json([{"type": "file", "oid": commit} | entry for entry in entries])
        else:
            siblings = [{"rfilename": entry["path"], "blobId": commit} | entry for entry in entries]
            self._json({"id": name, "modelId": name, "sha": commit, "private": False, "siblings": siblings, "tags": []})

    def _resolve(self, path: str, token: str | None) -> None:
        """`/org/name/resolve/<rev>/<file>`: where the file is, and what it is."""
        name, _, rest = path.strip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        opened = self._open(name, revision, token)
        if opened is None:
            return
        commit, files = opened
        if file not in files:
            self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            return
        blob = files[file]
        self._answer(
            302,
            b"",
            {
                "Location": f"{self.hub.cdn_url}/cdn/{blob.sha256}{self.hub.sign()}",
                "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{blob.sha256}"',
                "X-Linked-Size": str(len(blob.content)),
                "Accept-Ranges": "bytes",
            },
        )

    def _content(self, content: bytes, etag: str) -> None:
        headers = {"ETag": f'"{etag}"', "Content-Type": "application/octet-stream"}
        asked = self.headers.get("Range") if self.hub.has_ranges else None
        status, first, last = 200, 0, len(content) - 1
        if asked:
            begin, _, end = asked.removeprefix("bytes=").partition("-")
            first = int(begin) if begin else max(len(content) - int(end), 0)
            last = min(int(end), last) if begin and end else last
            if first > last:
                self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            status = 206
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._answer(status, content[first : last + 1], headers, file=True)

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(
        self, status: int, code: str | None = None, message: str | None = None, more: Mapping[str, str] | None = None
    ) -> None:
        headers = dict(more or {})
        if code:
            headers["X-Error-Code"] = code
        if message:
            headers["X-Error-Message"] = message
        if self.hub.retry_after:
            headers["Retry-After"] = self.hub.retry_after
        self._answer(status, json.dumps({"error": message or status}).encode(), headers)

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str], *, file: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if file:
            self._send(body)
        else:
            self.wfile.write(body)

    def _send(self, body: bytes) -> None:
        """Send a file's bytes, and break as was asked."""
        hub = self.hub
        if hub.cut_after is not None:
            body, hub.cut_after = body[: hub.cut_after], None
            self.close_connection = True
        elif hub.cuts is not None and hub.cuts.random() < 0.5:
            body = body[: hub.cuts.randrange(len(body) + 1)]
            self.close_connection = True
        if hub.wrong_bytes and body:
            hub.wrong_bytes -= 1
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        if hub.trickles:
            hub.trickles -= 1
            for at in range(len(body)):
                self.wfile.write(body[at : at + 1])
                if hub.leaving.wait(0.05):
                    return
        view = memoryview(body)
        with contextlib.suppress(ConnectionError):  # the client was killed, or has what it wants
            for at in range(0, len(view), _CHUNK):
                hub.serve(len(view[at : at + _CHUNK]))
                self.wfile.write(view[at : at + _CHUNK])
