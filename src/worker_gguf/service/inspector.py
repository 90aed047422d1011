"""Inspects prompts for one request: what the template and the vocabulary of its model make of them."""

from __future__ import annotations

from collections.abc import Sequence

from worker_gguf.protocol.calls import Call, ChatCall
from worker_gguf.protocol.models import ModelCard
from worker_gguf.service.prompts import Prompts

__all__ = ["PromptInspector"]


class PromptInspector:
    """The `Inspector` of a loaded model. Thread-safe."""

    def __init__(self, card: ModelCard, prompts: Prompts) -> None:
        self.card = card
        self._prompts = prompts

    def prompt_text(self, call: ChatCall) -> str:
        return self._prompts.prompt_text(call)

    def prompt_tokens(self, call: Call) -> Sequence[Sequence[int]]:
        return self._prompts.prompt_tokens(call)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> Sequence[int]:
        return self._prompts.tokenize(text, add_special=add_special, parse_special=parse_special)

    def text(self, tokens: Sequence[int], param: str) -> str:
        return self._prompts.text(tokens, param)

    def piece(self, token: int) -> bytes:
        return self._prompts.piece(token)
