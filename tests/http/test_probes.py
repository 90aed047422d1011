"""Tests of /ping, /health, /metrics and the second port."""

from __future__ import annotations

import socket

import httpx
import pytest

from tests.fake_backend import FakeBackend
from tests.http.serving import CHAT, KEY, serving
from worker_gguf.errors import SettingsError
from worker_gguf.http.app import create_health_app
from worker_gguf.http.binding import bind
from worker_gguf.http.server import ServerThread
from worker_gguf.observe.metrics import Metrics
from worker_gguf.observe.status import Status


@pytest.mark.parametrize(
    ("phase", "status"), [("starting", 204), ("ready", 200), ("draining", 503), ("stopped", 503), ("failed", 503)]
)
def test_ping_tells_the_phase_with_an_empty_body(phase: Status, status: int) -> None:
    with serving(FakeBackend(phase)) as served:
        reply = served.client.get("/ping")
        assert (reply.status_code, reply.content) == (status, b"")


@pytest.mark.parametrize("path", ["/ping", "/healthz", "/health"])
def test_a_balancer_may_ask_for_health_under_a_path_of_its_own(path: str) -> None:
    with serving(FakeBackend("starting"), health_path=path) as served:
        assert served.client.get(path).status_code == 204
        assert served.client.get("/ping").status_code == 204


def test_connections_are_closed_while_the_worker_drains() -> None:
    backend = FakeBackend()
    with serving(backend) as served:
        assert "connection" not in served.client.get("/ping").headers
        assert "connection" not in served.client.post(CHAT, json={"messages": []}).headers
        backend.phase = "draining"
        for reply in (served.client.get("/ping"), served.client.post(CHAT, json={"messages": []})):
            assert (reply.status_code, reply.headers["connection"]) == (503, "close")


def test_answers_have_the_workers_id_and_not_the_platforms_header() -> None:
    with serving(worker_id="abc123") as served:
        reply = served.client.post(CHAT, json={"messages": []})
        assert reply.headers["x-worker-id"] == "abc123"
        assert "x-runpod-worker-id" not in reply.headers
    with serving() as served:
        assert "x-worker-id" not in served.client.post(CHAT, json={"messages": []}).headers


@pytest.mark.parametrize(
    ("phase", "status"), [("starting", 200), ("ready", 200), ("draining", 503), ("stopped", 503), ("failed", 503)]
)
def test_health_is_json_in_every_phase(phase: Status, status: int) -> None:
    with serving(FakeBackend(phase)) as served:
        reply = served.client.get("/health")
        assert reply.status_code == status
        assert reply.json()["phase"] == phase


@pytest.mark.parametrize("path", ["/", "/ping", "/health", "/metrics", "/openapi.json", "/v1/models", "/props"])
def test_head_is_a_get_without_the_body(path: str) -> None:
    with serving() as served:
        head, get = served.client.head(path), served.client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) > 0 or path == "/ping"
        assert head.headers.get("content-type") == get.headers.get("content-type")


def test_the_allowed_method_of_a_get_is_named_alone() -> None:
    with serving() as served:
        reply = served.client.post("/health")
        assert (reply.status_code, reply.headers["allow"]) == (405, "GET")
        assert served.client.head(CHAT).status_code == 405


def test_probes_are_free_and_everything_else_wants_the_key() -> None:
    with serving(api_keys=(KEY,)) as served:
        assert served.client.get("/ping").status_code == 200
        assert served.client.get("/health").status_code == 200
        for method, path in [("GET", "/metrics"), ("GET", "/v1/models"), ("GET", "/v1/models/fake"), ("POST", CHAT)]:
            assert served.client.request(method, path).status_code == 401, path


def test_metrics_count_requests_by_template_and_status() -> None:
    with serving() as served:
        served.client.get("/v1/models/fake")
        served.client.get("/v1/models/another")
        served.client.post(CHAT, content=b"{")
        text = served.client.get("/metrics").text
    assert 'worker_gguf_requests_total{route="/v1/models/{model_id}",status="200"} 1.0' in text
    assert 'worker_gguf_requests_total{route="/v1/models/{model_id}",status="404"} 1.0' in text
    assert f'worker_gguf_requests_total{{route="{CHAT}",status="400"}} 1.0' in text


def test_health_port_serves_probes_and_nothing_else() -> None:
    app = create_health_app(FakeBackend(), api_keys=[KEY], metrics=Metrics("test"))
    with (
        ServerThread(app, bind("127.0.0.1", 0)) as server,
        httpx.Client(base_url=server.url, trust_env=False) as client,
    ):
        assert client.get("/ping").status_code == 200
        assert client.get("/health").status_code == 200
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
        assert client.get("/v1/models").status_code == 404


def test_connection_made_before_the_loop_runs_waits_for_it() -> None:
    app = create_health_app(FakeBackend("starting"), api_keys=[], metrics=Metrics("test"))
    sock = bind("127.0.0.1", 0)
    with httpx.Client(trust_env=False) as client:
        early = socket.create_connection(sock.getsockname(), timeout=10)
        early.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        with ServerThread(app, sock) as server:
            assert early.recv(12) == b"HTTP/1.1 204"
            assert client.get(f"{server.url}/ping").status_code == 204
        early.close()


def test_port_in_use_is_a_sentence() -> None:
    with bind("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(SettingsError, match=f"127.0.0.1:{port}"):
            bind("127.0.0.1", port)
