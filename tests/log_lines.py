"""The lines that the worker logs, as JSON objects."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from worker_gguf.observe import log


class LogLines(io.StringIO):
    def read_all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def events(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.read_all() if line["event"] == event]


@contextmanager
def log_lines(level: str = "debug") -> Iterator[LogLines]:
    """Log into memory while the block runs, then as before."""
    root = logging.getLogger()
    handlers, before = list(root.handlers), root.level
    stream = LogLines()
    log.configure(level, "json", stream=stream)
    try:
        yield stream
    finally:
        root.handlers[:] = handlers
        root.setLevel(before)
