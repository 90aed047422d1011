"""Finds what a `$ref` of a JSON Schema refers to. Only references into the same schema are followed."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from worker_gguf.protocol.schemas.fault import Refused

__all__ = ["escaped", "resolved"]


def resolved(root: Any, reference: object) -> Any:
    """Return the schema that a reference such as `#/$defs/item` refers to. Raises Refused."""
    if not isinstance(reference, str):
        raise Refused("must be a text")
    if reference != "#" and not reference.startswith("#/"):
        raise Refused("refers to another document or by an anchor; refer with a path such as #/$defs/item")
    at = root
    for part in unquote(reference).split("/")[1:]:
        if part == "patternProperties":
            raise Refused("refers into patternProperties, which is not supported; move the schema to $defs")
        if at is not root and isinstance(at, dict) and isinstance(at.get("$id"), str):
            raise Refused("refers into a schema with an $id of its own, which is not supported")
        at = _member(at, part.replace("~1", "/").replace("~0", "~"))
    if not isinstance(at, dict | bool):
        raise Refused("refers to what is not a schema")
    return at


def escaped(part: str | int) -> str:
    """Return a name as a part of a JSON pointer."""
    return str(part).replace("~", "~0").replace("/", "~1")


def _member(value: Any, part: str) -> Any:
    if isinstance(value, dict) and part in value:
        return value[part]
    if isinstance(value, list) and re.fullmatch(r"0|[1-9][0-9]{0,8}", part) and int(part) < len(value):
        return value[int(part)]
    raise Refused("refers to a place that does not exist")
