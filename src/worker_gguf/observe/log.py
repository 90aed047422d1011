"""The format of the log: one line per event, with ids and numbers, never with a prompt or an answer.

Every module logs with the standard library: `logger.info("model loaded", extra={"seconds": 4.1})`. `configure` formats
it as a JSON line on RunPod and as a readable line on a terminal. The fields of `bound` and `bind` (request_id, job_id)
are added to every line that is logged in their context, including the lines of libraries.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal, TextIO

__all__ = ["bind", "bound", "configure", "hold", "write_held"]

# Libraries whose debug and info lines are not useful, or contain private data such as URLs, headers and bodies.
QUIET = ("aiohttp", "asyncio", "botocore", "boto3", "filelock", "httpcore", "httpx", "urllib3", "uvicorn")
_LEVEL_COLORS = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}
_BOLD, _CYAN, _PLAIN = "\x1b[1m", "\x1b[36m", "\x1b[0m"
_EVENT_WIDTH = 30
# The attributes of every record, and those that formatters add. All other attributes come from `extra`.
_OF_EVERY_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_bound: ContextVar[Mapping[str, object]] = ContextVar("bound", default=MappingProxyType({}))


def bind(**fields: object) -> None:
    """Add fields to every later line in the context of this task."""
    _bound.set({**_bound.get(), **fields})


@contextlib.contextmanager
def bound(**fields: object) -> Iterator[None]:
    """Add fields to every line that is logged inside the block."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def configure(
    level: str = "info",
    log_format: Literal["auto", "json", "console"] = "auto",
    *,
    on_runpod: bool = False,
    stream: TextIO | None = None,
) -> None:
    """Write the log of this process to `stream`, by default standard error. Replaces an earlier configuration.

    With `log_format="auto"`, lines are JSON on RunPod or if the stream is not a terminal.
    """
    handler = _Handler(stream or sys.stderr)
    as_json = log_format == "json" or (log_format == "auto" and (on_runpod or not handler.stream.isatty()))
    handler.setLevel(level.upper())  # for lines that another thread has begun to log at the level of `hold`
    handler.setFormatter(_JsonFormatter() if as_json else _ConsoleFormatter(in_color=handler.stream.isatty()))
    root = logging.getLogger()
    root.setLevel(level.upper())
    for name in QUIET:
        quiet = logging.getLogger(name)
        quiet.setLevel(logging.WARNING)
        quiet.propagate = True  # some libraries turn it off, for example uvicorn for its access log
    held = [old for old in root.handlers if isinstance(old, _HeldLines)]
    # In one assignment, because another thread may be logging.
    root.handlers = [*(old for old in root.handlers if not isinstance(old, (_Handler, _HeldLines))), handler]
    for lines in held:
        lines.pass_to(handler)


def hold() -> None:
    """Keep all lines from now on until `configure` is called, which writes those of its level."""
    root = logging.getLogger()
    root.addHandler(_HeldLines())
    root.setLevel(logging.DEBUG)


def write_held() -> None:
    """Write the lines that are still held. For a process that must end before its settings are read."""
    if any(isinstance(handler, _HeldLines) for handler in logging.getLogger().handlers):
        configure()


class _Handler(logging.StreamHandler[TextIO]):
    """A separate class, so that `configure` can replace its own handler and keep all others."""


class _HeldLines(logging.Handler):
    """Keeps lines in memory until there is a handler for them."""

    def __init__(self) -> None:
        super().__init__()
        self._records: list[logging.LogRecord] = []
        self._handler: logging.Handler | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self._handler is None:
            self._records.append(record)
        else:  # a thread that began to log before the handler was replaced
            _pass_on(record, self._handler)

    def pass_to(self, handler: logging.Handler) -> None:
        """Pass the lines on to a handler, and all later ones too."""
        self.acquire()
        try:
            for record in self._records:
                _pass_on(record, handler)
            self._records.clear()
            self._handler = handler
        finally:
            self.release()


def _pass_on(record: logging.LogRecord, handler: logging.Handler) -> None:
    if logging.getLogger(record.name).isEnabledFor(record.levelno):
        handler.handle(record)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    own = {name: value for name, value in vars(record).items() if name not in _OF_EVERY_RECORD}
    return {**_bound.get(), **own}


class _JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object, beginning with timestamp, level, logger and event."""

    def format(self, record: logging.LogRecord) -> str:
        timestamp = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
        line: dict[str, object] = {
            "timestamp": timestamp.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=repr)


class _ConsoleFormatter(logging.Formatter):
    """Formats a record for a terminal: the time of day, the level, the event, then the fields."""

    def __init__(self, *, in_color: bool) -> None:
        super().__init__()
        self._in_color = in_color

    def format(self, record: logging.LogRecord) -> str:
        level = record.levelname.lower()
        fields = " ".join(f"{self._paint(_CYAN, name)}={_text(value)}" for name, value in _fields(record).items())
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        color = _LEVEL_COLORS.get(level, _LEVEL_COLORS["error"])
        event = self._paint(_BOLD, record.getMessage().ljust(_EVENT_WIDTH if fields else 0))
        line = f"{time} {self._paint(color, level.ljust(8))} {event} {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line

    def _paint(self, color: str, text: str) -> str:
        return f"{color}{text}{_PLAIN}" if self._in_color else text


def _text(value: object) -> str:
    text = str(value)
    return repr(text) if not text or " " in text or "\n" in text else text
