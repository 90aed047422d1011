"""The bodies of Anthropic's routes as Pydantic models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from worker_gguf.engine.request import MAX_STOPS
from worker_gguf.protocol.bodies import Objects, Probability, StopText, StrictBody, Window

__all__ = ["CountTokensBody", "MessagesBody", "Turn"]

Blocks = Annotated[list[dict[str, Any]], Field(fail_fast=True)]


class Turn(StrictBody):
    """One message. protocol/anthropic/conversation.py checks its blocks, so that an error has the exact place."""

    role: Literal["user", "assistant", "system"]
    content: str | Blocks


class CountTokensBody(StrictBody):
    """POST /v1/messages/count_tokens"""

    model: str | None = Field(None, max_length=512, description="The served model's id or one of its aliases.")
    messages: Annotated[list[Turn], Field(min_length=1, fail_fast=True)] = Field(
        description="The conversation. If the last message is the assistant's, the answer continues it."
    )
    system: str | Blocks | None = Field(None, description="The system prompt: a text, or blocks of text.")
    tools: Objects | None = Field(
        None, description="Tools of the client: `name`, `description`, `input_schema` and `strict`."
    )
    tool_choice: dict[str, Any] | None = Field(
        None, description="`type` is `auto`, `any`, `tool` with a `name`, or `none`; `disable_parallel_tool_use`."
    )
    thinking: dict[str, Any] | None = Field(
        None,
        description="`type` is `enabled` with or without `budget_tokens`, `adaptive`, or `disabled`; `display` "
        "`omitted` leaves the thinking out of the answer.",
    )
    output_config: dict[str, Any] | None = Field(
        None,
        description="`format`: `json_schema` with the `schema` that the answer must match; `effort`: how much the "
        "model thinks, if its chat template supports it.",
    )
    output_format: dict[str, Any] | None = Field(None, description="Older form of `output_config.format`.")


class MessagesBody(CountTokensBody):
    """POST /v1/messages"""

    max_tokens: Window | None = Field(
        None, description="Longest answer, in tokens, with the thinking; `MAX_TOKENS` where it is missing."
    )
    stream: bool | None = Field(None, description="Answer as server-sent events.")
    stop_sequences: Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = Field(
        None, description="Texts that end the answer and are not part of it; empty texts are ignored."
    )
    temperature: float | None = Field(None, ge=0, le=100, description="0 always takes the most likely token.")
    top_p: Probability | None = Field(None, description="Keep the most likely tokens up to this mass; 1 is off.")
    top_k: Window | None = Field(None, description="Keep the k most likely tokens; 0 and -1 are off.")
