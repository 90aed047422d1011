"""Tests of the lists of models in Ollama's form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from worker_gguf.errors import InvalidRequest, NotFound
from worker_gguf.protocol.models import AdapterCard, ModelCard, ModelNotServed, ModelStatus, names_meant
from worker_gguf.protocol.ollama.listings import PS, SHOW, TAGS, VERSION, capabilities, listed_name, parameter_size
from worker_gguf.protocol.route import Listed, Listing

CARD = ModelCard(
    "org/chat",
    1_700_000_000,
    n_ctx=2048,
    n_ctx_train=8192,
    n_vocab=100,
    n_embd=64,
    n_params=1_235_814_432,
    size_bytes=1000,
    quantization="Q4_K_M",
    architecture="llama",
    chat_template="{{ messages }}",
)
UNKNOWN = ModelCard("later", 1_700_000_000)

Models = Sequence[tuple[ModelCard, ModelStatus | None]]


def asked(listing: Listing, *models: tuple[ModelCard, ModelStatus | None], body: object = None) -> Any:
    def named(name: str | None) -> tuple[ModelCard, ModelStatus | None]:
        for card, status in models:
            if name is None or card.id in names_meant(name):
                return card, status
        raise ModelNotServed(name or "", [card.id for card, _ in models])

    query: Mapping[str, str] = {}
    return listing.answer(Listed(models, named, None, query, body))


def test_the_list_has_names_with_a_tag_and_their_details() -> None:
    (model,) = asked(TAGS, (CARD, None))["models"]
    assert len(model.pop("digest")) == 64
    assert model == {
        "name": "org/chat:latest",
        "model": "org/chat:latest",
        "modified_at": "2023-11-14T22:13:20.000000000Z",
        "size": 1000,
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": "1.2B",
            "quantization_level": "Q4_K_M",
            "context_length": 2048,
            "embedding_length": 64,
        },
        "capabilities": ["completion", "tools"],
    }


def test_a_name_with_a_tag_keeps_it() -> None:
    assert listed_name(replace(CARD, id="org/chat:Q4_K_M")) == "org/chat:Q4_K_M"


def test_a_digest_stays_and_differs_between_models() -> None:
    first, again, other = (
        asked(TAGS, (card, None))["models"][0]["digest"]
        for card in (CARD, replace(CARD, created=5, n_ctx=None), replace(CARD, size_bytes=1001))
    )
    assert first == again != other


def test_a_model_that_is_not_on_disk_is_listed_with_what_is_known() -> None:
    (model,) = asked(TAGS, (UNKNOWN, ModelStatus("unloaded")))["models"]
    assert (model["name"], model["size"]) == ("later:latest", 0)
    assert model["details"]["families"] == []
    assert asked(SHOW, (UNKNOWN, None), body={"model": "later"})["model_info"] == {"general.basename": "later"}


def test_only_models_in_memory_are_running() -> None:
    models = ((CARD, ModelStatus("loaded")), (UNKNOWN, ModelStatus("unloaded")))
    (running,) = asked(PS, *models)["models"]
    assert (running["name"], running["context_length"]) == ("org/chat:latest", 2048)
    assert running["expires_at"].startswith("9999")
    assert len(asked(PS, (CARD, None))["models"]) == 1


@pytest.mark.parametrize("body", [{"model": "org/chat"}, {"name": "org/chat:latest"}, {"name": ""}, {}])
def test_one_model_is_shown_with_the_context_of_a_request(body: dict[str, str]) -> None:
    shown = asked(SHOW, (CARD, None), body=body)
    assert shown["model_info"] == {
        "general.architecture": "llama",
        "general.basename": "org/chat",
        "general.parameter_count": 1_235_814_432,
        "llama.context_length": 2048,
        "llama.embedding_length": 64,
        "llama.vocab_size": 100,
    }
    assert shown["parameters"].split() == ["num_ctx", "2048"]
    assert shown["template"] == "{{ messages }}"
    assert asked(SHOW, (CARD, None), body=body | {"verbose": True}) == shown


def test_a_wrong_body_or_name_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        asked(SHOW, (CARD, None), body=[])
    with pytest.raises(InvalidRequest, match="'model'"):
        asked(SHOW, (CARD, None), body={"model": 3})
    with pytest.raises(NotFound):
        asked(SHOW, (CARD, None), body={"model": "other"})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"chat_template": "{% if enable_thinking %}"}, ["completion", "tools", "thinking"]),
        ({"capabilities": ("embedding",)}, ["embedding"]),
        ({"capabilities": ("completion", "embedding", "vision")}, ["completion", "embedding", "vision", "tools"]),
        ({"capabilities": ("rerank",)}, []),
    ],
)
def test_abilities_have_ollamas_names(changes: dict[str, Any], expected: list[str]) -> None:
    assert capabilities(replace(CARD, **changes)) == expected


@pytest.mark.parametrize(
    ("n_params", "text"),
    [
        (8_000_000_000, "8B"),
        (7_615_616_512, "7.6B"),
        (134_515_008, "134.52M"),
        (3_000_000, "3M"),
        (4096, "4K"),
        (7, "7"),
    ],
)
def test_a_number_of_parameters_is_written_as_in_ollama(n_params: int, text: str) -> None:
    assert parameter_size(n_params) == text


def test_the_version_can_be_compared() -> None:
    numbers = [int(part) for part in asked(VERSION, (CARD, None))["version"].split(".")]
    assert numbers >= [0, 13, 4]


def test_an_adapter_is_listed_under_its_own_name_with_its_parent() -> None:
    cards = replace(CARD, adapters=(AdapterCard("sql", size_bytes=7),)).with_adapters()
    model, adapter = asked(TAGS, *((card, None) for card in cards))["models"]
    assert (adapter["name"], adapter["size"]) == ("org/chat:sql", 7)
    assert adapter["details"] == model["details"] | {"parent_model": "org/chat"}
    assert adapter["digest"] != model["digest"]
    shown = asked(SHOW, (cards[1], None), body={"model": "org/chat:sql"})
    assert shown["details"]["parent_model"] == "org/chat"
