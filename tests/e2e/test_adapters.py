"""Tests of two LoRA adapters over HTTP, with the official client, over the queue and in a batch: the embedded model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from bench import adapters as writer
from tests.batch.conftest import chat as batch_chat
from tests.e2e.conftest import Running
from worker_gguf.batch.dispatch import Dispatch
from worker_gguf.batch.lines import lines_of_list
from worker_gguf.batch.run import run_batch, width_for
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.engine.adapters import AdapterSet
from worker_gguf.engine.request import GenerationRequest, SamplingParams
from worker_gguf.generation.events import Delta
from worker_gguf.http.app import create_app
from worker_gguf.http.binding import bind
from worker_gguf.http.server import ServerThread
from worker_gguf.observe.metrics import Metrics
from worker_gguf.queue.batch_job import BatchLimits
from worker_gguf.queue.handler import make_handler
from worker_gguf.settings import Settings
from worker_gguf.start.loaded import LoadedModel
from worker_gguf.worker import Worker

PROMPT = "Tell me a long story."
N_TOKENS = 24
# The names of requests, and the adapters that they mean.
SETS: dict[str, tuple[dict[str, Any], AdapterSet]] = {
    "none": ({}, ()),
    "sql": ({"model": "embedded:sql"}, ((0, 1.0),)),
    "style": ({"model": "style"}, ((1, 0.5),)),
    "both": ({"lora": ["sql", {"id": 1, "scale": 1}]}, ((0, 1.0), (1, 1.0))),
    "scaled": ({"lora": [{"id": 0, "scale": -0.5}, {"id": 1, "scale": 0}]}, ((0, -0.5),)),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("adapters")
    paths = [writer.write(folder / f"{name}.gguf", MODEL_PATH, seed=n, gain=0.5) for n, name in enumerate("ab")]
    lora = f"sql={paths[0]}, style={paths[1]}:0.5"
    settings = Settings(model="embedded", lora=lora, n_parallel=4, n_ctx=256, n_threads=1)  # type: ignore[arg-type]
    # So that the order of sums, which other requests change, decides no token.
    settings = settings.changed((), {"flash_attn": "off", "type_k": "f32", "type_v": "f32"})
    metrics = Metrics("test")
    worker = Worker(settings, metrics)
    worker.start()
    with ServerThread(
        create_app(worker, api_keys=(), max_body_bytes=1 << 20, metrics=metrics), bind("127.0.0.1", 0)
    ) as s:
        asyncio.run(worker.wait_ready())
        yield Running(worker, s.url)
    worker.stop()


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


def completed(client: openai.OpenAI, name: str) -> str:
    fields = dict(SETS[name][0])
    model, extra = fields.pop("model", "embedded"), {"ignore_eos": True, **fields}
    answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=N_TOKENS, temperature=0, extra_body=extra)
    return answer.choices[0].text


@pytest.fixture(scope="module")
def expected(running: Running) -> dict[str, str]:
    """The texts of the engine's own answers."""
    loaded = running.worker._host
    assert isinstance(loaded, LoadedModel)

    async def ask(adapters: AdapterSet) -> str:
        prompt = tuple(loaded.vocabulary.tokenize(PROMPT, add_special=True, parse_special=True))
        sampling = SamplingParams(temperature=0.0, ignore_eos=True)
        request = GenerationRequest("r", prompt, sampling, N_TOKENS, adapters=adapters)
        texts = []
        async for items in loaded.engine.submit(request):
            texts += [event.text for event in items[0] if isinstance(event, Delta)]
        return "".join(texts)

    return {name: asyncio.run(ask(adapters)) for name, (_, adapters) in SETS.items()}


def test_each_way_to_name_adapters_gets_the_answer_of_the_engine_with_them(
    client: openai.OpenAI, expected: dict[str, str]
) -> None:
    assert len(set(expected.values())) == len(SETS)
    assert {name: completed(client, name) for name in SETS} == expected


def test_requests_with_different_adapters_at_the_same_time_get_the_same_answers(
    client: openai.OpenAI, expected: dict[str, str]
) -> None:
    names = [name for _ in range(3) for name in SETS]
    with ThreadPoolExecutor(len(names)) as pool:
        answers = list(pool.map(lambda name: completed(client, name), names))
    assert answers == [expected[name] for name in names]


