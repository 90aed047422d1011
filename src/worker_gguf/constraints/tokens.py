"""The tokens of a vocabulary as llguidance needs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from llguidance import LLTokenizer

__all__ = ["TokenTable", "make_tokenizer"]


class TokenTable(Struct, frozen=True):
    """A vocabulary that outlives all that is made from it.

    `pieces` are the bytes of each token, with control tokens written out. `eog` end an answer. `pointer` and
    `tokenize_address` are the addresses of llama.cpp's vocabulary and of `llama_tokenize`.
    """

    pieces: Sequence[bytes]
    controls: frozenset[int]
    eog: tuple[int, ...]
    pointer: int
    tokenize_address: int


def make_tokenizer(table: TokenTable) -> LLTokenizer:
    """Build llguidance's tokenizer, which takes 0.1 to 0.3 s for 128k tokens."""
    from llguidance import LLTokenizer

    # llguidance tells control tokens apart by this byte, which no text has. Only they are never part of a text that
    # matches: a model may write other added tokens, such as <tool_call>, by their token or by their letters.
    pieces = [b"\xff" + piece if token in table.controls else piece for token, piece in enumerate(table.pieces)]
    return LLTokenizer.from_llamacpp(  # type: ignore[attr-defined, no-any-return]
        tokens=pieces,
        vocab_ptr=table.pointer,
        tokenize_fptr=table.tokenize_address,
        eos_token=list(table.eog),
        slices=None,
    )
