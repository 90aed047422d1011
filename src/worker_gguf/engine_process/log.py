"""Sends the lines of this process's log to the worker process, which writes one log for all."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from worker_gguf.link.channel import Channel, ChannelClosed
from worker_gguf.link.messages import LastWords, Logged

__all__ = ["LogSender", "say_last"]

_OF_EVERY_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LogSender(logging.Handler):
    """A handler for the root logger."""

    def __init__(self, channel: Channel[Any]) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        event = record.getMessage()
        if record.exc_info:
            event = f"{event}\n{logging.Formatter().formatException(record.exc_info)}"
        fields = {name: _plain(value) for name, value in vars(record).items() if name not in _OF_EVERY_RECORD}
        with contextlib.suppress(ChannelClosed):
            self._channel.send(Logged(logger=record.name, level=record.levelno, event=event, fields=fields))


def say_last(channel: Channel[Any], sentence: str) -> None:
    """Tell the worker process why llama.cpp ends this one."""
    with contextlib.suppress(ChannelClosed):
        channel.send(LastWords(sentence=sentence))


def _plain(value: object) -> str | int | float | bool | None:
    return value if isinstance(value, str | int | float | bool | None) else str(value)
