"""Structured logs: one line an event, ids and numbers, never a prompt or an answer. Knows nothing of settings.

`logger.info("model loaded", seconds=4.1)` is a JSON line on RunPod and a readable one at a terminal. What `bound` holds
(request_id, job_id) is on every line logged inside it. Libraries' own records go through the same handler.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast

from worker_gguf.observe.lean_structlog import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

__all__ = ["bound", "configure", "get_logger"]

# Libraries whose debug and info lines say nothing of the worker, or too much: URLs, headers, bodies.
QUIET = ("aiohttp", "asyncio", "botocore", "boto3", "filelock", "httpcore", "httpx", "urllib3", "uvicorn")
bound = structlog.contextvars.bound_contextvars
FIRST = ("timestamp", "level", "logger", "event")

_COMMON: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that `configure` replaces it and leaves other people's alone."""


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger that may be made at import: it looks up level and handler when it is used."""
    logger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            *_COMMON,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    return cast(structlog.stdlib.BoundLogger, logger)


def configure(
    level: str = "info",
    log_format: Literal["auto", "json", "console"] = "auto",
    *,
    on_runpod: bool = False,
    stream: TextIO | None = None,
) -> None:
    """Send everything logged in this process to `stream`, standard error by default."""
    handler = _Handler(stream or sys.stderr)
    as_json = log_format == "json" or (log_format == "auto" and (on_runpod or not handler.stream.isatty()))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=(*_COMMON, structlog.stdlib.ExtraAdder()),
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(_json() if as_json else _console(handler.stream)),
            ],
        )
    )
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in QUIET:
        quiet = logging.getLogger(name)
        quiet.setLevel(logging.WARNING)
        quiet.propagate = True  # uvicorn, for one, cuts its access log off


def _json() -> Iterable[Processor]:
    return (structlog.processors.format_exc_info, _in_order, structlog.processors.JSONRenderer(ensure_ascii=False))


def _console(stream: TextIO) -> Iterable[Processor]:
    # The default traceback shows local variables, among them prompts.
    plain = structlog.dev.plain_traceback
    return (structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain),)


def _in_order(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    ordered: dict[str, Any] = {name: event[name] for name in FIRST if name in event}
    return ordered | dict(event)
