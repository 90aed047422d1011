"""Parses the bodies of OpenAI's two older routes: chat completions and completions."""

from __future__ import annotations

from typing import Final

from worker_gguf.protocol.bodies import ChatBody, CompletionBody
from worker_gguf.protocol.calls import ChatCall, CompletionCall, Defaults, InfillCall
from worker_gguf.protocol.openai.chat_rendering import render_chat
from worker_gguf.protocol.openai.completion_rendering import render_completion
from worker_gguf.protocol.parse import chat_call, completion_call
from worker_gguf.protocol.route import Generation
from worker_gguf.protocol.wellformed import read_object

__all__ = ["CHAT", "COMPLETIONS", "parse_chat", "parse_completion"]


def parse_chat(body: object, defaults: Defaults) -> ChatCall:
    """Parse the body of POST /v1/chat/completions. Raises InvalidRequest."""
    return chat_call(read_object(body), defaults)


def parse_completion(body: object, defaults: Defaults) -> CompletionCall | InfillCall:
    """Parse the body of POST /v1/completions. Raises InvalidRequest."""
    return completion_call(read_object(body), defaults)


CHAT: Final = Generation("chatcmpl-", ChatBody, parse_chat, render_chat)
COMPLETIONS: Final = Generation("cmpl-", CompletionBody, parse_completion, render_completion)
