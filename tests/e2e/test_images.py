"""Tests of images from end to end: a tiny model with a random projector, over HTTP, from the queue and from a file."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import emulator
from bench import projectors
from tests.e2e.conftest import Running
from tests.image_files import png
from tests.tiny_models import write_attention
from tests.waiting import wait_until
from worker_gguf.http.app import create_app
from worker_gguf.http.binding import bind
from worker_gguf.http.server import ServerThread
from worker_gguf.observe.metrics import Metrics
from worker_gguf.settings import Settings
from worker_gguf.worker import Worker

N = 8
N_ROWS = 16
OWN = {"n_parallel": 2, "n_ctx": 384, "n_threads": 1, "max_tokens": N, "max_images": 3}
QUICK = projectors.Projector("mlp", 32)
# Encoding an image takes about a second.
SLOW = projectors.Projector("mlp", 32, n_embd=512, n_heads=4, n_ff=2048, n_layers=12, image_size=336, patch_size=24)


def write_models(folder: Path, projector: projectors.Projector = QUICK) -> Path:
    projectors.write(folder / "mmproj-tiny.gguf", projector)
    return write_attention(folder / "tiny.gguf")


@contextmanager
def serving(model: Path) -> Iterator[Running]:
    metrics = Metrics("test")
    worker = Worker(Settings(model=str(model), **OWN), metrics)  # type: ignore[arg-type]
    worker.start()
    app = create_app(worker, api_keys=(), max_body_bytes=1 << 22, metrics=metrics)
    try:
        with ServerThread(app, bind("127.0.0.1", 0)) as server:
            asyncio.run(worker.wait_ready())
            yield Running(worker, server.url)
    finally:
        worker.stop()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def seeing(model: Path) -> Iterator[Running]:
    with serving(model) as running:
        yield running


@pytest.fixture(scope="module")
def sdk(seeing: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{seeing.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


def encoded(image: bytes) -> str:
    return base64.b64encode(image).decode()


def shown(image: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded(image)}"}}


def conversation(*parts: bytes | str) -> list[Any]:
    content = [{"type": "text", "text": part} if isinstance(part, str) else shown(part) for part in parts]
    return [{"role": "user", "content": content}]


def post(running: Running, path: str, body: dict[str, Any], status: int = 200) -> Any:
    reply = httpx.post(f"{running.url}{path}", json=body, timeout=60)
    assert reply.status_code == status, reply.text
    return reply.json()


def completion(running: Running, *parts: bytes | str, **fields: Any) -> tuple[str, dict[str, Any]]:
    """Return the greedy answer and its usage."""
    body = {"messages": conversation(*parts), "temperature": 0, **fields}
    answer = post(running, "/v1/chat/completions", body)
    return answer["choices"][0]["message"]["content"], answer["usage"]


def counts(running: Running) -> tuple[int, int]:
    """Return how many images were encoded and how many were still there."""
    lines = httpx.get(f"{running.url}/metrics", timeout=30).text.splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return int(float(found["worker_gguf_images_encoded_total"])), int(float(found["worker_gguf_images_reused_total"]))


def test_the_answer_depends_on_the_image_and_its_rows_are_counted(seeing: Running) -> None:
    text, usage = completion(seeing, "What is this?")
    answers = [completion(seeing, png(seed), "What is this?") for seed in (1, 2, 3)]
    assert len({answer for answer, _ in answers} | {text}) == 4
    assert {seen["prompt_tokens"] for _, seen in answers} == {usage["prompt_tokens"] + N_ROWS}


def test_an_image_that_was_seen_before_is_not_encoded_again_and_its_prefix_is_cached(seeing: Running) -> None:
    first, _ = completion(seeing, png(11), "Describe it.")
    n_encoded, n_reused = counts(seeing)
    again, usage = completion(seeing, png(11), "Describe it.")
    assert again == first
    assert counts(seeing) == (n_encoded, n_reused + 1)
    assert usage["prompt_tokens_details"]["cached_tokens"] >= usage["prompt_tokens"] - 1
    completion(seeing, "Look:", png(12), png(11))
    assert counts(seeing) == (n_encoded + 1, n_reused + 2)


def test_a_stream_is_the_same_text(seeing: Running, sdk: openai.OpenAI) -> None:
    whole, usage = completion(seeing, "Look:", png(4), "and", png(5))
    stream = sdk.chat.completions.create(
        model="tiny",
        messages=conversation("Look:", png(4), "and", png(5)),
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == usage["prompt_tokens"]


def test_each_dialect_shows_the_same_image(seeing: Running, sdk: openai.OpenAI) -> None:
    expected, usage = completion(seeing, png(6), "Well?")
    item: Any = {"type": "input_image", "image_url": shown(png(6))["image_url"]["url"], "detail": "auto"}
    response = sdk.responses.create(
        model="tiny",
        input=[{"role": "user", "content": [item, {"type": "input_text", "text": "Well?"}]}],
        temperature=0,
    )
    assert response.output_text == expected
    assert response.usage is not None
    assert response.usage.input_tokens == usage["prompt_tokens"]
    source = {"type": "base64", "media_type": "image/png", "data": encoded(png(6))}
    blocks = [{"type": "image", "source": source}, {"type": "text", "text": "Well?"}]
    body = {"max_tokens": N, "temperature": 0, "messages": [{"role": "user", "content": blocks}]}
    (block,) = post(seeing, "/v1/messages", body)["content"]
    assert block["text"] == expected
    ollama = {"model": "tiny", "stream": False, "options": {"temperature": 0}}
    message = {"role": "user", "content": "Well?", "images": [encoded(png(6))]}
    assert post(seeing, "/api/chat", {**ollama, "messages": [message]})["message"]["content"] == expected
    generated = post(seeing, "/api/generate", {**ollama, "prompt": "Well?", "images": [encoded(png(6))]})
    assert generated["response"] == expected


def test_a_tool_may_return_an_image(seeing: Running) -> None:
    called = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    before = [{"role": "user", "content": "Look."}, {"role": "assistant", "content": None, "tool_calls": [called]}]
    contents = set()
    for seed in (1, 2):
        messages = [*before, {"role": "tool", "tool_call_id": "c", "content": [shown(png(seed))]}]
        answer = post(seeing, "/v1/chat/completions", {"messages": messages, "temperature": 0})
        contents.add(answer["choices"][0]["message"]["content"])
    assert len(contents) == 2


def test_clients_are_told_that_the_model_sees(seeing: Running, running: Running) -> None:
    listed = httpx.get(f"{seeing.url}/v1/models", timeout=30).json()["data"][0]
    assert "vision" in listed["meta"]["capabilities"]
    assert httpx.get(f"{seeing.url}/props", timeout=30).json()["modalities"]["vision"] is True
    assert "vision" in post(seeing, "/api/show", {"model": "tiny"})["capabilities"]
    refused = post(running, "/v1/chat/completions", {"messages": conversation(png(1))}, 400)["error"]
    assert refused["param"] == "messages.0.content.0.image_url"
    assert "MMPROJ" in refused["message"]


@pytest.mark.parametrize(
    ("parts", "param", "what"),
    [
        (["a", png(1)[:-20]], "messages.0.content.1.image_url", "cut off"),
        ([png(1), b"<svg></svg>"], "messages.0.content.1.image_url", "SVG"),
        ([png(1)] * 100, "messages.0.content.3.image_url", "at most 3"),
        (["a" * 370, png(1)], "messages", "context"),
        ([png(1), png(2), png(3), "a" * 300], "messages", "context"),
    ],
    ids=["cut off", "svg", "100 images", "long text", "long with rows"],
)
def test_bad_images_are_refused_in_their_place(
    seeing: Running, parts: list[bytes | str], param: str, what: str
) -> None:
    error = post(seeing, "/v1/chat/completions", {"messages": conversation(*parts)}, 400)["error"]
    assert error["param"] == param
    assert what in error["message"]
    if what == "context":
        assert error["code"] == "context_length_exceeded"


def test_what_only_the_decoder_finds_is_refused_in_its_place(seeing: Running) -> None:
    """A BMP whose header is right, with a depth that the decoder does not know."""
    header = struct.pack("<IiiHHIIiiII", 40, 30, 20, 1, 7, 0, 0, 0, 0, 0, 0)
    lines = bytes(20 * 28)
    damaged = b"BM" + struct.pack("<IHHI", 54 + len(lines), 0, 0, 54) + header + lines
    error = post(seeing, "/v1/chat/completions", {"messages": conversation(png(1), "a", damaged)}, 400)["error"]
    assert error["param"] == "messages.0.content.2.image_url"
    assert error["message"].startswith("Invalid 'messages.0.content.2.image_url': an image cannot be decoded")


def test_an_error_without_a_field_for_its_place_says_it(seeing: Running) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": encoded(png(1)[:-20])}
    body = {"max_tokens": N, "messages": [{"role": "user", "content": [{"type": "image", "source": source}]}]}
    error = post(seeing, "/v1/messages", body, 400)["error"]
    assert error["message"].startswith("Invalid 'messages.0.content.0.source.data': the image is cut off")
    ollama = {"messages": [{"role": "user", "content": "a", "images": [encoded(png(1)[:-20])]}]}
    assert post(seeing, "/api/chat", ollama, 400)["error"].startswith("Invalid 'messages.0.images.0': the image is cut")


def test_images_reach_no_log(seeing: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    completion(seeing, png(21))
    post(seeing, "/v1/chat/completions", {"messages": conversation(b"secret" * 100)}, 400)
    assert encoded(png(21))[:40] not in caplog.text
    assert "secret" not in caplog.text


def test_a_client_that_leaves_while_its_image_is_encoded_frees_everything(tmp_path: Path) -> None:
    with serving(write_models(tmp_path, SLOW)) as running:
        stats = running.engine.stats

        async def leave() -> None:
            body = {"messages": conversation(png(1), png(2)), "stream": True}
            async with httpx.AsyncClient(timeout=60) as client:
                task = asyncio.create_task(client.post(f"{running.url}/v1/chat/completions", json=body))
                await asyncio.to_thread(wait_until, lambda: stats.waiting == 1)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await asyncio.wait_for(running.engine.idle(), 30)

        asyncio.run(leave())
        wait_until(lambda: (stats.busy_slots, stats.waiting) == (0, 0))
        # The first image was encoded to its end, unless that had not begun, and the second one not at all.
        completion(running, png(1), max_tokens=1)
        assert stats.images_encoded == 1


def test_a_job_of_the_queue_may_have_images(model: Path, seeing: Running, tmp_path: Path) -> None:
    expected, _ = completion(seeing, png(6), "Well?")
    chat = {"messages": conversation(png(6), "Well?"), "temperature": 0}
    source = {"type": "base64", "media_type": "image/png", "data": encoded(png(6))}
    blocks = [{"type": "image", "source": source}, {"type": "text", "text": "Well?"}]
    anthropic = {"max_tokens": N, "temperature": 0, "messages": [{"role": "user", "content": blocks}]}
    with emulator.start() as platform, (tmp_path / "log").open("wb") as log:
        own = {name.upper(): str(value) for name, value in OWN.items()}
        environment = {**os.environ, **platform.worker_environment(), **own, "MODEL": str(model), "MODE": "queue"}
        worker = subprocess.Popen([sys.executable, "-m", "worker_gguf"], env=environment, stdout=log, stderr=log)
        url = f"{platform.endpoint_url}/runsync"
        done = [
            httpx.post(url, params={"wait": 120_000}, json={"input": job}, timeout=180).json()
            for job in (
                {"openai_route": "/v1/chat/completions", "openai_input": chat},
                {"route": "/v1/messages", "method": "POST", "body": anthropic},
                {"batch": [{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": chat}]},
            )
        ]
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    answers = [job.get("output", job) for job in done]
    ((whole,), (message,), batch) = answers
    assert whole["choices"][0]["message"]["content"] == expected
    assert message["content"][0]["text"] == expected
    result = json.loads("".join(batch))
    assert result["response"]["body"]["choices"][0]["message"]["content"] == expected


def test_a_line_of_a_file_may_have_images(model: Path, seeing: Running, tmp_path: Path) -> None:
    expected, _ = completion(seeing, png(6), "Well?")
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = []
    for name, image in (("good", png(6)), ("bad", png(6)[:-20])):
        body = {"messages": conversation(image, "Well?"), "temperature": 0}
        lines.append({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body})
    source.write_text("\n".join(map(json.dumps, lines)) + "\n")
    own = {name.upper(): str(value) for name, value in OWN.items()}
    command = [sys.executable, "-m", "worker_gguf", "batch", str(source), str(output)]
    done = subprocess.run(
        command, env={**os.environ, **own, "MODEL": str(model)}, capture_output=True, text=True, timeout=180
    )
    results = {result["custom_id"]: result["response"] for result in map(json.loads, output.read_text().splitlines())}
    assert results["good"]["body"]["choices"][0]["message"]["content"] == expected, done.stderr
    assert results["bad"]["status_code"] == 400
    assert results["bad"]["body"]["error"]["param"] == "messages.0.content.0.image_url"
