"""A plan as lines for people. Shows names, ids and changes; the bodies with their variables it never sees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from worker_gguf.deployment.manifest import Manifest
from worker_gguf.deployment.plan import Action, Plan, Verb
from worker_gguf.deployment.redactor import MASK
from worker_gguf.deployment.variables import is_shown

__all__ = ["describe"]

_SIGNS: Final[dict[Verb, str]] = {"create": "+", "update": "~", "keep": "=", "replace": "!"}
_LONGEST: Final = 160


def describe(plan: Plan, manifest: Manifest) -> Iterator[str]:
    for action in plan.actions:
        place = f" ({action.id})" if action.id else ""
        yield f"{_SIGNS[action.verb]} {action.verb:7} {action.kind:8} {action.name}{place}: {action.reason}"
        yield from (f"    {line}" for line in _details(action, manifest))
    yield from (f"note: {note}" for note in manifest.notes)


def _details(action: Action, manifest: Manifest) -> Iterator[str]:
    if action.kind == "template" and action.verb == "create":
        yield f"image: {manifest.image}"
        for name, value in manifest.env.items():
            yield f"env.{name}: {_line(value.text) if is_shown(name, value) else MASK}"
    for change in action.changes:
        if change.before == change.after:
            yield f"{change.key}: {_line(change.after)} (another value)"
        elif not change.after:
            yield f"{change.key}: {_line(change.before)} removed"
        else:
            yield f"{change.key}: {_line(change.before) or 'nothing'} -> {_line(change.after)}"


def _line(text: str) -> str:
    """A value of many lines, such as a chat template, is recognised by its beginning."""
    short = " ".join(text.split())
    return short if len(short) <= _LONGEST else f"{short[:_LONGEST]}..."