def test_prefixes_are_reused_only_with_the_same_adapters(client: openai.OpenAI) -> None:
    def cached(scale: float, model: str = "embedded") -> int:
        messages: Any = [{"role": "user", "content": "Tell me something about rivers and towns."}]
        extra = {"lora": [{"name": "sql", "scale": scale}]}
        answer = client.chat.completions.create(model=model, messages=messages, max_tokens=1, extra_body=extra)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        return answer.usage.prompt_tokens_details.cached_tokens or 0

    # Scales that no other test sends.
    assert cached(0.75) == 0
    assert cached(0.75) > 0
    assert cached(0.875) == 0
    assert cached(0.75, model="embedded:sql") > 0


def test_the_client_lists_adapters_and_an_answer_names_its_own(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["embedded", "embedded:sql", "embedded:style"]
    assert client.models.retrieve("style").id == "embedded:style"
    stream = client.chat.completions.create(
        model="embedded:style", messages=[{"role": "user", "content": "Hi"}], max_tokens=2, stream=True
    )
    assert {chunk.model for chunk in stream} == {"embedded:style"}


def test_what_is_unknown_is_refused_with_what_is_known(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="'embedded:sql', 'embedded:style'"):
        client.completions.create(model="embedded:none", prompt=PROMPT)
    with pytest.raises(openai.BadRequestError, match=r"Invalid 'lora.1': .* 'sql' \(id 0\), 'style' \(id 1\)"):
        client.completions.create(model="embedded", prompt=PROMPT, extra_body={"lora": ["sql", "none"]})
    with pytest.raises(openai.BadRequestError, match="'model' names the adapter 'sql'"):
        client.completions.create(model="sql", prompt=PROMPT, extra_body={"lora": "style"})


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        ("/v1/responses", {"input": PROMPT, "max_output_tokens": 8}, lambda found: found["output"]),
        ("/v1/messages", {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 8}, lambda a: a["content"]),
        ("/api/chat", {"messages": [{"role": "user", "content": PROMPT}], "stream": False}, lambda a: a["message"]),
        ("/api/generate", {"prompt": PROMPT, "raw": True, "stream": False}, lambda found: found["response"]),
        ("/completion", {"prompt": PROMPT, "n_predict": 8}, lambda found: found["content"]),
    ],
)
def test_every_dialect_takes_adapters(running: Running, path: str, body: dict[str, Any], answer: Any) -> None:
    def asked(**fields: Any) -> Any:
        sent = {"temperature": 0, "num_predict": 8} if path.startswith("/api") else {"temperature": 0}
        reply = httpx.post(f"{running.url}{path}", json={**sent, **body, **fields}, timeout=60)
        assert reply.status_code == 200, reply.text
        return reply.json()

    strong = [{"name": "sql", "scale": 3}]
    plain, named, listed = asked(model="embedded"), asked(model="embedded:sql", lora=strong), asked(lora=strong)
    found = [_without_ids(answer(reply)) for reply in (plain, named, listed)]
    assert found[0] != found[1] == found[2]
    assert [reply["model"] for reply in (plain, named, listed)] == ["embedded", "embedded:sql", "embedded"]


def _without_ids(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_ids(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_ids(item) for key, item in value.items() if key != "id"}
    return value


def body_of(name: str) -> dict[str, Any]:
    return {"prompt": PROMPT, "max_tokens": N_TOKENS, "temperature": 0, "ignore_eos": True, **SETS[name][0]}


async def test_a_job_of_the_queue_names_adapters(running: Running, expected: dict[str, str]) -> None:
    handler = make_handler(running.worker, Metrics("test"), BatchLimits(4))
    for shape in ("openai_route", "openai_input"), ("route", "body"):
        for name in "sql", "both", "none":
            job = {"id": name, "input": dict(zip(shape, ("/v1/completions", body_of(name)), strict=True))}
            (item,) = [item async for item in handler(job)]
            assert isinstance(item, dict)
            assert item["choices"][0]["text"] == expected[name]


async def test_each_request_of_a_batch_names_its_own(running: Running, expected: dict[str, str]) -> None:
    requests = [{**batch_chat(name), "url": "/v1/completions", "body": body_of(name)} for name in SETS]
    dispatch, width = Dispatch(running.worker, Metrics("test")), width_for(running.worker.n_parallel)
    texts = {}
    async for result in run_batch(lines_of_list(requests, 1 << 20), dispatch, width=width):
        written = json.loads(result.content)
        texts[written["custom_id"]] = written["response"]["body"]["choices"][0]["text"]
    assert texts == expected
