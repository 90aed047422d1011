"""The shapes of /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from worker_gguf.engine.events import TokenLogprob
from worker_gguf.protocol.logprobs import chat_logprobs
from worker_gguf.protocol.rendering import Rendering

__all__ = ["ChatRendering"]


class ChatRendering(Rendering):
    """Answers to one conversation."""

    _answer_object = "chat.completion"
    _chunk_object = "chat.completion.chunk"

    def _first_chunks(self, index: int) -> list[dict[str, Any]]:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}]

    def _chunk_choice(
        self, index: int, text: str | None, tokens: Sequence[TokenLogprob] | None, reason: str | None
    ) -> dict[str, Any]:
        return {
            "index": index,
            "delta": {} if text is None else {"content": text},
            "logprobs": None if tokens is None else _logprobs(tokens),
            "finish_reason": reason,
        }

    def _whole_choice(self, index: int) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": "".join(self._texts[index]), "refusal": None},
            "logprobs": _logprobs(self._tokens[index]) if self.logprobs else None,
            "finish_reason": self._reasons[index],
        }


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {"content": chat_logprobs(tokens), "refusal": None}
