"""The differences between RunPod's objects and the wanted ones, key by key: the least to send, and its description.
Pure.

Lists without an order are compared as sets, and an absent value equals an empty one. Values of variables are shown only
for settings that are not secret (variables.is_shown).
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
_HIDDEN: Final = frozenset({"args"})
"""Shown values: the present one may be private, the wanted one stands in the file."""


@dataclass(frozen=True, slots=True)
class Change:
    """One line of a plan, without a secret in it."""

    key: str
    before: str
    after: str


def patch(wanted: Body, found: Body) -> Body:
    """The keys of `wanted` that differ, in the form that an update takes."""
    body: dict[str, Any] = {}
    for key, value in wanted.items():
        if key == "gpu":
            if part := _gpu_patch(value, _mapping(found.get("gpu"))):
                body["gpu"] = part
        elif not _same(key, value, found.get(key)):
            body[key] = value  # whole groups: whether RunPod merges a part of one is not described
    return body


def changes(wanted: Body, found: Body, env: Mapping[str, EnvValue]) -> Iterator[Change]:
    """Describe the same differences for people; `env` decides which variables are secrets."""
    for key, value in patch(wanted, found).items():
        before = found.get(key)
        if key == "env":
            yield from _env_changes(env, _mapping(before))
        elif key in ("gpu", "workers", "scaling"):
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
    if key in ("workers", "scaling"):
        return all(wanted[part] == _mapping(found).get(part) for part in wanted)
    if key == "cpu":
        return [_flavor(cpu) for cpu in wanted] == [_flavor(cpu) for cpu in found or ()]
    return bool(wanted == found)


def _gpu_patch(wanted: Body, found: Body) -> Body:
    """Group keys that must be sent together: pools and exclusions are one selection, and so are the two CUDA
    constraints. Sending one without the other would clear it, or collide with the present one.
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
        value = wanted.get(name)
        if value is None:
            yield Change(f"env.{name}", _variable(name, None, found[name]), "")
        elif found.get(name) != value.text:
            yield Change(f"env.{name}", _variable(name, value, found.get(name)), _variable(name, value, value.text))


def _variable(name: str, value: EnvValue | None, text: Any) -> str:
    if text is None:
        return ""
    return _text(text) if is_shown(name, value) else MASK


def _text(value: Any) -> str:
    if value in (None, "", [], {}):
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _mapping(value: Any) -> Body:
    return value if isinstance(value, Mapping) else {}


def _strings(value: Any) -> set[str]:
    return {str(item).strip() for item in value} if isinstance(value, Sequence) else set()


def _flavor(cpu: Any) -> tuple[Any, Any]:
    given = _mapping(cpu)
    return given.get("id"), given.get("vcpuCount")
