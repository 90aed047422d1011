"""The bodies of Ollama's routes as Pydantic models, published as OpenAPI."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from worker_gguf.protocol.bodies import LONGEST_TIMEOUT_S, MAX_INT32, MAX_TOP_LOGPROBS, StrictBody
from worker_gguf.protocol.numbers import integer, integers
from worker_gguf.protocol.pooling.bodies import Priority

__all__ = [
    "MAX_INPUTS",
    "OllamaChat",
    "OllamaEmbed",
    "OllamaEmbeddings",
    "OllamaGenerate",
    "OllamaMessage",
    "OllamaRequest",
    "OllamaShow",
    "OllamaVectors",
]

MAX_INPUTS = 8192  # more than in OpenAI's form, because clients such as LangChain send all of their texts at once

Objects = Annotated[list[dict[str, Any]], Field(fail_fast=True)]
Texts = Annotated[list[str], Field(fail_fast=True)]


class OllamaRequest(StrictBody):
    """The fields that the two routes that generate share."""

    model: str | None = Field(None, max_length=512, description="The served model's name, with or without `:latest`.")
    stream: bool | None = Field(None, description="Stream the answer, which is the default.")
    format: dict[str, Any] | str | None = Field(
        None, description="`json`, or a JSON Schema that the answer must match."
    )
    options: dict[str, Any] | None = Field(None, description="Sampling and limits; see the table of options.")
    # requests.py checks the text, so that the error names all values.
    think: bool | str | None = Field(
        None, description="Thinking on or off, or `low`, `medium`, `high` or `max`, if the model has a switch."
    )
    logprobs: bool | None = Field(None, description="Return the log-probability of each token.")
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS), BeforeValidator(integer)] | None = Field(
        None, description="And those of the most likely tokens in its place. It needs `logprobs`."
    )
    keep_alive: float | str | None = Field(
        None, description="Ignored: how long a model stays in memory is a setting. 0 without a prompt is `unload`."
    )
    truncate: bool | None = Field(None, description="Nothing is truncated here: true is ignored.")
    shift: bool | None = Field(None, description="The context is never shifted here: true is ignored.")


class OllamaMessage(StrictBody):
    """One message. Other keys reach the template."""

    role: str
    content: str | None = None
    thinking: str | None = None
    images: Texts | None = None
    tool_calls: Objects | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaChat(OllamaRequest):
    """POST /api/chat"""

    messages: Annotated[list[OllamaMessage], Field(fail_fast=True)] | None = Field(
        None, description="The conversation. Without any message, the model is only loaded."
    )
    tools: Objects | None = Field(None, description="Functions that the model may call.")


class OllamaGenerate(OllamaRequest):
    """POST /api/generate"""

    prompt: str | None = Field(None, description="A message of the user. Without it, the model is only loaded.")
    suffix: str | None = Field(None, description="The text after the answer.")
    system: str | None = Field(None, description="The system message.")
    template: str | None = Field(None, description="Refused unless it is empty: CHAT_TEMPLATE sets the template.")
    raw: bool | None = Field(None, description="Continue the prompt as it is, without a template.")
    context: Annotated[list[int], Field(fail_fast=True), BeforeValidator(integers)] | None = Field(
        None, description="The `context` of an earlier answer, which this prompt continues."
    )
    images: Texts | None = Field(None, description="Images beside the prompt.")


class OllamaShow(StrictBody):
    """POST /api/show"""

    model: str | None = Field(None, max_length=512, description="The model's name.")
    name: str | None = Field(None, max_length=512, description="Older name of model.")


class OllamaVectors(StrictBody):
    """The fields that the two routes for vectors share."""

    model: str | None = Field(None, max_length=512, description="The served model's name, with or without `:latest`.")
    options: dict[str, Any] | None = Field(None, description="Ignored: they are set at the start.")
    keep_alive: float | str | None = Field(None, description="Ignored: how long a model stays in memory is a setting.")
    timeout: float | None = Field(
        None, gt=0, le=LONGEST_TIMEOUT_S, description="Seconds until the request fails with 504."
    )
    priority: Priority | None = Field(None, description="Requests with a lower number go first.")


class OllamaEmbed(OllamaVectors):
    """POST /api/embed"""

    # embed.py checks the texts, so that the error names the place of a wrong one.
    input: str | Annotated[list[Any], Field(max_length=MAX_INPUTS)] | None = Field(
        None, description="A text, or texts. Without any, the model is only loaded."
    )
    truncate: bool | None = Field(
        None, description="An input that is too long loses its end, which is the default. false makes it an error."
    )
    dimensions: Annotated[int, Field(ge=0, le=MAX_INT32), BeforeValidator(integer)] | None = Field(
        None, description="Keep the first numbers of each vector, for models that were trained for it; 0 keeps all."
    )


class OllamaEmbeddings(OllamaVectors):
    """POST /api/embeddings"""

    prompt: str | None = Field(None, description="A text. Without it, the model is only loaded.")
    truncate: bool | None = Field(
        None, description="true: a text that is too long loses its end. Otherwise, it is an error."
    )
