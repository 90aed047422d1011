"""Tests of the forms in which clients of each dialect send images."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from worker_gguf.errors import InvalidRequest
from worker_gguf.protocol.anthropic.requests import parse_message
from worker_gguf.protocol.calls import ChatCall, Defaults
from worker_gguf.protocol.images import SentImage, image_in
from worker_gguf.protocol.ollama.requests import parse_chat as parse_ollama
from worker_gguf.protocol.ollama.requests import parse_generate
from worker_gguf.protocol.openai.requests import parse_chat
from worker_gguf.protocol.responses.requests import parse_response

FILE = bytes(range(256))
TEXT = base64.b64encode(FILE).decode()
DATA = f"data:image/png;base64,{TEXT}"
URL = "https://images.example/a.png"


def chat(*parts: object, role: str = "user", **fields: Any) -> ChatCall:
    before = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [_call("c")]}]
    messages = [*(before if role == "tool" else ()), {"role": role, "content": list(parts)}]
    return parse_chat({"messages": messages, **fields}, Defaults())


def _call(name: str) -> dict[str, Any]:
    return {"id": name, "type": "function", "function": {"name": "look", "arguments": "{}"}}


def shown(url: object, **more: object) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def text(what: str) -> dict[str, str]:
    return {"type": "text", "text": what}


def order(call: ChatCall) -> list[str]:
    """Return the texts of the last message, and the places of its images."""
    parts = call.messages[-1]["content"]
    return [part["text"] if (image := image_in(part)) is None else image.param for part in parts]


def test_a_chat_completion_has_images_between_its_texts() -> None:
    call = chat(text("a"), shown(DATA), text("b"), shown(URL), {"type": "image_url", "image_url": DATA})
    places = [f"messages.0.content.{place}.image_url" for place in (1, 3, 4)]
    assert order(call) == ["a", places[0], "b", *places[1:]]
    assert call.images == (
        SentImage(places[0], data=FILE),
        SentImage(places[1], url=URL),
        SentImage(places[2], data=FILE),
    )


@pytest.mark.parametrize(
    "url",
    [
        f"DATA:IMAGE/PNG;BASE64,{TEXT}",
        f"data:image/png;charset=utf-8;base64,{TEXT}",
        f"data:image/jpeg;base64,{TEXT[:80]}\r\n{TEXT[80:]}\n",
    ],
)
def test_the_forms_of_a_data_url(url: str) -> None:
    assert chat(shown(url)).images[0].data == FILE


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("data:", "form"),
        ("data:image/png;base64", "form"),
        (f"data:image/png{';a=b' * 100};base64,{TEXT}", "form"),
        (f"data:text/plain;base64,{TEXT}", "begins with image/"),
        (f"data:;base64,{TEXT}", "begins with image/"),
        ("data:image/png,%89PNG", "Base64"),
        (DATA[:-1], "Base64"),
        ("data:image/png;base64,!!!!", "Base64"),
        ("data:image/png;base64,Ä", "Base64"),
        ("ftp://images.example/a.png", "https://"),
        ("file:///etc/passwd", "https://"),
        ("/etc/passwd", "https://"),
        ("", "https://"),
        (5, "text"),
    ],
)
def test_what_is_no_image_url_is_refused_in_its_place_and_not_repeated(url: object, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what) as refused:
        chat(text("a"), shown(url))
    assert refused.value.param == "messages.0.content.1.image_url"
    assert TEXT[:20] not in refused.value.message


def test_the_detail_is_named_as_ignored_unless_it_is_automatic() -> None:
    call = chat(shown(DATA, detail="high"), shown(DATA, detail="auto"), shown(DATA, detail=None))
    assert call.options.ignored == ("messages.0.content.0.image_url.detail",)
    with pytest.raises(InvalidRequest, match="STRICT_PARAMETERS"):
        parse_chat({"messages": [{"role": "user", "content": [shown(DATA, detail="low")]}]}, Defaults(strict=True))


def test_a_tool_may_return_images() -> None:
    call = chat(text("It is"), shown(DATA), role="tool", tool_call_id="c")
    assert order(call) == ["It is", "messages.2.content.1.image_url"]
    assert [image.is_returned for image in call.images] == [True]
    assert [image.is_returned for image in chat(shown(DATA)).images] == [False]


def test_a_client_cannot_send_what_only_the_parser_makes() -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat({"type": "image", "image": {"param": "x", "data": TEXT}})
    assert refused.value.param == "messages.0.content.0.type"


def test_the_ids_of_tokens_exclude_images() -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat(shown(DATA), return_token_ids=True)
    assert refused.value.param == "return_token_ids"


def test_an_image_is_not_shown_where_its_value_is() -> None:
    call = chat(shown(DATA))
    assert repr(call.images[0]) == "SentImage('messages.0.content.0.image_url')"
    assert repr(FILE)[2:20] not in repr(call)


def test_the_input_of_a_response_has_images() -> None:
    image = {"type": "input_image", "image_url": DATA}
    call_item = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c", "output": [{**image, "detail": "low"}]}
    spoken = {"role": "user", "content": [{"type": "input_text", "text": "a"}, {**image, "detail": "auto"}]}
    call = parse_response({"input": [spoken, call_item, result]}, Defaults())
    assert call.images == (
        SentImage("input.0.content.1.image_url", data=FILE),
        SentImage("input.2.output.0.image_url", data=FILE, unread=("input.2.output.0.detail",), is_returned=True),
    )
    assert call.options.ignored == ("input.2.output.0.detail",)


@pytest.mark.parametrize("wrong", [None, "x", "data:text/html;base64,aa", 5])
def test_a_wrong_image_of_a_response_is_named(wrong: object) -> None:
    body = {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": wrong}]}]}
    with pytest.raises(InvalidRequest) as refused:
        parse_response(body, Defaults())
    assert refused.value.param == "input.0.content.0.image_url"


def test_a_message_of_anthropics_api_has_images_and_so_has_a_result() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": TEXT}
    image, linked = {"type": "image", "source": source}, {"type": "image", "source": {"type": "url", "url": URL}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [text("b"), image]}
    use = {"type": "tool_use", "id": "t", "name": "look", "input": {}}
    body = {
        "max_tokens": 9,
        "messages": [
            {"role": "user", "content": [image, text("a")]},
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result, linked]},
        ],
    }
    call = parse_message(body, Defaults())
    assert call.images == (
        SentImage("messages.0.content.0.source.data", data=FILE),
        SentImage("messages.2.content.0.content.1.source.data", data=FILE, is_returned=True),
        SentImage("messages.2.content.1.source.url", url=URL),
    )
    assert [message["role"] for message in call.messages] == ["user", "assistant", "tool", "user"]


def test_ollamas_images_come_before_the_text() -> None:
    message = {"role": "user", "content": "a", "images": [TEXT, TEXT]}
    call = parse_ollama({"messages": [{"role": "user", "content": "b"}, message]}, Defaults())
    assert isinstance(call, ChatCall)
    assert order(call) == ["messages.1.images.0", "messages.1.images.1", "a"]
    made = parse_generate({"prompt": "a", "images": [TEXT]}, Defaults())
    assert isinstance(made, ChatCall)
    assert order(made) == ["images.0", "a"]
    for prompt in ({}, {"prompt": ""}):  # an image is a prompt, too
        made = parse_generate({"images": [TEXT], **prompt}, Defaults())
        assert isinstance(made, ChatCall)
        assert made.images[0].data == FILE
