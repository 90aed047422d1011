"""The bodies of Anthropic's routes as Pydantic models: the fields that it has beside those of all dialects."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from worker_gguf.engine.request import MAX_STOPS
from worker_gguf.protocol.bodies import Common, Objects, StopText, StrictBody

__all__ = ["CountTokensBody", "MessagesBody", "Turn"]

Blocks = Annotated[list[dict[str, Any]], Field(fail_fast=True)]


class Turn(StrictBody):
    """One message. protocol/anthropic/conversation.py checks its blocks, so that an error has the exact place."""

    role: Literal["user", "assistant", "system"]
    content: str | Blocks


class MessagesBody(Common):
    """POST /v1/messages"""

    model_config = ConfigDict(defer_build=False)

    messages: Annotated[list[Turn], Field(min_length=1, fail_fast=True)] = Field(
        description="The conversation. If the last message is the assistant's, the answer continues it."
    )
    system: str | Blocks | None = Field(None, description="The system prompt: a text, or blocks of text.")
    stop_sequences: Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = Field(
        None, description="Texts that end the answer and are not part of it; empty texts are ignored."
    )
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


class CountTokensBody(MessagesBody):
    """POST /v1/messages/count_tokens"""
