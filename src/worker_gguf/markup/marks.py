"""The marks of a call format as expressions of Lark: control tokens by their ids, all else as text.

White space around a mark, and where the template breaks a line in it, may be left out or be a little more, since the
parser skips it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from worker_gguf.markup.lark import LarkGrammar, literal

__all__ = ["Marks", "Piece"]

_SPACE = r"/[ \t\r\n]{1,8}/"
# The white space that Python's regular expressions know; the parser skips it.
_ANY_SPACE = r"/[ \t-\r]*/"
# Characters of a control token. A longer text is none, so a long name in a mark costs little.
_LONGEST_TOKEN = 64
_LINE_BREAK = re.compile(r"\s*\n\s*")


class Piece(NamedTuple):
    """A part of a mark: a control token's id, or a text. `has_space` tells that white space comes before it."""

    content: int | str
    has_space: bool


class Marks:
    """Writes marks into one grammar. `token_of` returns the id of a control token by its text, else None."""

    def __init__(self, grammar: LarkGrammar, token_of: Callable[[str], int | None]) -> None:
        self._grammar = grammar
        self._token_of = token_of
        self._pieces: dict[str, tuple[Piece, ...]] = {}
        self._expressions: dict[tuple[str, bool, bool], str] = {}
        self.space = grammar.terminal(_SPACE)
        """A terminal for some white space."""
        self.any_space = grammar.terminal(_ANY_SPACE)
        """A terminal for as much white space as the parser skips. It must not be written, only be excluded."""

    def pieces(self, text: str) -> tuple[Piece, ...]:
        """Divide a mark into control tokens and the texts between them, without white space around these."""
        if text not in self._pieces:
            pieces: list[Piece] = []
            has_space = False
            for content in self._divide(text.strip()):
                if isinstance(content, int):
                    pieces.append(Piece(content, has_space))
                    has_space = False
                elif stripped := content.strip():
                    pieces.append(Piece(stripped, has_space or content[0].isspace()))
                    has_space = content[-1].isspace()
                else:
                    has_space = True
            self._pieces[text] = tuple(pieces)
        return self._pieces[text]

    def is_text(self, text: str) -> bool:
        """Whether a mark is a text without control tokens, not an empty one."""
        pieces = self.pieces(text)
        return len(pieces) == 1 and isinstance(pieces[0].content, str)

    def expression(self, text: str, *, space_before: bool = True, space_after: bool = True) -> str:
        """Return an expression for a mark with white space before it and after it; "" for an empty mark."""
        known = self._expressions.get((text, space_before, space_after))
        if known is not None:
            return known
        words = [self._written(piece.content, piece.has_space) for piece in self.pieces(text)]
        if words and space_before:
            words[0] = self._written(self.pieces(text)[0].content, has_space=True)
        expression = " ".join([*words, f"{self.space}?"] if words and space_after else words)
        self._expressions[text, space_before, space_after] = expression
        return expression

    def written(self, piece: Piece) -> str:
        """Return an expression for one piece of a mark, with the white space before it."""
        return self._written(piece.content, piece.has_space)

    def terminal(self, text: str) -> str:
        """Return the body of a terminal for a text without control tokens, with white space as it may be in it."""
        return f" {self.space}? ".join(map(literal, _LINE_BREAK.split(text.strip())))

    def excluded(self, text: str) -> str:
        """Return the body of a terminal for all ways in which the parser reads a text without control tokens."""
        return f" {self.any_space} ".join(map(literal, text.split()))

    def _written(self, content: int | str, has_space: bool) -> str:
        space = f"{self.space}? " if has_space else ""
        if isinstance(content, int):
            return f"{space}<[{content}]>"
        return self._grammar.terminal(space + self.terminal(content))

    def _divide(self, text: str) -> list[str | int]:
        parts: list[str | int] = []
        plain_from = at = 0
        while at < len(text):
            token, end = self._token_at(text, at)
            if token is None:
                at += 1
                continue
            parts += [text[plain_from:at], token]
            plain_from = at = end
        return [part for part in (*parts, text[plain_from:]) if part != ""]

    def _token_at(self, text: str, start: int) -> tuple[int | None, int]:
        """Return the longest control token that begins at `start`, and where it ends."""
        if text[start].isalnum() or text[start].isspace():  # no control token begins so
            return None, start
        for end in range(min(len(text), start + _LONGEST_TOKEN), start, -1):
            token = self._token_of(text[start:end])
            if token is not None:
                return token, end
        return None, start
