"""Judge the names of a body by the table in parameters.py: refuse, rename, list the ignored. Checks no types."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from worker_gguf.errors import InvalidRequest, UnsupportedParameter
from worker_gguf.protocol.parameters import ALIASES, INSTEAD

__all__ = ["canonical", "check_strict", "ignored_header", "quoted", "refuse"]

MAX_HEADER = 2000
MAX_NAME = 64


def refuse(fields: Mapping[str, Any], table: Mapping[str, tuple[object, ...]]) -> None:
    """Raise UnsupportedParameter naming every field that asks for what is not here."""
    # The best n of n answers are all of them.
    neutral = {**table, "best_of": (0, fields.get("n", 1))}
    refused = [name for name, value in fields.items() if name in neutral and not _is_one_of(value, neutral[name])]
    if refused:
        advice = " ".join(INSTEAD[name] for name in refused if name in INSTEAD)
        what = f"{_listed(refused)} would change the answer and cannot be honoured here."
        raise UnsupportedParameter(f"{what} {advice or 'Leave it out.'}", param=refused[0])


def canonical(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Rename aliases. Returns the fields and, for each that came under another name, that name.

    Two names of one thing with two values is an error: choosing one would drop the other in silence.
    """
    renamed: dict[str, Any] = {}
    sent: dict[str, str] = {}
    for name, value in fields.items():
        target = ALIASES.get(name, name)
        if target in renamed and not _is_same(renamed[target], value):
            first = sent.get(target, target)
            raise InvalidRequest(f"'{first}' and '{name}' are one parameter, but differ. Send one of them.", param=name)
        if target not in renamed:
            renamed[target] = value
            if name != target:
                sent[target] = name
    return renamed, sent


def check_strict(ignored: Sequence[str]) -> None:
    """With STRICT_PARAMETERS, what would be ignored is refused."""
    if ignored:
        what = f"{_listed(ignored)} changes nothing here, and STRICT_PARAMETERS is set."
        raise UnsupportedParameter(f"{what} Leave it out.", param=ignored[0][:MAX_NAME])


def ignored_header(ignored: Collection[str]) -> str:
    """The value of X-Ignored-Parameters. Names are a stranger's text: quoted, shortened, and not without end."""
    value = ""
    for name in ignored:
        longer = f"{value}, {quoted(name)}" if value else quoted(name)
        if len(longer) > MAX_HEADER:
            return f"{value}, ..."
        value = longer
    return value


def quoted(name: str) -> str:
    """Quote and shorten a name that a client chose."""
    # "..." stands for more in both places; a percent sign is quoted, so no name can imitate a quoted one.
    return quote(name[:MAX_NAME], safe="[]", errors="backslashreplace") + ("..." if len(name) > MAX_NAME else "")


def _listed(names: Sequence[str], most: int = 20) -> str:
    shown = ", ".join(f"'{quoted(name)}'" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _is_one_of(value: object, neutral: tuple[object, ...]) -> bool:
    return any(_is_same(value, other) for other in neutral)


def _is_same(left: object, right: object) -> bool:
    # In Python True == 1, in JSON true is no number.
    return isinstance(left, bool) is isinstance(right, bool) and left == right
