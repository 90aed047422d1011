"""Tests of the LoRA adapters that a request names: the forms of `lora`, the name of the model, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from worker_gguf.engine.adapters import AdapterSet
from worker_gguf.errors import InvalidRequest, UnsupportedParameter
from worker_gguf.protocol.adapters import AdapterChoice, chosen_adapters
from worker_gguf.protocol.anthropic.requests import parse_message
from worker_gguf.protocol.calls import Call, ReadyCall
from worker_gguf.protocol.defaults import Defaults
from worker_gguf.protocol.llama_server.requests import parse_completion as parse_native
from worker_gguf.protocol.llama_server.requests import parse_infill
from worker_gguf.protocol.models import AdapterCard, ModelCard, card_meant
from worker_gguf.protocol.ollama.requests import parse_chat as parse_ollama_chat
from worker_gguf.protocol.ollama.requests import parse_generate
from worker_gguf.protocol.openai.requests import parse_chat, parse_completion
from worker_gguf.protocol.responses.requests import parse_response
from worker_gguf.protocol.wellformed import read_json

CARD = ModelCard(
    "org/base:Q8_0", 1, aliases=("base",), adapters=(AdapterCard("sql"), AdapterCard("Style", 0.5, size_bytes=7))
)
PLAIN = ModelCard("plain", 1)
MESSAGES = [{"role": "user", "content": "Hi"}]


def chosen(lora: object = None, model: str | None = None, card: ModelCard = CARD) -> AdapterSet:
    fields = {"prompt": "x", "lora": lora, "model": model}
    options = parse_completion(fields, Defaults()).options
    return chosen_adapters(card, options.model, options.lora)[1]


def refusal(lora: object = None, model: str | None = None, card: ModelCard = CARD) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        chosen(lora, model, card)
    return refused.value


@pytest.mark.parametrize(
    ("lora", "adapters"),
    [
        (None, ()),
        ("", ()),
        ([], ()),
        ({}, ()),
        ("sql", ((0, 1.0),)),
        ("SQL", ((0, 1.0),)),
        ("style", ((1, 0.5),)),
        (["style", "sql"], ((0, 1.0), (1, 0.5))),
        ([{"name": "style"}], ((1, 0.5),)),
        ([{"name": "style", "scale": -2}], ((1, -2.0),)),
        ({"name": "style", "scale": 1.5}, ((1, 1.5),)),
        ([{"id": 0, "scale": 0.5}], ((0, 0.5),)),
        ([{"id": 1.0, "scale": 0.25}, {"id": 0, "scale": 0}], ((1, 0.25),)),
        ([{"id": 1}], ((1, 0.5),)),
        ([{"id": 1, "name": "style", "scale": 1}], ((1, 1.0),)),
        (["sql", {"id": 1, "scale": None}], ((0, 1.0), (1, 0.5))),
        ([{"id": 0, "scale": 0}, {"id": 1, "scale": 0.0}], ()),
    ],
)
def test_the_field_names_adapters_by_name_or_number_and_may_give_a_scale(lora: object, adapters: AdapterSet) -> None:
    assert chosen(lora) == adapters


@pytest.mark.parametrize(
    ("model", "adapters", "id_"),
    [
        (None, (), "org/base:Q8_0"),
        ("base", (), "org/base:Q8_0"),
        ("base:latest", (), "org/base:Q8_0"),
        ("sql", ((0, 1.0),), "org/base:Q8_0:sql"),
        ("sql:latest", ((0, 1.0),), "org/base:Q8_0:sql"),
        ("base:Style", ((1, 0.5),), "org/base:Q8_0:Style"),
        ("ORG/base:q8_0:style", ((1, 0.5),), "org/base:Q8_0:Style"),
    ],
)
def test_the_name_of_the_model_may_be_that_of_an_adapter(model: str | None, adapters: AdapterSet, id_: str) -> None:
    meant, found = chosen_adapters(CARD, model, None)
    assert (meant.id, found) == (id_, adapters)


@pytest.mark.parametrize("model", ["other", "other:sql", "base:none", "base:sql:style", ":sql", "base:"])
def test_other_names_mean_no_model_and_no_adapter(model: str) -> None:
    assert card_meant(CARD, model) is None


def test_a_model_is_meant_before_an_adapter_of_the_same_name() -> None:
    card = ModelCard("sql", 1, adapters=(AdapterCard("sql"),))
    assert card_meant(card, "sql") is card
    assert chosen(model="sql", card=card) == ()
    assert chosen(model="sql:sql", card=card) == ((0, 1.0),)


@pytest.mark.parametrize(
    ("lora", "adapters"),
    [
        ("sql", ((0, 1.0),)),
        ([{"name": "sql", "scale": 0.25}], ((0, 0.25),)),
        ([{"id": 0, "scale": 2}, {"id": 1, "scale": 0}], ((0, 2.0),)),
        ("", ((0, 1.0),)),
    ],
)
def test_both_ways_at_once_may_agree_and_the_field_has_the_scale(lora: object, adapters: AdapterSet) -> None:
    assert chosen(lora, "base:sql") == adapters


@pytest.mark.parametrize("lora", ["style", ["sql", "style"], [], {}, [{"id": 0, "scale": 0}]])
def test_two_ways_that_disagree_are_refused(lora: object) -> None:
    error = refusal(lora, "base:sql")
    assert error.param == "lora"
    assert error.message == ("'model' names the adapter 'sql', and 'lora' does not name it alone. Send one of them.")


@pytest.mark.parametrize(
    ("lora", "param"),
    [
        ("none", "lora"),
        (["sql", "none"], "lora.1"),
        ([{"id": 2}], "lora.0"),
        ([{"id": -1, "scale": 1}], "lora.0"),
        ({"name": "none"}, "lora"),
    ],
)
def test_an_adapter_that_the_model_does_not_have_is_refused_with_those_it_has(lora: object, param: str) -> None:
    error = refusal(lora)
    assert (error.status, error.param) == (400, param)
    assert error.message.startswith(f"Invalid '{param}': ")
    assert error.message.endswith(
        " is no adapter of the model 'org/base:Q8_0', which has 'sql' (id 0), 'Style' (id 1)."
    )


@pytest.mark.parametrize(("lora", "named"), [("none", "'none'"), ([{"id": 2}], "the id 2")])
def test_an_error_names_the_adapter_that_is_not_there(lora: object, named: str) -> None:
    assert f": {named} is no adapter of " in refusal(lora).message


def test_a_model_without_adapters_says_so() -> None:
    assert refusal("sql", card=PLAIN).message == (
        "Invalid 'lora': the model 'plain' has no adapters here. Leave it out, name another model, or load "
        "adapters with LORA (with MODELS, `lora` of its entry)."
    )
    assert chosen([], card=PLAIN) == ()


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (["sql", "sql"], "Invalid 'lora.1': repeats 'sql', which is named before it."),
        (["sql", {"id": 0, "scale": 0}], "Invalid 'lora.1': repeats 'sql', which is named before it."),
        ([{"scale": 1}], "Invalid 'lora.0': must have a name or an id."),
        ({"scale": 1}, "Invalid 'lora': must have a name or an id."),
        ([{"name": 1}], "Invalid 'lora.0.name': must be a string."),
        ([{"id": "0"}], "Invalid 'lora.0.id': must be an integer."),
        ([{"id": True}], "Invalid 'lora.0.id': must be an integer."),
        ([{"id": 0.5}], "Invalid 'lora.0.id': must be an integer."),
        ([{"id": 1, "name": "sql"}], "Invalid 'lora.0.id': is not that of 'sql', which is 0."),
        ([{"id": 0, "scale": "1"}], "Invalid 'lora.0.scale': must be a number."),
        ([{"id": 0, "scale": True}], "Invalid 'lora.0.scale': must be a number."),
        ([{"id": 0, "scale": 100.5}], "Invalid 'lora.0.scale': must be from -100 to 100."),
        ([{"id": 0, "scale": -1e308}], "Invalid 'lora.0.scale': must be from -100 to 100."),
        ([{"id": 0, "scale": 10**400}], "Invalid 'lora.0.scale': must be from -100 to 100."),
        ([{"id": 0, "scale": float("nan")}], "Invalid 'lora': holds a number that is not finite."),
        (
            [0],
            """Invalid 'lora.0': must be the name of an adapter, or an object such as {"name": "a", "scale": 0.5}.""",
        ),
        (7, "Invalid 'lora': must be a string or an object or a list, not an integer."),
    ],
)
def test_what_is_wrong_is_refused_at_its_place(lora: object, message: str) -> None:
    assert refusal(lora).message == message


def test_an_item_of_another_type_is_refused_with_an_example() -> None:
    items: list[object] = [0, [], True, None]
    for item in items:
        message = """must be the name of an adapter, or an object such as {"name": "a", "scale": 0.5}."""
        assert refusal([item]).message == f"Invalid 'lora.0': {message}"


def test_a_list_of_adapters_has_a_limit() -> None:
    assert "at most 256 items" in refusal([{"id": 0}] * 257).message


def test_fields_of_an_adapter_without_effect_are_named() -> None:
    adapter = {"id": 0, "path": "/a", "scale": 1.0, "task_name": "", "prompt_prefix": ""}
    options = parse_completion({"prompt": "x", "lora": [adapter]}, Defaults()).options
    assert options.ignored == ("lora.0.path", "lora.0.prompt_prefix", "lora.0.task_name")
    assert options.lora == (AdapterChoice("lora.0", None, 0, 1.0),)


def test_a_scale_that_is_too_large_for_a_float_is_refused() -> None:
    body = read_json(b'{"prompt": "x", "lora": [{"id": 0, "scale": 1e999}]}')
    with pytest.raises(InvalidRequest, match="not finite"):
        parse_completion(body, Defaults())


Parse = Callable[[object, Defaults], Call | ReadyCall]
DIALECTS: dict[str, tuple[Parse, dict[str, Any]]] = {
    "chat": (parse_chat, {"messages": MESSAGES}),
    "completions": (parse_completion, {"prompt": "x"}),
    "fill": (parse_completion, {"prompt": "x", "suffix": "y"}),
    "responses": (parse_response, {"input": "x"}),
    "messages": (parse_message, {"messages": MESSAGES, "max_tokens": 4}),
    "ollama chat": (parse_ollama_chat, {"messages": MESSAGES}),
    "ollama generate": (parse_generate, {"prompt": "x"}),
    "completion": (parse_native, {"prompt": "x"}),
    "infill": (parse_infill, {"input_prefix": "x", "input_suffix": "y"}),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_takes_adapters_and_refuses_other_forms(name: str) -> None:
    parse, fields = DIALECTS[name]
    call = parse({**fields, "lora": [{"id": 1, "scale": 0.5}], "model": "base"}, Defaults(strict=True))
    assert not isinstance(call, ReadyCall)
    assert chosen_adapters(CARD, call.options.model, call.options.lora)[1] == ((1, 0.5),)
    assert call.options.ignored == ()
    with pytest.raises(InvalidRequest, match=r"'lora\.0'"):
        parse({**fields, "lora": [1]}, Defaults())
    for refused in ("lora_adapters", "lora_request"):
        with pytest.raises(UnsupportedParameter, match=f"'{refused}' .* Use lora.") as error:
            parse({**fields, refused: ["sql"]}, Defaults())
        assert error.value.param == refused
