"""Tests of llama-server's own routes on a running worker, over HTTP, as SillyTavern and editors use them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.asking import ask
from tests.e2e.conftest import Running
from tests.hanging import hanging
from tests.tiny_models import FIM_TOKENS, write_infill
from worker_gguf.embedded import published_prompts
from worker_gguf.observe.metrics import Metrics
from worker_gguf.service.request import Answer
from worker_gguf.settings import Settings
from worker_gguf.worker import Worker

pytestmark = pytest.mark.usefixtures("all_slots_free")

PROMPT = next(prompt for prompt in published_prompts() if not prompt.tools)


@pytest.fixture(scope="module")
def http(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=60, trust_env=False) as client:
        yield client


def post(http: httpx.Client, path: str, **body: Any) -> Any:
    reply = http.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def events(http: httpx.Client, **body: Any) -> list[Any]:
    with http.stream("POST", "/completion", json={"stream": True, **body}) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        raw = reply.read().decode()
    return [json.loads(event.removeprefix("data: ")) for event in raw.split("\n\n") if event]


def test_a_client_that_renders_the_template_itself_gets_the_answer_of_a_chat(http: httpx.Client) -> None:
    prompt = post(http, "/apply-template", messages=list(PROMPT.messages))["prompt"]
    answer = post(http, "/completion", prompt=prompt, temperature=0, n_predict=PROMPT.max_tokens)
    assert answer["content"] == PROMPT.expected
    assert answer["prompt"] == prompt
    assert answer["stop_type"] == "eos"
    counted = post(http, "/v1/chat/completions/input_tokens", messages=list(PROMPT.messages))["input_tokens"]
    assert answer["tokens_evaluated"] == counted
    assert answer["timings"]["cache_n"] + answer["timings"]["prompt_n"] == counted


def test_a_stream_has_the_text_and_the_tokens_of_the_whole_answer(http: httpx.Client) -> None:
    asked: dict[str, Any] = {"prompt": "One, two,", "temperature": 0, "n_predict": 8}
    whole = post(http, "/completion", **asked, return_tokens=True)
    *chunks, last = events(http, **asked)
    assert "".join(chunk["content"] for chunk in chunks) == whole["content"]
    assert [token for chunk in chunks for token in chunk["tokens"]] == whole["tokens"]
    assert [chunk["stop"] for chunk in chunks] == [False] * len(chunks)
    assert (last["stop"], last["tokens_predicted"]) == (True, len(whole["tokens"]))
    for time in "prompt_ms", "predicted_ms", "predicted_per_second":
        assert last["timings"][time] > 0


def test_probabilities_come_with_each_token(http: httpx.Client) -> None:
    asked: dict[str, Any] = {"prompt": "One, two,", "temperature": 0, "n_predict": 4, "n_probs": 3}
    whole = post(http, "/completion", **asked)["completion_probabilities"]
    *chunks, _ = events(http, **asked)
    assert [place["id"] for chunk in chunks for place in chunk["completion_probabilities"]] == [
        place["id"] for place in whole
    ]
    for place in whole:
        assert place["id"] == place["top_logprobs"][0]["id"]
        assert len(place["top_logprobs"]) == 3


def test_prompts_of_texts_and_ids_are_the_same_prompt(http: httpx.Client) -> None:
    tokens = post(http, "/tokenize", content="One, two,", add_special=True)["tokens"]
    prompts = ["One, two,", tokens, {"prompt_string": "One, two,"}]
    answers = post(http, "/completion", prompt=prompts, temperature=0, n_predict=4)
    assert [answer["index"] for answer in answers] == [0, 1, 2]
    assert len({answer["content"] for answer in answers}) == 1
    joined = post(http, "/completion", prompt=[*tokens, " three,"], temperature=0, n_predict=4)
    assert joined["prompt"].endswith("One, two, three,")


def test_tokens_and_their_text(http: httpx.Client) -> None:
    text = "Grüße aus 東京 🤗"
    tokens = post(http, "/tokenize", content=text)["tokens"]
    assert post(http, "/detokenize", tokens=tokens)["content"].strip() == text
    pieces = post(http, "/tokenize", content=text, with_pieces=True)["tokens"]
    assert [piece["id"] for piece in pieces] == tokens
    written = b"".join(
        piece["piece"].encode() if isinstance(piece["piece"], str) else bytes(piece["piece"]) for piece in pieces
    )
    assert written.decode().strip() == text


def test_tokens_are_counted_while_the_engine_answers_nothing(http: httpx.Client, running: Running) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    with hanging(running.engine):
        assert post(http, "/tokenize", content="Hello")["tokens"]
        assert post(http, "/v1/chat/completions/input_tokens", messages=messages)["input_tokens"]
        assert http.get("/props").status_code == http.get("/slots").status_code == 200


def test_the_properties_fit_the_routes(http: httpx.Client) -> None:
    props = http.get("/props").json()
    assert props["total_slots"] == len(http.get("/slots").json()) == 4
    assert props["default_generation_settings"]["n_ctx"] == 1024
    assert props["chat_template"]
    assert props["bos_token"]
    model = http.get("/v1/models").json()["data"][0]["id"]
    assert http.get("/props", params={"model": model}).json()["model_alias"] == model
    assert http.get("/props", params={"model": "other"}).status_code == 404


def test_errors_have_the_form_of_llama_server(http: httpx.Client) -> None:
    reply = http.post("/completion", json={"prompt": "a", "top_k": "many"})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["code"], error["type"], error["param"]) == (400, "invalid_request_error", "top_k")
    error = http.post("/completion", json={"prompt": "word " * 5000}).json()["error"]
    assert error["type"] == "exceed_context_size_error"
    assert "exceeds the available context size" in error["message"]
    assert error["n_prompt_tokens"] > error["n_ctx"] == 1024
    for path, body in ("/infill", {"input_prefix": "a", "input_suffix": "b"}), ("/tokenize", {}):
        assert http.post(path, json=body).json()["error"]["code"] == 400


def test_what_changes_nothing_is_named(http: httpx.Client) -> None:
    reply = http.post("/completion", json={"prompt": "a", "n_predict": 1, "id_slot": 0, "return_progress": True})
    assert reply.headers["x-ignored-parameters"] == "id_slot, return_progress"
    assert http.post("/tokenize", json={"content": "a", "b": 1}).headers["x-ignored-parameters"] == "b"


def test_a_line_that_is_indented_too_little_ends_the_answer(http: httpx.Client) -> None:
    asked: dict[str, Any] = {"prompt": "One", "choice": ["a\n  b\nc"], "n_indent": 2}
    answer = post(http, "/completion", **asked)
    assert (answer["content"], answer["stop_type"], answer["truncated"]) == ("a\n  b\n", "limit", False)
    assert "".join(chunk["content"] for chunk in events(http, **asked)) == "a\n  b\n"


@pytest.mark.parametrize("path", ["/props/", "//props", "/v1/props", "/openai/v1/props"])
def test_a_wrong_base_url_does_not_hide_them(http: httpx.Client, path: str) -> None:
    assert http.get(f"{str(http.base_url).rstrip('/')}{path}").json()["model_alias"]


def test_the_other_name_of_completions_stays_that_of_openai(http: httpx.Client) -> None:
    assert post(http, "/completions", prompt="a", max_tokens=1)["object"] == "text_completion"


async def test_a_model_for_code_fills_gaps(tmp_path: Path) -> None:
    path = write_infill(tmp_path / "code.gguf")
    worker = Worker(Settings(model=str(path), n_ctx=256, n_parallel=2, n_threads=1), Metrics("test"))
    worker.start()

    async def answer(path: str, **body: Any) -> Any:
        got = await ask(worker, "POST", path, body | {"temperature": 0})
        assert isinstance(got, Answer)
        return got.body

    try:
        await worker.wait_ready()
        infilled = await answer("/infill", input_prefix="ab", input_suffix="cd", n_predict=4, return_tokens=True)
        repository = [FIM_TOKENS["rep"], *b"myproject\n", FIM_TOKENS["sep"], *b"filename\n"]
        gap = [256, FIM_TOKENS["pre"], *b"ab", FIM_TOKENS["suf"], *b"cd", FIM_TOKENS["mid"]]
        # The vocabulary has a token for each byte, in an order of its own, so texts are compared.
        assert infilled["prompt"] == "<fim_rep>myproject\n<fim_sep>filename\n<bos><fim_pre>ab<fim_suf>cd<fim_mid>"
        assert infilled["tokens_evaluated"] == len(repository) + len(gap)
        assert (infilled["tokens_predicted"], infilled["truncated"]) == (4, False)
        cut = await answer("/infill", input_prefix="a" * 500, input_suffix="b" * 500, n_predict=4)
        assert (cut["tokens_evaluated"], cut["truncated"]) == (252, True)
        completed = await answer("/v1/completions", prompt="ab", suffix="cd", max_tokens=4, return_token_ids=True)
        (choice,) = completed["choices"]
        assert len(choice["prompt_token_ids"]) == len(gap)
        assert len(choice["token_ids"]) == 4
    finally:
        worker.stop()
