"""Tests of whole requests with images, from the body to what the engine gets, with a model of known answers."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.asking import ask
from tests.image_files import png
from tests.service.scripted import SHIFT, scripted_service
from worker_gguf.engine.image_runs import IMAGE
from worker_gguf.errors import InvalidRequest, UnsupportedParameter
from worker_gguf.service.images import ImageLoader
from worker_gguf.service.request import Answer

FIRST, SECOND = png(1), png(2)


def shown(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def data_url(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


def asked(*parts: object, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}], **fields}


async def fetch(url: str) -> bytes:
    return {"https://images.example/second": SECOND}[url]


async def test_the_engine_gets_the_files_in_the_order_of_the_prompt_for_each_choice() -> None:
    body = asked(shown(data_url(FIRST)), {"type": "text", "text": "a"}, shown("https://images.example/second"), n=2)
    with scripted_service("ok", images=ImageLoader(fetch=fetch), sees=True) as (service, requests):
        answer = await ask(service, "POST", "/v1/chat/completions", body)
    assert isinstance(answer, Answer)
    assert len(requests) == 2
    for request in requests.values():
        assert request.images == (FIRST, SECOND)
        assert request.image_params == ("messages.0.content.0.image_url", "messages.0.content.2.image_url")
        letters = "".join("#" if token == IMAGE else chr(token - SHIFT) for token in request.prompt)
        assert letters == "<user>#a#<assistant>"


async def test_a_model_that_does_not_see_is_named_before_anything_is_fetched() -> None:
    async def never(url: str) -> bytes:
        raise AssertionError(url)

    with scripted_service("ok", images=ImageLoader(fetch=never)) as (service, requests):
        for path in ("/v1/chat/completions", "/v1/chat/completions/input_tokens"):
            with pytest.raises(UnsupportedParameter, match="MMPROJ"):
                await ask(service, "POST", path, asked(shown("https://images.example/second")))
    assert requests == {}


@pytest.mark.parametrize("path", ["/v1/chat/completions/input_tokens", "/v1/responses/input_tokens"])
async def test_a_conversation_with_images_is_not_counted(path: str) -> None:
    body = asked(shown(data_url(FIRST)))
    if "responses" in path:
        body = {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": data_url(FIRST)}]}]}
    with (
        scripted_service("ok", sees=True) as (service, _),
        pytest.raises(UnsupportedParameter, match="not counted"),
    ):
        await ask(service, "POST", path, body)


async def test_a_wrong_image_reaches_no_engine() -> None:
    body = {"images": [base64.b64encode(FIRST[:-20]).decode()]}
    with (
        scripted_service("ok", sees=True) as (service, requests),
        pytest.raises(InvalidRequest, match="cut off") as refused,
    ):
        await ask(service, "POST", "/api/generate", body)
    assert refused.value.param == "images.0"
    assert requests == {}


async def test_ollamas_context_is_left_out_because_an_image_has_no_tokens() -> None:
    body = {"images": [base64.b64encode(FIRST).decode()], "prompt": "a", "stream": False}
    with scripted_service("ok", sees=True) as (service, _):
        seen = await ask(service, "POST", "/api/generate", body)
        read = await ask(service, "POST", "/api/generate", {"prompt": "a", "stream": False})
    assert isinstance(seen, Answer)
    assert isinstance(read, Answer)
    assert (seen.body["response"], "context" in seen.body, "context" in read.body) == ("ok", False, True)
