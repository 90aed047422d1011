"""Tests of the delivery of events to their readers."""

from __future__ import annotations

import logging

import pytest

from worker_gguf.generation.events import Finished, Usage
from worker_gguf.generation.stream import EventStream, deliver

ENDING = Finished("stop", Usage(1, 0, 1))


async def test_a_callback_that_fails_does_not_stop_the_events_of_other_streams(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails() -> None:
        raise KeyError("ticket")

    first = EventStream(("1",), lambda _: None, on_ended=fails)
    second = EventStream(("2",), lambda _: None)
    with caplog.at_level(logging.ERROR):
        deliver({first: {0: [ENDING]}})
        deliver({second: {0: [ENDING]}})
        assert [items async for items in second] == [{0: [ENDING]}]
    assert "the callback for the end of a request failed" in caplog.text
