"""Tests of comments in silent streams: when they are sent, and that none is sent inside an event."""

from __future__ import annotations

import asyncio
import re

import pytest
from starlette.types import Message

from tests.fake_backend import FakeBackend, event
from tests.http.serving import CHAT, raw_post, serving
from tests.waiting import wait_until
from worker_gguf.errors import DeadlineExceeded, QueueFull
from worker_gguf.http.sse import EventSender, Pings
from worker_gguf.protocol.dialect import SSE

STREAM = {"messages": [], "stream": True}
OFTEN = Pings(0.01, 0.01)

COMMENT = SSE.keep_alive


class Wire:
    """What was sent; `slow` holds a message until it is let go."""

    def __init__(self, pings: Pings) -> None:
        self.sent: list[bytes] = []
        self.n_started = 0
        self.arrived = asyncio.Event()
        self.slow: asyncio.Event | None = None
        self.sender = EventSender(self.start, self.send, pings)

    async def start(self) -> None:
        self.n_started += 1

    async def send(self, message: Message) -> None:
        if self.slow is not None and message["body"] != COMMENT:
            await self.slow.wait()
        self.sent.append(message["body"])
        self.arrived.set()

    async def next(self) -> None:
        self.arrived.clear()
        await asyncio.wait_for(self.arrived.wait(), 10)


async def test_silence_is_filled_with_comments_after_one_start() -> None:
    wire = Wire(OFTEN)
    await wire.next()
    await wire.next()
    await wire.sender.send(b"data: a\n\n")
    await wire.next()
    await wire.sender.end()
    n_sent = len(wire.sent)
    assert wire.n_started == 1
    assert wire.sent[:4] == [COMMENT, COMMENT, b"data: a\n\n", COMMENT]
    assert wire.sent[n_sent - 1] == b""
    assert len(asyncio.all_tasks()) == 1


async def test_zero_sends_no_comment() -> None:
    wire = Wire(Pings())
    await wire.sender.end()
    assert (wire.sent, wire.n_started) == ([b""], 1)
    assert len(asyncio.all_tasks()) == 1


async def test_no_comment_comes_while_an_event_is_on_its_way() -> None:
    wire = Wire(OFTEN)
    wire.slow = asyncio.Event()
    await wire.next()
    sending = asyncio.create_task(wire.sender.send(b"data: a\n\n"))
    n_sent = len(wire.sent)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.shield(sending), 0.1)  # ten times the interval
    assert len(wire.sent) <= n_sent + 1  # one may have been ahead of it
    wire.slow.set()
    await sending
    await wire.sender.close()
    assert wire.sent[-1] == b"data: a\n\n"


def test_the_first_comment_waits_until_nothing_can_be_refused_any_more() -> None:
    assert Pings.within(15.0, 60.0) == Pings(15.0, 60.0)
    assert Pings.within(15.0, None) == Pings(15.0, 15.0)
    assert Pings.within(0.0, 60.0).every_s == 0


def test_a_stream_that_waits_for_its_first_token_is_not_silent() -> None:
    with serving(pings=OFTEN) as served:
        with raw_post(served.port, STREAM | {"hang": True, "n_events": 0}) as sock:
            received = b""
            while received.count(COMMENT) < 3:
                received += sock.recv(65536)
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"data:" not in received
        assert served.backend.ended.wait(10)  # the client has left


def test_a_stream_between_tokens_is_not_silent_and_no_event_is_split() -> None:
    with serving(pings=OFTEN) as served, raw_post(served.port, STREAM | {"hang": True, "n_events": 50}) as sock:
        received = b""
        while received.count(COMMENT) < 3:
            received += sock.recv(65536)
        body = received.partition(b"\r\n\r\n")[2]
        text = re.sub(rb"[0-9a-f]+\r\n((?:.|\n)*?)\r\n", rb"\1", body)  # chunked encoding, undone
        assert text.replace(COMMENT, b"") == b"".join(event(i) for i in range(50))


def test_an_error_after_a_comment_comes_as_an_event() -> None:
    backend = FakeBackend()
    backend.fail_mid_stream = DeadlineExceeded("Too late.")
    backend.fail_after_gate = True
    with serving(backend, pings=OFTEN) as served, raw_post(served.port, STREAM | {"hang": True, "n_events": 1}) as sock:
        received = b""
        while COMMENT not in received:
            received += sock.recv(65536)
        served.loop_call(backend.release)
        while b"0\r\n\r\n" not in received:
            received += sock.recv(65536)
        assert b'"code":"deadline_exceeded"' in received
        wait_until(lambda: not backend.running)


def test_an_error_before_any_comment_has_its_status() -> None:
    backend = FakeBackend()
    backend.fail_mid_stream = QueueFull.waited(7)
    with serving(backend, pings=Pings(0.01, 60.0)) as served:
        reply = served.client.post(CHAT, json=STREAM | {"n_events": 1})
        assert (reply.status_code, reply.headers["retry-after"]) == (429, "7")
