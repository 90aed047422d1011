"""RunPod on 127.0.0.1: its REST API with the rules of its description, and the addresses of the endpoints.

Every request and every answer is compared with the published description. Differences are kept in `faults`, and a test
that leaves one there fails (conftest.py).
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from tests.deployment.description import Description
from tests.deployment.fake_plane import FakePlane

__all__ = ["KEY", "Failure", "FakeRunpod", "Seen"]

KEY = "rpa_THEKEYTHATNOBODYMAYSEE0123456789"

Kind = Literal["network-volumes", "templates", "serverless"]
LISTS = {"network-volumes": "networkVolumes", "templates": "templates", "serverless": "endpoints"}
CONTAINER = ("image", "args", "disk", "ports", "registry", "env")


@dataclass(frozen=True)
class Seen:
    method: str
    path: str
    body: Any = field(default=None, repr=False)


@dataclass
class Failure:
    """What happens to the next `times` requests of that method and path; `after` carries the request out first."""

    method: str
    path: str
    status: int | None  # None: the connection is cut
    times: int = 1
    retry_after_s: int | None = None
    after: bool = False
    text: bytes | None = None  # in place of the described body
    detail: str = "as the test wants"


class Refused(Exception):
    def __init__(self, status: int, detail: str) -> None:
        self.status, self.detail = status, detail


class FakeRunpod:
    """Ids count up and nothing is random."""

    def __init__(self, description: Description) -> None:
        self.description = description
        self.objects: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in LISTS}
        self.seen: list[Seen] = []
        self.faults: list[str] = []
        self.failures: list[Failure] = []
        self.bound: dict[str, str] = {}  # endpoint to template, where deleting the one deletes the other
        self.binds_templates = False
        self.reach: Callable[[str, str], Mapping[str, str]] | None = None
        self.plane = FakePlane()
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def only(self, kind: Kind) -> dict[str, Any]:
        (found,) = self.objects[kind].values()
        return found

    def changes(self) -> list[Seen]:
        """The requests to the API that change something."""
        return [seen for seen in self.seen if seen.method != "GET" and seen.path.startswith("/v2/")]

    def answer(self, method: str, path: str, query: str, content_type: str, body: Any) -> tuple[int, Any]:
        """Carry a request out and return what the API says."""
        with self._lock:
            faults = self.description.request_faults(method, path, query, content_type, body)
            self.faults += [f"{method} {path}: {fault}" for fault in faults]
            if faults:
                return _problem(422, "; ".join(faults), faults)
            try:
                return self._carry_out(method, path.split("/")[2:], body)
            except Refused as refused:
                return _problem(refused.status, refused.detail)

    def _carry_out(self, method: str, parts: list[str], body: Any) -> tuple[int, Any]:
        kind, objects = parts[0], self.objects[parts[0]]
        if len(parts) == 1:
            if method == "GET":
                return 200, {LISTS[kind]: list(objects.values())}
            makers = {"network-volumes": _volume, "templates": _template, "serverless": self._endpoint}
            made = makers[kind](body)
            made["id"] = f"{kind[:4]}{next(self._ids)}"
            if kind == "serverless":
                made["requestUrls"] = self._urls(made["id"], made["type"])
                if self.binds_templates and "templateId" in body:
                    self.bound[made["id"]] = body["templateId"]
            objects[made["id"]] = made
            return 201, made
        if parts[1] not in objects:
            raise Refused(404, f"{kind} {parts[1]} not found")
        if method == "DELETE":
            del objects[parts[1]]
            self.objects["templates"].pop(self.bound.pop(parts[1], ""), None)
            return 204, None
        if method == "PATCH":
            changers = {"network-volumes": _grow, "templates": _edit, "serverless": _change}
            changers[kind](objects[parts[1]], body)
        return 200, objects[parts[1]]

    def _endpoint(self, body: dict[str, Any]) -> dict[str, Any]:
        if ("gpu" in body) == ("cpu" in body):
            raise Refused(400, "exactly one of gpu and cpu")
        template = self.objects["templates"].get(str(body.get("templateId")), {})
        if "templateId" in body and not template:
            raise Refused(404, "template not found")
        if template and not template["serverless"]:
            raise Refused(422, "not a serverless template")
        for volume in body.get("networkVolumes", []):
            if volume not in self.objects["network-volumes"]:
                raise Refused(404, f"volume {volume} not found")
        made = {key: body.get(key, template.get(key)) for key in CONTAINER}
        made["env"] = {**template.get("env", {}), **body.get("env", {})}
        made |= {
            "name": body["name"],
            "type": body["type"],
            "workers": {"min": 0, "max": 3, "idleTimeout": 10} | body.get("workers", {}),
            "scaling": body["scaling"],
            "dataCenterIds": body.get("dataCenterIds", ["US-KS-2"]),
            "networkVolumes": body.get("networkVolumes", []),
            "timeout": body.get("timeout", 300000),
            "flashboot": body.get("flashboot", "OFF"),
            "createdAt": "2026-03-13T20:00:00Z",
            **({"gpu": _gpu({}, body["gpu"])} if "gpu" in body else {"gpu": None, "cpu": _cpu(body["cpu"])}),
        }
        _check_scaling(made, body)
        return made

    def _urls(self, id_: str, type_: str) -> Mapping[str, str]:
        if self.reach is not None:
            return self.reach(id_, type_)
        return self.plane.urls(f"{self.url}/plane/{id_}", type_)


def _volume(body: dict[str, Any]) -> dict[str, Any]:
    return {"type": "STANDARD", **body}


def _template(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "args": "", "disk": 50, "ports": [], "env": {}, "registry": None, "mounts": {}, "serverless": False,
        "public": False, "category": "NVIDIA", "startSsh": True, "startJupyter": True, "allowedCudaVersions": [],
    } | body  # fmt: skip


def _edit(template: dict[str, Any], body: dict[str, Any]) -> None:
    template.update(body)


def _grow(volume: dict[str, Any], body: dict[str, Any]) -> None:
    if body.get("size", volume["size"]) < volume["size"]:
        raise Refused(400, "size may only increase")
    volume.update(body)


def _change(endpoint: dict[str, Any], body: dict[str, Any]) -> None:
    if ("cpu" if endpoint["gpu"] else "gpu") in body:
        raise Refused(400, "compute family cannot be changed")
    changed = endpoint | {key: value for key, value in body.items() if key not in ("gpu", "cpu", "workers")}
    changed["workers"] = endpoint["workers"] | body.get("workers", {})
    if "gpu" in body:
        changed["gpu"] = _gpu(endpoint["gpu"], body["gpu"])
    if "cpu" in body:
        changed["cpu"] = _cpu(body["cpu"])
    _check_scaling(changed, body)
    endpoint.clear()
    endpoint.update(changed)


def _check_scaling(endpoint: dict[str, Any], body: dict[str, Any]) -> None:
    by_requests = endpoint["scaling"]["type"] == "REQUEST_COUNT"
    if endpoint["type"] == "LOAD_BALANCER" and not by_requests:
        raise Refused(400, "a load balancer scales on REQUEST_COUNT")
    if endpoint["type"] == "QUEUE" and by_requests:
        if "idleTimeout" in body.get("workers", {}):
            raise Refused(400, "idleTimeout is not applicable")
        endpoint["workers"] = {key: endpoint["workers"][key] for key in ("min", "max")}


def _gpu(before: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    gpu = {"count": 1, "allowedCudaVersions": [], "minCudaVersion": None} | before | body
    if "pools" in body and not body.get("excludedTypes"):
        gpu.pop("excludedTypes", None)
    gpu["minCudaVersion"] = gpu["minCudaVersion"] or None
    if gpu["allowedCudaVersions"] and gpu["minCudaVersion"]:
        raise Refused(400, "allowedCudaVersions and minCudaVersion are mutually exclusive")
    return gpu


def _cpu(body: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**cpu, "memory": cpu["vcpuCount"] * 2} for cpu in body]


def _problem(status: int, detail: str, errors: list[str] | None = None) -> tuple[int, Any]:
    return status, {"title": HTTPStatus(status).phrase, "status": status, "detail": detail} | (
        {"errors": errors} if errors else {}
    )


class _Server(ThreadingHTTPServer):
    def __init__(self, fake: FakeRunpod) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fake = fake


class _Handler(BaseHTTPRequestHandler):
    """One connection to the stand-in."""

    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes; the second would wait for 40 ms

    def do_GET(self) -> None:
        fake = self.server.fake
        length = int(self.headers.get("Content-Length") or 0)
        text = self.rfile.read(length)
        body = json.loads(text) if text else None
        parts = urlsplit(self.path)
        fake.seen.append(Seen(self.command, parts.path, body))
        failure = next((f for f in fake.failures if f.method == self.command and f.path == parts.path), None)
        if failure is not None:
            failure.times -= 1
            fake.failures = [f for f in fake.failures if f.times > 0]
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            self._send(*_problem(401, "missing or invalid bearer token"))
        elif parts.path.startswith("/plane/"):
            self._send(*fake.plane.answer(self.command, parts.path.split("/", 3)[3], body))
        elif failure is None or failure.after:
            content_type = self.headers.get("Content-Type", "")
            answer = fake.answer(self.command, parts.path, parts.query, content_type, body)
            self._fail(failure) if failure else self._send(*answer)
        else:
            self._fail(failure)

    do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815 - http.server's names

    def _fail(self, failure: Failure) -> None:
        if failure.status is None:
            self.close_connection = True
            self.connection.close()
        elif failure.text is not None:
            self._write(failure.status, "text/html", failure.text)
        else:
            status, said = _problem(failure.status, failure.detail)
            self._send(status, said, failure.retry_after_s)

    def _send(self, status: int, said: Any, retry_after_s: int | None = None) -> None:
        path = urlsplit(self.path).path
        is_problem = status >= 400 and path.startswith("/v2/")
        content_type = "application/problem+json" if is_problem else "application/json"
        fake = self.server.fake
        faults = fake.description.answer_faults(self.command, path, status, content_type, said)
        fake.faults += [f"the stand-in's answer to {self.command} {path}: {fault}" for fault in faults]
        text = b"" if said is None else json.dumps(said).encode()
        self._write(status, content_type, text, retry_after_s)

    def _write(self, status: int, content_type: str, text: bytes, retry_after_s: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        if retry_after_s is not None:
            self.send_header("Retry-After", str(retry_after_s))
        if status != 204:
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if status != 204:
            self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
