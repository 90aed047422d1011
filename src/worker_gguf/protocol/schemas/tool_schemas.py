"""Examines the JSON Schemas of the tools of a request before a grammar is made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from worker_gguf.errors import UnsupportedParameter
from worker_gguf.protocol.schemas.cost import MOST_MS
from worker_gguf.protocol.schemas.fault import Fault
from worker_gguf.protocol.schemas.json_schema import Refused, examine
from worker_gguf.protocol.validation import invalid

__all__ = ["MOST_IGNORED", "ToolSchemas"]

# Names of keywords that are left out. The others are named together.
MOST_IGNORED = 50
_MOST_SHOWN = 3


class ToolSchemas:
    """The schemas of one request, and what they cost together."""

    def __init__(self) -> None:
        self._cost_ms = 0.0
        self._ignored: dict[str, None] = {}

    def guaranteed(self, param: str, parameters: Mapping[str, Any], *, is_strict: bool) -> Mapping[str, Any]:
        """Return the schema at the place `param` as calls can be held to it. Arguments are always an object.

        Raises InvalidRequest if it takes too long to compile, alone or with those before it, or if a tool is strict and
        its schema cannot be guaranteed in full.
        """
        try:
            examined = examine({**parameters, "type": "object"})
        except Refused as refused:
            raise invalid(param, f"the JSON Schema {refused}") from None
        if examined.faults and is_strict:
            raise _not_guaranteed(param, examined.faults)
        # The keyword only: names of properties are the client's own, and ignored names appear in the log.
        self._ignored |= dict.fromkeys(f"{param}.{fault.keyword}" for fault in examined.faults)
        self._cost_ms += examined.cost_ms
        if self._cost_ms > MOST_MS:
            raise invalid(param.partition(".")[0], "the JSON Schemas of all tools would take too long to compile")
        return examined.schema

    def ignored(self) -> Iterable[str]:
        """Return the places of the keywords that are left out."""
        names = list(self._ignored)
        return names if len(names) <= MOST_IGNORED else [*names[:MOST_IGNORED], f"{names[0].partition('.')[0]}..."]


def _not_guaranteed(param: str, faults: tuple[Fault, ...]) -> UnsupportedParameter:
    shown = ". ".join(map(str, faults[:_MOST_SHOWN]))
    rest = f". And {len(faults) - _MOST_SHOWN} more" if len(faults) > _MOST_SHOWN else ""
    message = f"The tool is strict, and the JSON Schema in '{param}' asks for what cannot be guaranteed: {shown}{rest}."
    return UnsupportedParameter(f"{message} Leave it out, or leave strict out.", param=param)
