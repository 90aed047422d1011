"""Tests of the properties and the slots of a model."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from worker_gguf.engine.request import SamplingParams
from worker_gguf.errors import NotReady
from worker_gguf.protocol.calls import Defaults
from worker_gguf.protocol.llama_server.listings import LORA_ADAPTERS, PROPS, SLOTS
from worker_gguf.protocol.models import AdapterCard, ModelCard, ModelStatus, SlotUse
from worker_gguf.protocol.route import Listed

CARD = ModelCard(
    "m",
    1,
    aliases=("file", "file.gguf"),
    n_ctx=512,
    quantization="Q8_0",
    chat_template="{{ x }}",
    bos_text="<s>",
    eos_text="</s>",
    n_parallel=3,
    defaults=Defaults(SamplingParams(temperature=0.5, seed=7), 40),
)


def listed(
    card: ModelCard = CARD,
    status: ModelStatus | None = None,
    use: SlotUse | None = None,
    query: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Listed, list[str | None]]:
    asked: list[str | None] = []

    def named(name: str | None) -> tuple[ModelCard, ModelStatus | None]:
        asked.append(name)
        return card, status

    return Listed([(card, status)], named, None, query, None, lambda name: use or SlotUse()), asked


def test_the_properties_have_what_a_client_sets_itself_up_with() -> None:
    props: Any = PROPS.answer(listed()[0])
    settings = props["default_generation_settings"]
    assert (settings["n_ctx"], settings["params"]["temperature"], settings["params"]["n_predict"]) == (512, 0.5, 40)
    assert settings["params"]["seed"] == 7
    assert (props["chat_template"], props["bos_token"], props["eos_token"]) == ("{{ x }}", "<s>", "</s>")
    assert (props["total_slots"], props["model_alias"], props["model_path"]) == (3, "m", "file.gguf")
    assert props["modalities"] == {"vision": False, "audio": False, "video": False}
    assert not props["is_sleeping"]


def test_the_properties_of_a_model_that_is_not_loaded_are_those_that_are_known() -> None:
    props: Any = PROPS.answer(listed(ModelCard("m", 1), ModelStatus("unloaded"))[0])
    assert (props["chat_template"], props["total_slots"], props["is_sleeping"]) == ("", 0, True)
    assert props["default_generation_settings"]["n_ctx"] is None


@pytest.mark.parametrize(("query", "name"), [({}, None), ({"model": ""}, None), ({"model": "b"}, "b")])
def test_a_model_is_chosen_in_the_query(query: dict[str, str], name: str | None) -> None:
    for listing in PROPS, SLOTS:
        given, asked = listed(query=query)
        listing.answer(given)
        assert asked == [name]


def test_as_many_slots_are_busy_as_requests_run() -> None:
    given, _ = listed(use=SlotUse(2, 1))
    assert SLOTS.answer(given) == [
        {"id": 0, "n_ctx": 512, "speculative": False, "is_processing": True},
        {"id": 1, "n_ctx": 512, "speculative": False, "is_processing": False},
    ]


def test_a_client_may_ask_for_an_error_where_no_slot_is_free() -> None:
    with pytest.raises(NotReady, match="All slots are busy"):
        SLOTS.answer(listed(use=SlotUse(2, 2), query={"fail_on_no_slot": "1"})[0])
    assert SLOTS.answer(listed(use=SlotUse(2, 1), query={"fail_on_no_slot": "1"})[0])


def test_the_adapters_have_the_scale_of_a_request_that_names_none() -> None:
    card = ModelCard("m", 1, adapters=(AdapterCard("sql"), AdapterCard("style", 0.5)))
    given, _ = listed(card)
    empty = {"scale": 0.0, "task_name": "", "prompt_prefix": ""}
    adapters = [
        {"id": 0, "path": "sql", "name": "sql", "default_scale": 1.0, **empty},
        {"id": 1, "path": "style", "name": "style", "default_scale": 0.5, **empty},
    ]
    assert LORA_ADAPTERS.answer(given) == adapters
    assert LORA_ADAPTERS.answer(listed()[0]) == []


def test_a_query_may_name_the_model_by_one_of_its_adapters() -> None:
    model = ModelCard("m", 1, adapters=(AdapterCard("sql"),))
    cards = {card.id: card for card in model.with_adapters()}
    listing = Listed([], lambda name: (cards[name or "m"], None), None, {"model": "m:sql"}, None)
    assert [adapter["name"] for adapter in LORA_ADAPTERS.answer(listing)] == ["sql"]
