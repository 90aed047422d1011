"""Tests of the LoRA adapters of whole requests: what reaches the engine, what the answer names, what is listed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.asking import ask
from tests.service.scripted import scripted_service
from worker_gguf.engine.adapters import AdapterSet
from worker_gguf.errors import InvalidRequest, NotFound
from worker_gguf.protocol.models import AdapterCard
from worker_gguf.service.request import Answer
from worker_gguf.service.service import Service

TWO = (AdapterCard("sql"), AdapterCard("style", 0.5))
MESSAGES = [{"role": "user", "content": "Hi"}]


async def body_of(service: Service, path: str, body: object, method: str = "POST") -> Any:
    answer = await ask(service, method, path, body)
    assert isinstance(answer, Answer)
    return answer.body


@pytest.mark.parametrize(
    ("fields", "adapters", "model"),
    [
        ({}, (), "m"),
        ({"model": "m"}, (), "m"),
        ({"lora": ["style", {"id": 0, "scale": 2}]}, ((0, 2.0), (1, 0.5)), "m"),
        ({"model": "m:style"}, ((1, 0.5),), "m:style"),
        ({"model": "STYLE:latest"}, ((1, 0.5),), "m:style"),
        ({"model": "sql", "lora": [{"id": 0, "scale": 3}]}, ((0, 3.0),), "m:sql"),
    ],
)
async def test_adapters_reach_the_engine_and_the_answer_names_its_model(
    fields: dict[str, Any], adapters: AdapterSet, model: str
) -> None:
    with scripted_service("ok", adapters=TWO) as (service, requests):
        for path, body in (
            ("/v1/chat/completions", {"messages": MESSAGES}),
            ("/v1/completions", {"prompt": "Hi"}),
            ("/v1/responses", {"input": "Hi"}),
            ("/v1/messages", {"messages": MESSAGES}),
            ("/completion", {"prompt": "Hi"}),
        ):
            answer = await body_of(service, path, {**body, **fields})
            _, request = requests.popitem()
            assert (request.adapters, answer["model"]) == (adapters, model)
            assert not requests
    if path == "/completion":
        assert answer["generation_settings"]["lora"] == [{"id": number, "scale": scale} for number, scale in adapters]


async def test_every_prompt_of_a_request_has_its_adapters() -> None:
    with scripted_service("ok", adapters=TWO) as (service, requests):
        await body_of(service, "/v1/completions", {"prompt": ["a", "b"], "lora": "sql"})
    assert [request.adapters for request in requests.values()] == [((0, 1.0),)] * 2


async def test_an_unknown_name_of_a_model_lists_the_adapters_too() -> None:
    with scripted_service("ok", adapters=TWO) as (service, _):
        with pytest.raises(NotFound, match="This worker serves 'm', 'm:sql', 'm:style'") as refused:
            await body_of(service, "/v1/chat/completions", {"messages": MESSAGES, "model": "m:none"})
        assert refused.value.param == "model"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/messages/count_tokens", {"messages": MESSAGES}),
        ("/v1/responses/input_tokens", {"input": "Hi"}),
        ("/apply-template", {"messages": MESSAGES}),
    ],
)
async def test_an_unknown_adapter_is_refused_also_where_tokens_are_counted(path: str, body: dict[str, Any]) -> None:
    with scripted_service("ok", adapters=TWO) as (service, _):
        with pytest.raises(InvalidRequest, match="which has 'sql'") as refused:
            await body_of(service, path, {**body, "lora": "none"})
        assert refused.value.param == "lora"
        await body_of(service, path, {**body, "lora": []})


async def test_each_adapter_is_listed_as_a_model() -> None:
    with scripted_service("ok", adapters=TWO) as (service, _):
        models = (await body_of(service, "/v1/models", None, "GET"))["data"]
        assert [(model["id"], model.get("parent")) for model in models] == [
            ("m", None),
            ("m:sql", "m"),
            ("m:style", "m"),
        ]
        for model in models:
            assert await body_of(service, f"/v1/models/{model['id']}", None, "GET") == model
        tags = (await body_of(service, "/api/tags", None, "GET"))["models"]
        assert [model["name"] for model in tags] == ["m:latest", "m:sql", "m:style"]
        adapters = await body_of(service, "/lora-adapters", None, "GET")
        assert [(adapter["id"], adapter["name"]) for adapter in adapters] == [(0, "sql"), (1, "style")]
