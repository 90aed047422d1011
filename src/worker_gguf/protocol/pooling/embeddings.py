"""POST /v1/embeddings in OpenAI's form."""

from __future__ import annotations

from typing import Any, Final

from worker_gguf.errors import UnsupportedParameter
from worker_gguf.protocol.calls import Defaults
from worker_gguf.protocol.pooling.bodies import EmbeddingsBody
from worker_gguf.protocol.pooling.calls import Input, PooledAnswer, PoolingCall
from worker_gguf.protocol.pooling.common import check_texts, shared
from worker_gguf.protocol.pooling.vectors import as_base64, finished
from worker_gguf.protocol.route import Pooling
from worker_gguf.protocol.validation import invalid, validated
from worker_gguf.protocol.wellformed import read_object

__all__ = ["EMBEDDINGS", "EmbeddingsCall", "check_dimensions", "parse_embeddings", "render_embeddings"]


class EmbeddingsCall(PoolingCall, frozen=True, kw_only=True):
    """A parsed request for vectors. `dimensions` None keeps all numbers."""

    dimensions: int | None = None
    is_normal: bool = True
    is_base64: bool = False


def parse_embeddings(body: object, defaults: Defaults) -> EmbeddingsCall:
    """Parse the body of POST /v1/embeddings. Raises InvalidRequest."""
    fields = read_object(body)
    checked = validated(EmbeddingsBody, fields, {})
    return EmbeddingsCall(
        inputs=_inputs(checked),
        param="input",
        dimensions=checked.dimensions,
        is_normal=_is_normal(checked),
        is_base64=checked.encoding_format == "base64",
        **shared(checked, fields, defaults),
    )


def render_embeddings(call: EmbeddingsCall, answer: PooledAnswer) -> dict[str, Any]:
    """Render vectors in OpenAI's form."""
    vectors = (finished(vector, call.dimensions, is_normal=call.is_normal) for vector in answer.values)
    data = [
        {"object": "embedding", "index": index, "embedding": as_base64(vector) if call.is_base64 else list(vector)}
        for index, vector in enumerate(vectors)
    ]
    n_tokens = sum(answer.n_tokens)
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return {"object": "list", "data": data, "model": answer.heading.model, "usage": usage}


def check_dimensions(call: EmbeddingsCall, n: int) -> None:
    """Raise InvalidRequest if a call wants more than the `n` numbers of the model's vectors."""
    dimensions = call.dimensions
    if dimensions is not None and dimensions > n:
        raise invalid("dimensions", f"must be at most {n}, the length of this model's vectors, not {dimensions}")


def _inputs(body: EmbeddingsBody) -> tuple[Input, ...]:
    given = body.input
    if isinstance(given, str):
        if not given:
            raise invalid("input", "must not be empty")
        return (given,)
    if isinstance(given[0], int):
        return (tuple(given),)
    if isinstance(given[0], str):
        check_texts("input", given)
        return tuple(given)
    return tuple(map(tuple, given))


def _is_normal(body: EmbeddingsBody) -> bool:
    kind = body.embd_normalize
    if kind in (0, 1):
        raise UnsupportedParameter(
            "Only 2 (length 1) and -1 (none) are supported for 'embd_normalize'.", param="embd_normalize"
        )
    if body.normalize is not None and kind is not None and body.normalize is not (kind == 2):
        raise invalid("embd_normalize", "contradicts normalize. Send one of them")
    return kind == 2 if kind is not None else body.normalize is not False


EMBEDDINGS: Final = Pooling(
    "embd-", ("embedding",), EmbeddingsBody, parse_embeddings, render_embeddings, check_dimensions
)
