"""How Gemma 4 and calls in Python write values, as expressions of Lark."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Protocol

from worker_gguf.markup.argument_schema import OTHER_KEY
from worker_gguf.markup.lark import LarkGrammar, either, literal, optional
from worker_gguf.markup.marks import Marks
from worker_gguf.markup.tool_schema import Bounds

__all__ = ["GemmaNotation", "Notation", "PythonNotation"]

_OTHER_ARGUMENT = "/[A-Za-z_][A-Za-z0-9_]{0,63}/"
_HEX = "[0-9a-fA-F]"
_PYTHON_ESCAPE = rf"\\(['\x22\\nrt]|x{_HEX}{{2}}|u{_HEX}{{4}}|U00(0{_HEX}|10){_HEX}{{4}})"
# One character of a text in these quotes, perhaps written by an escape.
_PYTHON_CHARACTERS = {quote: rf"([^{quote}\\\x00-\x08\x0b-\x1f]|{_PYTHON_ESCAPE})" for quote in ("'", r"\x22")}
# Any text. Models that forget to escape a backslash write it before another character, which then follows it.
_PYTHON_TEXTS = tuple(
    rf"/{quote}([^{quote}\\\x00-\x08\x0b-\x1f]|{_PYTHON_ESCAPE}|\\[^xuU])*{quote}/" for quote in ("'", r"\x22")
)
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_GEMMA_KEY = re.compile(r'[^:{}\[\],"<]+')


class Notation(Protocol):
    """The expressions of values that do not depend on a schema."""

    true: str
    false: str
    null: str
    comma: str
    """Between two items of a list or of an object."""

    def key(self, name: str) -> str:
        """Return the expression of a key of an object, with what comes between it and the value."""
        ...

    def other_key(self, names: Collection[str]) -> str:
        """Return the expression of any key but these, with what comes between it and the value."""
        ...

    def text(self, value: str) -> str:
        """Return the expression of one text."""
        ...

    def any_text(self, bounds: Bounds | None) -> str:
        """Return the expression of any text within bounds."""
        ...


class GemmaNotation:
    """{key:<|"|>text<|"|>,list:[1,true],object:{}}: keys are bare, and a text stands between two marks."""

    true, false, null = '"true"', '"false"', '"null"'

    def __init__(self, grammar: LarkGrammar, marks: Marks, quote: str) -> None:
        self._grammar = grammar
        self._marks = marks
        self._quote = quote
        self.comma = grammar.terminal(f'{marks.space}? "," {marks.space}?')
        self._colon = f'{marks.space}? ":" {marks.space}?'

    def key(self, name: str) -> str:
        if _GEMMA_KEY.fullmatch(name) and name == name.strip():
            return self._grammar.terminal(f"{literal(name)} {self._colon}")
        return f"{self.text(name)} {self._grammar.terminal(self._colon)}"

    def other_key(self, names: Collection[str]) -> str:
        return self._grammar.terminal(f"({_but(OTHER_KEY, map(literal, names))}) {self._colon}")

    def text(self, value: str) -> str:
        quote = self._marks.expression(self._quote, space_before=False, space_after=False)
        return f"{quote} {literal(value)} {quote}"

    def any_text(self, bounds: Bounds | None) -> str:
        quote = self._marks.expression(self._quote, space_before=False, space_after=False)
        size = "*" if bounds is None else f"{{{bounds.least},{'' if bounds.most is None else bounds.most}}}"
        if not self._marks.is_text(self._quote):
            body = self._grammar.terminal(f"/(?s:.){size}/ & /(?s:.+)/")
            return f"{quote} {body if bounds and bounds.least else optional(body)} {quote}"
        # The first closing mark ends the text, so it is not part of what the length is counted of.
        closed = self._grammar.rule(f"/(?s:.){size}/ {self._marks.terminal(self._quote)}", "lazy")
        return f"{quote} {closed}"


class PythonNotation:
    """f(key='text', list=[1, True], object={'key': None}). The constants of JSON and its quotes are allowed too."""

    true, false, null = '("True" | "true")', '("False" | "false")', '("None" | "null")'

    def __init__(self, grammar: LarkGrammar, marks: Marks) -> None:
        self._grammar = grammar
        self.comma = grammar.terminal(f'{marks.space}? "," {marks.space}?')
        self._colon = grammar.terminal(f'{marks.space}? ":" {marks.space}?')
        self._equals = f'{marks.space}? "=" {marks.space}?'

    def argument(self, name: str) -> str:
        """Return the expression of the name of an argument of a call, up to its value."""
        return self._grammar.terminal(f"{literal(name)} {self._equals}")

    def other_argument(self, names: Collection[str]) -> str:
        """Return the expression of any name of an argument but these, up to its value."""
        return self._grammar.terminal(f"({_but(_OTHER_ARGUMENT, map(literal, names))}) {self._equals}")

    def key(self, name: str) -> str:
        return f"{self.text(name)} {self._colon}"

    def other_key(self, names: Collection[str]) -> str:
        quoted = _but(OTHER_KEY, map(literal, names))
        options = (f"{literal(quote)} ({quoted}) {literal(quote)}" for quote in "'\"")
        return f"{self._grammar.terminal(either(options))} {self._colon}"

    def text(self, value: str) -> str:
        plain = "".join(_ESCAPES.get(character, character) for character in value)
        written = [f"{quote}{plain.replace(quote, chr(92) + quote)}{quote}" for quote in "'\""]
        return self._grammar.terminal(either(map(literal, written)))

    def any_text(self, bounds: Bounds | None) -> str:
        if bounds is None:
            return self._grammar.terminal(either(_PYTHON_TEXTS))
        size = f"{{{bounds.least},{'' if bounds.most is None else bounds.most}}}"
        options = [f"/{quote}{one}{size}{quote}/" for quote, one in _PYTHON_CHARACTERS.items()]
        return self._grammar.terminal(either(options))


def _but(expression: str, excluded: Iterable[str]) -> str:
    """Return the body of a terminal for a regular expression with some texts left out."""
    texts = list(excluded)
    return f"{expression} & ~{either(texts)}" if texts else expression
