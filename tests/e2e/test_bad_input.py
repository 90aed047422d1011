"""Tests that any bad input gets a 4xx with OpenAI's error body, and that the next good request is answered."""

from __future__ import annotations

import asyncio
import json
import random
import string
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.conftest import Running
from worker_gguf.embedded import published_prompts
from worker_gguf.protocol.parameters import HONOURED, IGNORED, REFUSED

pytestmark = pytest.mark.usefixtures("all_slots_free")

ROUTES = ("/v1/chat/completions", "/v1/completions")
N_BODIES = 10_000


def still_answers(client: openai.OpenAI) -> None:
    prompt = published_prompts()[0]
    answer = client.chat.completions.create(
        model="embedded", messages=list(prompt.messages), temperature=0, max_tokens=prompt.max_tokens  # type: ignore[arg-type]
    )  # fmt: skip
    assert answer.choices[0].message.content == prompt.expected


def check_refusal(answer: httpx.Response) -> None:
    assert 400 <= answer.status_code < 500, answer.text
    error = answer.json()["error"]
    assert {"message", "type", "param", "code"} <= error.keys()
    assert error["message"]
    assert "Traceback" not in error["message"]


BAD: dict[str, bytes] = {
    "nothing": b"",
    "not JSON": b"{",
    "not UTF-8": b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "half a character": rb'{"messages": [{"role": "user", "content": "\ud83d"}]}',
    "a list": b"[]",
    "a number": b"1e999",
    "NaN": b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
    "no messages": b"{}",
    "empty messages": b'{"messages": []}',
    "null messages": b'{"messages": null}',
    "messages of numbers": b'{"messages": [1]}',
    "an unknown role": b'{"messages": [{"role": "emperor", "content": "x"}]}',
    "deeply nested": b'{"messages": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "deeply nested content": b'{"messages": [{"role": "user", "content": '
    + b'{"a":' * 5_000
    + b"1"
    + b"}" * 5_000
    + b"}]}",
    "too many stops": json.dumps({"messages": [{"role": "user", "content": "x"}], "stop": ["a"] * 257}).encode(),
    "a huge number": b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": ' + b"9" * 4000 + b"}",
    "an unknown sampler": b'{"messages": [{"role": "user", "content": "x"}], "samplers": ["magic"]}',
    "an image": b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}',
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
def test_a_bad_body_is_refused(running: Running, client: openai.OpenAI, body: bytes) -> None:
    check_refusal(httpx.post(running.url + ROUTES[0], content=body, timeout=30))
    still_answers(client)


def test_a_body_over_the_limit_is_413(running: Running) -> None:
    answer = httpx.post(running.url + ROUTES[1], content=b" " * (2 << 20), timeout=30)
    assert answer.status_code == 413
    check_refusal(answer)


@pytest.mark.parametrize("prompt", [[999_999_999], [-1], [[1], [10**12]], [""] * 100, [True], {}])
def test_a_bad_prompt_is_refused(running: Running, prompt: object) -> None:
    check_refusal(httpx.post(running.url + ROUTES[1], json={"prompt": prompt, "max_tokens": 1}, timeout=30))


def random_value(rng: random.Random, depth: int = 0) -> Any:
    kinds = ["null", "bool", "int", "float", "text", "list", "object"]
    match rng.choice(kinds[: 5 if depth > 2 else 7]):
        case "null":
            return None
        case "bool":
            return rng.random() < 0.5
        case "int":
            return rng.choice([0, 1, 2, -1, 17, 2**31, -(2**63), 10**30])
        case "float":
            return rng.choice([0.0, 0.5, -1.5, 1e308, 1e-320])
        case "text":
            return rng.choice(
                ["", "a", "user", "\x00", "ğ🦙", "json_object", "".join(rng.choices(string.printable, k=9))]
            )
        case "list":
            return [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case _:
            keys = ["role", "content", "type", "text", "name", "x", "include_usage"]
            return {rng.choice(keys): random_value(rng, depth + 1) for _ in range(rng.randrange(4))}


NAMES = sorted({*HONOURED, *IGNORED, *REFUSED, "", "no such name"})


def random_body(rng: random.Random) -> dict[str, Any]:
    """Mostly a good request with a few fields gone wrong, so that every field's own check is met."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "prompt": "hi", "max_tokens": 1}
    for _ in range(rng.randrange(1, 4)):
        body[rng.choice(NAMES)] = random_value(rng)
    body.pop("timeout", None)  # a deadline of nothing is rightly a 504
    return body


def test_10000_random_bodies_never_meet_a_500(running: Running, client: openai.OpenAI) -> None:
    rng = random.Random(2026)
    statuses: dict[int, int] = {}

    async def send(http: httpx.AsyncClient, n: int) -> None:
        for _ in range(n):
            body = random_body(rng)
            answer = await http.post(rng.choice(ROUTES), json=body)
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            if answer.status_code != 200:
                check_refusal(answer)

    async def scenario() -> None:
        async with httpx.AsyncClient(base_url=running.url, timeout=120) as http:
            await asyncio.gather(*(send(http, N_BODIES // 8) for _ in range(8)))

    asyncio.run(scenario())
    assert sum(statuses.values()) == N_BODIES
    assert statuses.get(200, 0) > 100  # some are good after all, and are answered
    still_answers(client)
