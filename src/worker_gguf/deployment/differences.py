"""Compares RunPod's objects with the wanted ones, and returns the body of an update and the changes as text.

The order of lists is ignored if it has no meaning. A missing value is equal to an empty one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from worker_gguf.deployment.manifest import EnvValue
from worker_gguf.deployment.redactor import MASK
from worker_gguf.deployment.variables import is_shown
from worker_gguf.deployment.wanted import Body

__all__ = ["Change", "changes", "patch"]

_UNORDERED: Final = frozenset({"ports", "dataCenterIds", "networkVolumes", "pools", "excludedTypes"})
_GROUPS: Final = frozenset({"workers", "scaling"})
_HIDDEN: Final = frozenset({"args"})
"""The current value may have been set by hand and may contain a secret."""


@dataclass(frozen=True, slots=True)
class Change:
    """One line of a plan, without secrets."""

    key: str
    before: str
    after: str


def patch(wanted: Body, found: Body) -> Body:
    """Return the keys of `wanted` that differ, as the body of an update."""
    body: dict[str, Any] = {}
    for key, value in wanted.items():
        if key == "gpu":
            if part := _gpu_patch(value, _mapping(found.get("gpu"))):
                body["gpu"] = part
        elif not _same(key, value, found.get(key)):
            body[key] = value  # send the whole group, because RunPod does not document whether it merges parts of one
    return body


def changes(wanted: Body, found: Body, env: Mapping[str, EnvValue]) -> Iterator[Change]:
    """Yield the differences of `patch` as text. `env` determines which variables are secrets."""
    for key, value in patch(wanted, found).items():
        before = found.get(key)
        if key == "env":
            yield from _env_changes(env, _mapping(before))
        elif key == "gpu" or key in _GROUPS:
            group = _mapping(before)
            for part, text in value.items():
                if not _same(part, text, group.get(part)):
                    yield Change(f"{key}.{part}", _text(group.get(part)), _text(text))
        else:
            yield Change(key, MASK if key in _HIDDEN and before else _text(before), _text(value))


def _same(key: str, wanted: Any, found: Any) -> bool:
    if not wanted and not found:
        return True
    if key in _UNORDERED:
        return _strings(wanted) == _strings(found)
    if key in _GROUPS:
        return all(wanted[part] == _mapping(found).get(part) for part in wanted)
    if key == "cpu":
        present = [_mapping(cpu) for cpu in found or ()]
        return bool(wanted == [{name: cpu.get(name) for name in ("id", "vcpuCount")} for cpu in present])
    return bool(wanted == found)


def _gpu_patch(wanted: Body, found: Body) -> Body:
    """Return the GPU keys that differ.

    Both keys of a pair are sent together, because one alone could clear the other or contradict its current value.
    """
    part: dict[str, Any] = {}
    for keys in (("pools", "excludedTypes"), ("allowedCudaVersions", "minCudaVersion")):
        if any(not _same(key, wanted.get(key), found.get(key)) for key in keys):
            part |= {key: wanted.get(key, "") for key in keys}
    if wanted["count"] != found.get("count", 1):
        part["count"] = wanted["count"]
    return part


def _env_changes(wanted: Mapping[str, EnvValue], found: Body) -> Iterator[Change]:
    for name in sorted({*wanted, *found}):
        value, before = wanted.get(name), found.get(name)
        after = value.text if value else None
        if before != after:
            before, after = (text if text is None or is_shown(name, value) else MASK for text in (before, after))
            yield Change(f"env.{name}", _text(before), _text(after))


def _text(value: Any) -> str:
    if value in (None, "", [], {}):
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _mapping(value: Any) -> Body:
    return value if isinstance(value, Mapping) else {}


def _strings(value: Any) -> set[str]:
    return {str(item).strip() for item in value} if isinstance(value, Sequence) else set()
