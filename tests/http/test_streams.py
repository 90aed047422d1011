"""Tests of streams: delivery, errors, and cancellation when the client disconnects."""

from __future__ import annotations

import socket
import threading

import httpx
import pytest

from tests.fake_backend import SECRET_ANSWER, FakeBackend, event
from tests.http.serving import CHAT, raw_post, serving
from tests.waiting import wait_until
from worker_gguf.errors import DeadlineExceeded, EngineFailed

STREAM = {"messages": [], "stream": True}


def test_stream_has_each_event_whole_and_the_right_headers() -> None:
    with serving() as served, served.client.stream("POST", CHAT, json=STREAM) as reply:
        assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert reply.headers["cache-control"] == "no-cache"
        assert reply.headers["x-accel-buffering"] == "no"
        assert reply.read() == b"".join(event(i) for i in range(3)) + b"data: [DONE]\n\n"
        assert served.backend.cancelled == []
        assert len(served.backend.finished) == 1


def test_events_arrive_while_the_stream_still_runs() -> None:
    with serving() as served, raw_post(served.port, STREAM | {"hang": True}) as sock:
        received = b""
        while event(2) not in received:
            received += sock.recv(65536)
        assert served.backend.finished == []


def test_client_gone_in_the_middle_of_a_stream_cancels_it() -> None:
    with serving() as served:
        with raw_post(served.port, STREAM | {"hang": True}) as sock:
            sock.recv(1)
        assert served.backend.ended.wait(10)
        assert len(served.backend.cancelled) == 1
        assert served.backend.running == set()
        wait_until(lambda: 'status="499"} 1.0' in served.metrics.render().decode())


def test_client_gone_before_a_whole_answer_cancels_it() -> None:
    with serving() as served:
        with raw_post(served.port, {"messages": [], "hang": True}):
            assert served.backend.started.wait(10)
        assert served.backend.ended.wait(10)
        assert len(served.backend.cancelled) == 1


def test_a_client_that_leaves_before_its_body_is_complete_calls_nothing() -> None:
    with serving() as served:
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as sock:
            sock.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
        wait_until(lambda: 'status="499"}' in served.metrics.render().decode())
        assert served.backend.calls == []


def test_many_clients_gone_at_once_leave_nothing_running() -> None:
    with serving() as served:
        socks = [raw_post(served.port, STREAM | {"hang": True, "n_events": i % 3}) for i in range(50)]
        wait_until(lambda: len(served.backend.calls) == 50)
        for sock in socks:
            sock.close()
        wait_until(lambda: not served.backend.running)
        assert served.client.post(CHAT, json={"messages": []}).status_code == 200


def test_a_client_that_leaves_after_the_last_event_has_its_answer() -> None:
    with serving() as served:
        with raw_post(served.port, STREAM | {"hangs_at_end": True}) as client:
            received = b""
            while b"data: [DONE]" not in received:
                received += client.recv(1 << 16)
        wait_until(lambda: 'status="200"} 1.0' in served.metrics.render().decode())


def test_a_slow_client_delays_no_other_and_loses_nothing() -> None:
    n_events = 20_000  # some 3 MB, far more than the socket's buffers hold
    with serving() as served, raw_post(served.port, STREAM | {"n_events": n_events}) as slow:
        received = slow.recv(1000)
        assert served.client.post(CHAT, json={"messages": []}).status_code == 200
        assert served.backend.finished == []  # it waits for the client instead of filling memory
        while b"data: [DONE]" not in received[-200:]:
            received += slow.recv(1 << 20)
        assert received.count(SECRET_ANSWER.encode()) == n_events


@pytest.mark.parametrize(
    ("error", "code"), [(EngineFailed("llama_decode failed."), "engine_failed"), (KeyError("a"), "internal_error")]
)
def test_only_done_follows_an_error_in_a_stream(error: Exception, code: str) -> None:
    backend = FakeBackend()
    backend.fail_mid_stream = error
    with serving(backend) as served:
        text = served.client.post(CHAT, json=STREAM).text
        assert text.startswith(event(0).decode())
        assert f'"code":"{code}"' in text.split("data: ")[-2]
        assert text.endswith("data: [DONE]\n\n")
        wait_until(lambda: not served.backend.running)


def test_error_before_the_first_event_has_its_status() -> None:
    backend = FakeBackend()
    backend.fail_mid_stream = DeadlineExceeded("The request waited too long.")
    with serving(backend) as served:
        reply = served.client.post(CHAT, json=STREAM | {"n_events": 1})
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert reply.headers["x-should-retry"] == "false"
        wait_until(lambda: not served.backend.running)


def test_ping_is_answered_while_streams_run() -> None:
    with serving() as served:
        threads = [
            threading.Thread(target=lambda: httpx.post(f"{served.url}{CHAT}", json=STREAM | {"n_events": 2000}))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        assert {served.client.get("/ping").status_code for _ in range(20)} == {200}
        for thread in threads:
            thread.join(10)
