"""The bodies of the Responses API. Parameters that they do not name are those of chat completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from worker_gguf.protocol.bodies import Objects, StreamOptions, StrictBody, TopLogprobs, Window

__all__ = ["InputTokensBody", "ResponsesBody"]

# responses/input_items.py checks the items, so that an error can name the place of a wrong one.
Input = str | Objects
Metadata = Annotated[dict[str, str], Field(max_length=16)]


class InputTokensBody(StrictBody):
    """POST /v1/responses/input_tokens"""

    model: str | None = Field(None, max_length=512, description="The served model's id or one of its aliases.")
    input: Input | None = Field(
        None, description="A text, or the items of the conversation: messages, calls, results of calls, reasoning."
    )
    instructions: str | None = Field(None, description="A system message before the conversation.")
    tools: Objects | None = Field(
        None, description="Functions that the model may call. Tools of other types are left out and named as ignored."
    )
    tool_choice: str | dict[str, Any] | None = Field(
        None, description="`none`, `auto`, `required`, a function that must be called, or a list of allowed ones."
    )
    parallel_tool_calls: bool | None = Field(None, description="Allow several calls in one answer.")
    reasoning: dict[str, Any] | None = Field(
        None, description="`effort` says how much the model thinks, if its chat template supports it."
    )
    text: dict[str, Any] | None = Field(
        None, description="`format`: JSON that matches a schema, any JSON object, or a text."
    )
    previous_response_id: str | None = Field(None, description="Refused: nothing is stored. Send the conversation.")
    conversation: str | dict[str, Any] | None = Field(None, description="Refused, for the same reason.")
    truncation: Literal["auto", "disabled"] | None = Field(
        None, description="Has no effect: an input that is too long is an error."
    )


class ResponsesBody(InputTokensBody):
    """POST /v1/responses"""

    stream: bool | None = Field(None, description="Answer as server-sent events.")
    stream_options: StreamOptions | None = Field(None, description="Has no effect here.")
    max_output_tokens: Window | None = Field(
        None, description="Longest answer, in tokens, with the reasoning; -1 continues to the end of the context."
    )
    temperature: float | None = Field(None, ge=0, le=100, description="0 always takes the most likely token.")
    top_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Keep the most likely tokens up to this mass; 1 is off."
    )
    top_logprobs: TopLogprobs | None = Field(
        None, description="Return the log-probabilities of the answer's tokens, and those of so many others."
    )
    include: Annotated[list[str], Field(max_length=32)] | None = Field(
        None, description="`message.output_text.logprobs`; other values are named as ignored."
    )
    metadata: Metadata | None = Field(None, description="Texts that come back with the answer.")
    store: bool | None = Field(None, description="Has no effect: nothing is stored.")
    background: bool | None = Field(None, description="true is refused: an answer is not stored for later.")
    prompt: dict[str, Any] | None = Field(None, description="Refused: there are no stored prompts.")
