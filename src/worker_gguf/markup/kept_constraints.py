"""Keeps the constraints of the last calls: each turn of an agent offers the same tools."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256

from worker_gguf.engine.request import Constraint
from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.tool import ToolUse

__all__ = ["KeptConstraints"]

_MOST = 32
# A longer grammar is not kept, so that all together have a bounded size.
_LONGEST = 2**20

TokenOf = Callable[[str], int | None]


class KeptConstraints:
    """The constraints of one format. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By the tools and by what knows the tokens; the one that was not used for the longest time comes first.
        self._kept: OrderedDict[tuple[TokenOf, bytes], Constraint] = OrderedDict()

    def of(self, form: CallFormat, use: ToolUse, token_of: TokenOf) -> Constraint:
        """Return what `call_constraint` returns for this, which may be one that it returned before."""
        # Imported here, because a start should not wait for it.
        from worker_gguf.markup.call_grammar import call_constraint

        written = _written(use)
        if written is None:
            return call_constraint(form, use, token_of)
        key = token_of, written
        with self._lock:
            if (known := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return known
        constraint = call_constraint(form, use, token_of)
        if len(constraint.grammar) <= _LONGEST:
            with self._lock:
                self._kept[key] = constraint
                if len(self._kept) > _MOST:
                    self._kept.popitem(last=False)
        return constraint


def _written(use: ToolUse) -> bytes | None:
    """Return a digest of all that a constraint depends on, or None if it cannot be written."""
    tools = [(tool.name, tool.strict, tool.parameters) for tool in use.tools]
    try:
        return sha256(json.dumps([use.is_required, use.is_parallel, tools]).encode()).digest()
    except RecursionError:
        return None
