"""Tests of replies: a stream of events, or one answer, or the error that ends either."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from worker_gguf.errors import DeadlineExceeded, InvalidRequest
from worker_gguf.generation.events import Delta, Event, Finished, Usage
from worker_gguf.observe.account import Account
from worker_gguf.protocol.dialect import Dialect, Wording
from worker_gguf.protocol.names import Names
from worker_gguf.protocol.openai.chat_rendering import ChatRendering
from worker_gguf.protocol.openai.errors import DONE, OPENAI
from worker_gguf.protocol.rendering import Heading
from worker_gguf.service.reply import Reply, collect

STOP = Finished("stop", Usage(3, 1, 0))
LATE = Finished("error", Usage(3, 1, 0), error=DeadlineExceeded("Too late."))
OTHER_DIALECT = Dialect("other", OPENAI.body, lambda word: b"event: error\ndata: " + word.message.encode() + b"\n\n")


class Stream:
    """An event stream of one choice that is known in advance. It hangs after its last item unless that is an end."""

    def __init__(self, items: Sequence[list[Event]]) -> None:
        self._left = list(items)
        self._is_over = False
        self.is_cancelled = False

    def __aiter__(self) -> AsyncIterator[dict[int, list[Event]]]:
        return self

    async def __anext__(self) -> dict[int, list[Event]]:
        if self._is_over:
            raise StopAsyncIteration
        if not self._left:
            await asyncio.Event().wait()
        events = self._left.pop(0)
        self._is_over = isinstance(events[-1], Finished)
        return {0: events}

    def cancel(self) -> None:
        self.is_cancelled = True


def reply(*items: list[Event]) -> tuple[Reply, Stream, Account]:
    stream, account = Stream(items), Account("http", "req_test")
    rendering = ChatRendering(Heading("chatcmpl-1", 1, "m", "f"))
    return Reply(stream, rendering, OTHER_DIALECT, account), stream, account  # type: ignore[arg-type]


def texts(data: bytes) -> list[str]:
    chunks: list[dict[str, Any]] = [json.loads(line[6:]) for line in data.decode().split("\n\n") if line[6:7] == "{"]
    return [choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]]


async def test_a_stream_ends_with_done() -> None:
    replied, _, account = reply([Delta("a", ())], [Delta("b", ()), STOP])
    *events, last = [event async for event in replied]
    assert "".join(texts(b"".join(events))) == "ab"
    assert last == DONE
    assert account.error is None


async def test_an_error_before_the_first_event_is_raised() -> None:
    replied, stream, account = reply([LATE])
    with pytest.raises(DeadlineExceeded):
        await anext(replied)
    assert stream.is_cancelled
    assert isinstance(account.error, DeadlineExceeded)


async def test_an_error_after_the_first_event_is_the_last_event_in_the_form_of_the_route() -> None:
    replied, stream, account = reply([Delta("a", ())], [Delta("b", ()), LATE])
    events = [event async for event in replied]
    assert "".join(texts(b"".join(events))) == "ab"
    assert events[-1].endswith(b"event: error\ndata: Too late.\n\n")
    assert stream.is_cancelled
    assert isinstance(account.error, DeadlineExceeded)


async def test_a_rendering_may_have_its_own_end_for_an_error_and_none_for_a_stream() -> None:
    class Other(ChatRendering):
        def failure(self, wording: Wording) -> bytes:
            return b"failed: " + wording.message.encode()

        def stream_end(self) -> bytes:
            return b""

    def other(*items: list[Event]) -> Reply:
        rendering = Other(Heading("x", 1, "m", "f"))
        return Reply(Stream(items), rendering, OTHER_DIALECT, Account("http", "r"))  # type: ignore[arg-type]

    failed = [event async for event in other([Delta("a", ())], [LATE])]
    assert failed[-1] == b"failed: Too late."
    assert all([event async for event in other([Delta("a", ())], [STOP])])


async def test_an_error_of_the_engine_names_the_field_that_the_client_sent() -> None:
    error = InvalidRequest("The grammar in 'response_format' is wrong.", param="response_format")
    wrong: list[Event] = [Finished("error", Usage(3, 0, 0), error=error)]

    def of_a_client(*items: list[Event]) -> Reply:
        rendering = ChatRendering(Heading("x", 1, "m", "f"))
        names = Names({"response_format": "text.format"})
        return Reply(Stream(items), rendering, OTHER_DIALECT, Account("http", "r"), names)  # type: ignore[arg-type]

    with pytest.raises(InvalidRequest, match="'text\\.format'") as early:
        await anext(of_a_client(wrong))
    with pytest.raises(InvalidRequest, match="'text\\.format'") as whole:
        await collect(of_a_client(wrong))
    assert early.value.param == whole.value.param == "text.format"
    assert b"'text.format'" in [event async for event in of_a_client([Delta("a", ())], wrong)][-1]


async def test_a_reader_that_is_cancelled_cancels_the_generation() -> None:
    replied, stream, _ = reply([Delta("a", ())])
    await anext(replied)
    reading = asyncio.create_task(anext(replied))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait({reading})
    assert stream.is_cancelled


async def test_closing_before_the_first_event_cancels_the_generation() -> None:
    replied, stream, _ = reply([Delta("a", ())])
    await replied.aclose()
    assert stream.is_cancelled
    assert [event async for event in replied] == []


async def test_a_whole_answer_has_the_text_of_all_events() -> None:
    replied, _, _ = reply([Delta("a", ())], [Delta("b", ()), STOP])
    assert (await collect(replied))["choices"][0]["message"]["content"] == "ab"


async def test_a_whole_answer_that_fails_raises_the_error() -> None:
    replied, stream, _ = reply([Delta("a", ())], [LATE])
    with pytest.raises(DeadlineExceeded):
        await collect(replied)
    assert stream.is_cancelled
