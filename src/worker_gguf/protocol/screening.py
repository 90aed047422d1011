"""Checks the names in a body by the tables in parameters.py: refuses, renames, lists ignored ones. Checks no types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel

from worker_gguf.errors import InvalidRequest, UnsupportedParameter
from worker_gguf.protocol.defaults import Defaults
from worker_gguf.protocol.parameters import ALIASES, INSTEAD
from worker_gguf.protocol.rendering import JsonBody
from worker_gguf.protocol.wellformed import MAX_NAME

__all__ = [
    "MAX_IGNORED",
    "bounded",
    "check_elsewhere",
    "differing",
    "effectless",
    "ignored_header",
    "ignored_names",
    "refuse",
    "renamed",
    "unknown_names",
    "with_ignored",
]

# Values of fields that a dialect has in another form, which are the same as to leave them out.
_ASKS_NOTHING: Mapping[str, tuple[object, ...]] = {
    "functions": ([],),
    "logprobs": (False,),
    "n": (1,),
    "n_probs": (0,),
    "parallel_tool_calls": (True,),
    "return_token_ids": (False,),
    "top_logprobs": (0,),
}
MAX_HEADER = 2000
# A body of some megabytes may have thousands of names, which the header, the log and the metrics need not have.
MAX_IGNORED = 200


def refuse(fields: Mapping[str, Any], table: Mapping[str, tuple[object, ...]], sent: Mapping[str, str]) -> None:
    """Raise an UnsupportedParameter that names all fields that are not supported.

    `sent` maps fields to the aliases that were sent.
    """
    # If best_of is equal to n, all answers are returned, so it changes nothing.
    neutral = {**table, "best_of": (0, fields.get("n", 1))}
    refused = [name for name, value in fields.items() if name in neutral and not _is_one_of(value, neutral[name])]
    if refused:
        advice = " ".join(dict.fromkeys(INSTEAD[name] for name in refused if name in INSTEAD))
        names = [sent.get(name, name) for name in refused]
        what = f"{_listed(names)} would change the answer and cannot be honoured here."
        raise UnsupportedParameter(f"{what} {advice or 'Leave it out.'}", param=names[0])


def renamed(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Rename aliases. Returns the fields, and a mapping from each renamed field to the alias that was sent.

    Raises InvalidRequest if two names of a parameter have different values, because one of them would be lost.
    """
    by_name: dict[str, Any] = {}
    sent: dict[str, str] = {}
    for name, value in fields.items():
        target = ALIASES.get(name, name)
        if target in by_name and not _is_same(by_name[target], value):
            first = sent.get(target, target)
            raise differing(first, name)
        if target not in by_name:
            by_name[target] = value
            if name != target:
                sent[target] = name
    return by_name, sent


def check_elsewhere(fields: Mapping[str, Any], instead: Mapping[str, str]) -> None:
    """Raise UnsupportedParameter for a field of the common parser that a dialect has in another form, or has not.

    `instead` has what to do for each of these fields. Values that ask for nothing pass.
    """
    asked = (name for name in instead if name in fields and not _is_one_of(fields[name], _ASKS_NOTHING.get(name, ())))
    if found := next(asked, None):
        raise UnsupportedParameter(f"'{found}' has no meaning here. {instead[found]}", param=found)


def differing(first: str, second: str) -> InvalidRequest:
    """Return the error for two names of one parameter with different values."""
    message = f"'{first}' and '{second}' are aliases of one parameter and have different values. Send one of them."
    return InvalidRequest(message, param=second)


def _check_strict(ignored: Sequence[str]) -> None:
    """Raise UnsupportedParameter if a parameter would be ignored. For STRICT_PARAMETERS."""
    if ignored:
        change, them = ("changes", "it") if len(ignored) == 1 else ("change", "them")
        message = f"{_listed(ignored)} {change} nothing here, and STRICT_PARAMETERS is set. Leave {them} out."
        raise UnsupportedParameter(message, param=ignored[0][:MAX_NAME])


def bounded(names: Iterable[str]) -> tuple[str, ...]:
    """Return different names in their order. If they are too many, the last one is "..."."""
    different = sorted(set(names))
    return tuple(different) if len(different) <= MAX_IGNORED else (*different[:MAX_IGNORED], "...")


def effectless(names: Iterable[str], defaults: Defaults) -> tuple[str, ...]:
    """Return the different names of parameters without effect. Raises UnsupportedParameter with STRICT_PARAMETERS."""
    different = sorted(set(names))
    if defaults.strict:
        _check_strict(different)
    return bounded(different)


def unknown_names(body: type[BaseModel], fields: Mapping[str, Any], defaults: Defaults) -> tuple[str, ...]:
    """Return the names of the fields that a body does not have, which have no effect. Raises UnsupportedParameter."""
    return effectless(fields.keys() - body.model_fields.keys(), defaults)


def ignored_header(ignored: Iterable[str]) -> str:
    """Return the value of X-Ignored-Parameters."""
    return ", ".join(ignored_names(ignored))


def with_ignored(body: JsonBody, ignored: Sequence[str]) -> JsonBody:
    """Return an answer with the names of ignored parameters in the field `x_ignored_parameters`.

    An answer that is a list has no place for them.
    """
    if not ignored or not isinstance(body, dict):
        return body
    return body | {"x_ignored_parameters": ignored_names(ignored)}


def ignored_names(ignored: Iterable[str]) -> list[str]:
    """Quote and shorten names for a header or a body. If the list would be too long, it ends with "..."."""
    names: list[str] = []
    left = MAX_HEADER
    for name in map(_quoted, ignored):
        left -= len(name) + len(", ")
        if left < 0:
            return [*names, "..."]
        names.append(name)
    return names


def _quoted(name: str) -> str:
    """Quote and shorten a name that a client chose."""
    # "..." marks a shortened name. Percent signs are quoted, so no name can look like a quoted one.
    return quote(name[:MAX_NAME], safe="[]", errors="backslashreplace") + ("..." if len(name) > MAX_NAME else "")


def _listed(names: Sequence[str], most: int = 20) -> str:
    shown = ", ".join(f"'{_quoted(name)}'" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _is_one_of(value: object, neutral: tuple[object, ...]) -> bool:
    return any(_is_same(value, other) for other in neutral)


def _is_same(left: object, right: object) -> bool:
    # In Python True == 1, but in JSON true is not a number.
    return isinstance(left, bool) is isinstance(right, bool) and left == right
