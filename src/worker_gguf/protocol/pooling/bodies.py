"""The bodies of the routes for vectors and scores."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag

from worker_gguf.protocol.bodies import LONGEST_TIMEOUT_S, MAX_INT32, StrictBody, TokenIds
from worker_gguf.protocol.numbers import integer

__all__ = ["MAX_INPUTS", "EmbeddingsBody", "PoolingBody", "Priority", "RerankBody", "ScoreBody"]

MAX_INPUTS = 2048  # as in OpenAI's API
_MOST_PRIORITY = 1000

_WHOLE = BeforeValidator(integer)
Positive = Annotated[int, Field(ge=1, le=MAX_INT32), _WHOLE]
Priority = Annotated[int, Field(ge=-_MOST_PRIORITY, le=_MOST_PRIORITY), _WHOLE]
Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]


class PoolingBody(StrictBody):
    """The fields that all of these routes share."""

    model_config = ConfigDict(defer_build=True)

    model: str | None = Field(None, max_length=512, description="The served model's id or one of its aliases.")
    truncate: bool | Literal["NONE", "START", "END", "none", "start", "end"] | None = Field(
        None,
        description="What an input loses that is too long: `END` or true, `START`. Without it, or with `NONE` or "
        "false, such an input is an error. As in Cohere's, Jina's and Text Embeddings Inference's APIs.",
    )
    truncation_direction: Literal["Left", "Right", "left", "right"] | None = Field(
        None, description="With truncate true: the side that loses tokens, as in Text Embeddings Inference."
    )
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=MAX_INT32), _WHOLE] | None = Field(
        None, description="Keep at most so many tokens at the end of an input, as in vLLM; -1: as the model takes."
    )
    timeout: float | None = Field(
        None, gt=0, le=LONGEST_TIMEOUT_S, description="Seconds until the request fails with 504."
    )
    priority: Priority | None = Field(None, description="Requests with a lower number go first, as in vLLM.")


def _kind_of_input(value: object) -> str:
    """Return the tag of an input's form by its first item, so that an error refers to the form that was intended.

    The tags are no names that an object could have, so that none is taken for a place in the body.
    """
    if not isinstance(value, list):
        return "(text)"
    first = value[0] if value else None
    return "(lists)" if isinstance(first, list) else "(tokens)" if isinstance(first, int | float) else "(texts)"


class EmbeddingsBody(PoolingBody):
    """POST /v1/embeddings"""

    model_config = ConfigDict(defer_build=False)

    input: Annotated[
        Annotated[str, Tag("(text)")]
        | Annotated[Texts, Tag("(texts)")]
        | Annotated[TokenIds, Tag("(tokens)")]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True), Tag("(lists)")],
        Discriminator(_kind_of_input),
    ] = Field(description="A text, texts, token ids or lists of token ids; none of them empty.")
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="Numbers, or little-endian 32-bit floats in base64."
    )
    dimensions: Positive | None = Field(
        None, description="Keep the first numbers of each vector, for models that were trained for it."
    )
    normalize: bool | None = Field(None, description="false: vectors as the model gives them, not of length 1.")
    embd_normalize: Annotated[int, Field(ge=-1, le=2), _WHOLE] | None = Field(
        None, description="2: length 1; -1: as the model gives them. As in llama-server, whose others are refused."
    )


class RerankBody(PoolingBody):
    """POST /v1/rerank"""

    model_config = ConfigDict(defer_build=False)

    query: str = Field(min_length=1, description="What the documents are ranked for.")
    # rerank.py checks the documents, so that the error names the place of a wrong one.
    documents: Annotated[list[Any], Field(min_length=1, max_length=MAX_INPUTS)] | None = Field(
        None, description="Texts, or objects with a `text`."
    )
    texts: Texts | None = Field(None, description="The same, as in Text Embeddings Inference, with its answer.")
    top_n: Positive | None = Field(None, description="Return only so many documents, the most relevant ones.")
    return_documents: bool | None = Field(None, description="The answer has the texts of the documents.")
    return_text: bool | None = Field(None, description="The same for texts.")
    raw_scores: bool | None = Field(
        None, description="Scores as the model gives them, mostly logits, and not from 0 to 1."
    )
    max_tokens_per_doc: Positive | None = Field(
        None, description="Keep at most so many tokens of a query with its document, as Cohere does with documents."
    )


class ScoreBody(PoolingBody):
    """POST /v1/score"""

    model_config = ConfigDict(defer_build=False)

    text_1: str | Texts = Field(description="A text, or texts.")
    text_2: str | Texts = Field(description="A text or texts; one text_1 is compared with all of them.")
    raw_scores: bool | None = Field(None, description="Scores as the model gives them, and not from 0 to 1.")
