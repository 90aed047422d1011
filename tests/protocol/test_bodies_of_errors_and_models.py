"""Tests of the error envelope and of the list of models."""

from __future__ import annotations

from worker_gguf.errors import ContextLengthExceeded, QueueFull
from worker_gguf.protocol.models import AdapterCard, ModelCard, ModelStatus
from worker_gguf.protocol.openai.errors import error_body
from worker_gguf.protocol.openai.models import MODELS, model_body
from worker_gguf.protocol.route import Listed


def test_an_error_has_openais_four_fields() -> None:
    assert error_body(QueueFull("Full. Come back later.", retry_after_s=2)) == {
        "error": {
            "message": "Full. Come back later.",
            "type": "rate_limit_error",
            "param": None,
            "code": "queue_full",
        }
    }


def test_a_prompt_too_long_carries_both_numbers() -> None:
    error = error_body(ContextLengthExceeded(5000, 4096, param="messages"))["error"]
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (5000, 4096)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")


def test_what_is_not_known_of_a_model_is_left_out() -> None:
    assert model_body(ModelCard("m", 1, n_ctx=4096, aliases=("a",))) == {
        "id": "m",
        "object": "model",
        "created": 1,
        "owned_by": "worker-gguf",
        "meta": {"aliases": ["a"], "capabilities": ["completion"], "n_ctx": 4096},
    }


def test_an_adapter_is_a_model_with_a_parent() -> None:
    card = ModelCard("m", 1, n_ctx=4096, aliases=("a",), size_bytes=100, adapters=(AdapterCard("sql", 0.5, 7),))
    model, adapter = (model_body(own) for own in card.with_adapters())
    assert model["meta"]["adapters"] == ["sql"]
    assert not {"parent", "root"} & model.keys()
    assert adapter == {
        "id": "m:sql",
        "object": "model",
        "created": 1,
        "owned_by": "worker-gguf",
        "root": "m",
        "parent": "m",
        "meta": {
            "aliases": ["sql", "a:sql"],
            "capabilities": ["completion"],
            "n_ctx": 4096,
            "size": 7,
            "adapter": {"name": "sql", "scale": 0.5},
        },
    }


def listed(*models: tuple[ModelCard, ModelStatus | None], **query: str) -> Listed:
    return Listed(models, lambda name: models[0], None, query, None)


def test_the_list_holds_every_model() -> None:
    card = ModelCard("m", 1)
    failed = ModelStatus("failed", "It is broken.")
    assert MODELS.answer(listed((card, None), (card, failed))) == {
        "object": "list",
        "data": [model_body(card), model_body(card, failed)],
    }


def test_codex_finds_its_own_list_of_models() -> None:
    assert MODELS.answer(listed((ModelCard("m", 1), None), client_version="1.0"))["models"] == []
