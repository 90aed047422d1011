"""Renders log-probabilities in the two forms of OpenAI's API."""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterable
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

    def render(self, tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
        """Render the next tokens of the choice. As documented by OpenAI, each place also lists the drawn token."""
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
        return offset


def _top(token: TokenLogprob) -> dict[str, float]:
    top = {_text(piece): _finite(logprob) for _, piece, logprob in token.top}
    return top | {_text(token.piece): _finite(token.logprob)}


def _entry(piece: bytes, logprob: float) -> dict[str, Any]:
    return {"token": _text(piece), "logprob": _finite(logprob), "bytes": list(piece)}


def _text(piece: bytes) -> str:
    """Return the text of a token. A part of a character is written as in OpenAI's API, `bytes:\\xe2\\x80`.

    So different parts of characters have different texts.
    """
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else LOWEST
