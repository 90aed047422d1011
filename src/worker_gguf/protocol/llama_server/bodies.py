"""The bodies of llama-server's routes as Pydantic models. Those of conversations are bodies of chat completions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field

from worker_gguf.protocol.bodies import Common, Count, StrictBody, TokenId, TopLogprobs, Window
from worker_gguf.protocol.numbers import integers

__all__ = ["AnsweredBody", "DetokenizeBody", "ExtraBody", "InfillBody", "NativeCompletionBody", "TokenizeBody"]

MAX_PATHS = 64
MAX_EXTRA = 1000

_MODEL = "The served model's id or one of its aliases."


class AnsweredBody(Common):
    """The fields that completions and gaps share. Only its subclasses are validated."""

    model_config = ConfigDict(defer_build=True)

    logprobs: TopLogprobs | None = Field(None, description="The same as n_probs.")
    return_tokens: bool | None = Field(
        None, description="The answer has the ids of its tokens. Chunks of a stream always have theirs."
    )
    timings_per_token: bool | None = Field(None, description="Each chunk of a stream has the timings so far.")
    response_fields: Annotated[list[str], Field(max_length=MAX_PATHS)] | None = Field(
        None, description="The fields of the answer that are wanted, such as `content` or `timings/predicted_ms`."
    )
    n_indent: Count | None = Field(
        None,
        description="Spaces and tabs that each line after the first one begins with; another line ends the answer.",
    )
    t_max_predict_ms: Window | None = Field(
        None,
        description="Milliseconds after the first token, from when on the end of a line ends the answer; 0 is off.",
    )
    custom_token_bans: str | list[int] | None = Field(
        None, description="Ids of tokens that are banned, as a list or as a text with commas."
    )


class NativeCompletionBody(AnsweredBody):
    """POST /completion"""

    model_config = ConfigDict(defer_build=False)

    # protocol/llama_server/prompts.py checks its parts.
    prompt: str | list[Any] | dict[str, Any] = Field(
        description="A text, a list of texts and token ids, which are joined, or a list of such prompts."
    )


class ExtraBody(StrictBody):
    """A text from elsewhere that helps to fill a gap."""

    text: str
    filename: str | None = None


class InfillBody(AnsweredBody):
    """POST /infill"""

    model_config = ConfigDict(defer_build=False)

    input_prefix: str = Field(description="The text before the gap.")
    input_suffix: str = Field(description="The text after the gap.")
    prompt: str | None = Field(None, description="What the gap begins with; the answer goes on after it.")
    input_extra: Annotated[list[ExtraBody], Field(max_length=MAX_EXTRA)] | None = Field(
        None, description="Texts from elsewhere, such as other files: each has a `text` and may have a `filename`."
    )


class TokenizeBody(StrictBody):
    """POST /tokenize"""

    model: str | None = Field(None, max_length=512, description=_MODEL)
    # protocol/llama_server/prompts.py checks its parts.
    content: str | list[Any] = Field(description="A text, or a list of texts and token ids, which are joined.")
    add_special: bool | None = Field(None, description="Add the tokens that begin and end a text.")
    parse_special: bool | None = Field(
        None, description="Names of special tokens stand for these, which is the default."
    )
    with_pieces: bool | None = Field(None, description="The answer has the text of each token.")


class DetokenizeBody(StrictBody):
    """POST /detokenize"""

    model: str | None = Field(None, max_length=512, description=_MODEL)
    tokens: Annotated[list[TokenId], Field(fail_fast=True), BeforeValidator(integers)] = Field(
        description="The ids of tokens."
    )
