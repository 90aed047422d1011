"""Renders log-probabilities in the two forms of OpenAI's API."""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterable, Sequence
from typing import Any

from worker_gguf.generation.events import TokenLogprob

__all__ = ["CompletionLogprobs", "chat_logprobs"]

# OpenAI's value for a token that is too unlikely; JSON has no infinity.
LOWEST = -9999.0


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """Render tokens in the form of /v1/chat/completions."""
    return [
        _entry(token.piece, token.logprob)
        | {"top_logprobs": [_entry(piece, logprob) for _, piece, logprob in token.top]}
        for token in tokens
    ]


class CompletionLogprobs:
    """The form of /v1/completions, for one choice. Its offsets count characters from the start of the text."""

    def __init__(self) -> None:
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def echo(self, tokens: Sequence[TokenLogprob], text: str) -> None:
        """Begin with the tokens of a prompt, whose text the answer repeats.

        The tokens may have more text: a token that begins each text, or a space that the tokenizer puts first. Their
        offsets are 0.
        """
        written = b"".join(token.piece for token in tokens).decode("utf-8", "replace")
        self._offset = len(text) - len(written)

    def render(self, tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
        """Render the next tokens of the choice. As documented by OpenAI, each place also lists the token itself.

        The first token of a prompt has null instead of its log-probability.
        """
        tokens = tuple(tokens)
        return {
            "tokens": [_text(token.piece) for token in tokens],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [_top(token) for token in tokens],
            "text_offset": [self._advance(token.piece) for token in tokens],
        }

    def _advance(self, piece: bytes) -> int:
        offset = self._offset
        self._offset += len(self._decoder.decode(piece))
        return max(0, offset)


def _top(token: TokenLogprob) -> dict[str, float | None] | None:
    if token.logprob is None:
        return None
    top = {_text(piece): _finite(logprob) for _, piece, logprob in token.top}
    return top | {_text(token.piece): _finite(token.logprob)}


def _entry(piece: bytes, logprob: float | None) -> dict[str, Any]:
    return {"token": _text(piece), "logprob": _finite(logprob), "bytes": list(piece)}


def _text(piece: bytes) -> str:
    """Return the text of a token. A part of a character is written as in OpenAI's API, `bytes:\\xe2\\x80`.

    So different parts of characters have different texts.
    """
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _finite(logprob: float | None) -> float | None:
    return logprob if logprob is None or math.isfinite(logprob) else LOWEST
