"""Why a worker could not start, as its log tells, and whether another start could end otherwise."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path

from worker_gguf.errors import ModelInvalid, ModelNotFound, NotEnoughMemory, Unfit

__all__ = ["FailedStart", "read_failed_start"]

_EVENT = "cannot serve"
_LASTING = frozenset(error.code for error in (ModelInvalid, ModelNotFound, NotEnoughMemory, Unfit))
# How LOG_FORMAT=console writes it.
_READABLE = re.compile(rf"\b{_EVENT}\b.*\bcode=(?P<code>\w+)\s+error=(?P<error>.*)$")
_COLOURS = re.compile(r"\x1b\[[\d;]*m")


@dataclass(frozen=True, slots=True)
class FailedStart:
    """`code` is the error's own, `message` its sentence."""

    code: str
    message: str

    @property
    def is_lasting(self) -> bool:
        """Return whether the next start must fail in the same way."""
        return self.code in _LASTING


def read_failed_start(log: Path) -> FailedStart | None:
    """Return the last reason in the worker's log; None if it ended in another way, or logs too little (LOG_LEVEL)."""
    for line in reversed(log.read_text(errors="replace").splitlines()):
        if _EVENT in line and (failed := _from_json(line) or _from_text(line)):
            return failed
    return None


def _from_json(line: str) -> FailedStart | None:
    try:
        said = json.loads(line)
    except ValueError:
        return None
    if not isinstance(said, dict) or said.get("event") != _EVENT:
        return None
    return FailedStart(str(said.get("code")), str(said.get("error")))


def _from_text(line: str) -> FailedStart | None:
    found = _READABLE.search(_COLOURS.sub("", line))
    if found is None:
        return None
    try:
        message = str(ast.literal_eval(found["error"]))
    except (ValueError, SyntaxError):
        message = found["error"]
    return FailedStart(found["code"], message)
