"""The text of a Lark grammar in the dialect of llguidance (its docs/syntax.md). Knows nothing of calls and schemas."""

from __future__ import annotations

import json
from collections.abc import Iterable

from worker_gguf.errors import InvalidRequest

__all__ = ["LarkGrammar", "either", "literal", "optional"]

# Characters of a grammar. The schemas of few requests have a tenth of this.
_LONGEST = 4 * 2**20
_quoted = json.JSONEncoder(ensure_ascii=False).encode


class LarkGrammar:
    """Collects rules and terminals and names them. Equal bodies have one name.

    Raises InvalidRequest where the grammar becomes too long, which only the schemas of a request can make it.
    """

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}
        self._lines: list[str] = []
        self._n_characters = 0

    def rule(self, body: str, option: str = "") -> str:
        """Return the name of a rule with this body, and in brackets an option such as "lazy"."""
        return self._named("r", body, f"[{option}]" if option else "")

    def terminal(self, body: str) -> str:
        """Return the name of a terminal with this body. It is matched as one regular expression."""
        return self._named("T", body, "")

    def reserve(self) -> str:
        """Return the name of a rule that is defined later, because its body needs the name."""
        name = f"r{len(self._names)}"
        self._names[("", name)] = name
        return name

    def define(self, name: str, body: str) -> None:
        """Define a reserved rule."""
        self._add(f"{name}: {body}")

    def define_with_number(self, name: str, options: Iterable[str]) -> None:
        """Define a reserved rule that has a number as its parameter."""
        self._add(f"{name}::_ : " + "\n  | ".join(options))

    def text(self, start: str) -> str:
        """Return the text of the grammar, whose first rule has the body `start`."""
        return "\n".join([f"start: {start}", *self._lines, ""])

    def _named(self, letter: str, body: str, option: str) -> str:
        key = (letter + option, body)
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = f"{letter}{len(self._names)}"
            self._add(f"{name}{option}: {body}")
        return name

    def _add(self, line: str) -> None:
        self._n_characters += len(line)
        if self._n_characters > _LONGEST:
            raise InvalidRequest("The schemas of the tools are too large for a grammar.", param="tools")
        self._lines.append(line)


def literal(text: str) -> str:
    """Return a text in the quotes of Lark, or the empty string for an empty text, which Lark does not need."""
    return _quoted(text).replace("\x7f", "\\u007f") if text else ""


def either(options: Iterable[str]) -> str:
    """Return an expression for one of several. Raises ValueError if there are none."""
    distinct = list(dict.fromkeys(options))
    if not distinct:
        raise ValueError("An expression needs at least one option.")
    return distinct[0] if len(distinct) == 1 else f"({' | '.join(distinct)})"


def optional(expression: str) -> str:
    """Return an expression for this one or nothing."""
    return f"({expression})?" if expression else ""
