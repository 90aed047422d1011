"""Tests of chats from end to end, with OpenAI's client."""

from __future__ import annotations

import json

import httpx
import openai
import pytest

from tests.e2e.conftest import Running

pytestmark = pytest.mark.usefixtures("all_slots_free")

QUESTION = [{"role": "user", "content": "Tell me a long story."}]


def ask(client: openai.OpenAI, **parameters: object) -> openai.types.chat.ChatCompletion:
    given = {"model": "embedded", "messages": QUESTION, "max_tokens": 12, **parameters}
    return client.chat.completions.create(**given)  # type: ignore[call-overload, no-any-return]


def test_a_stream_is_the_same_text_as_the_whole_answer(client: openai.OpenAI) -> None:
    whole = ask(client, temperature=0).choices[0].message.content
    asked = {"model": "embedded", "messages": QUESTION, "max_tokens": 12, "temperature": 0, "stream": True}
    chunks = list(client.chat.completions.create(**asked, stream_options={"include_usage": True}))  # type: ignore[call-overload]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens == 12
    assert chunks[-2].choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_finish_reasons_are_true(client: openai.OpenAI) -> None:
    assert ask(client, max_tokens=3).choices[0].finish_reason == "length"
    assert ask(client, temperature=0, stop=["a"], max_tokens=60).choices[0].finish_reason == "stop"


def test_the_second_time_the_prompt_is_cached(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "What is the capital of Portugal, if you please?"}]
    ask(client, messages=messages)
    usage = ask(client, messages=messages).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1


def test_the_prompt_is_the_templates_text_with_one_bos(client: openai.OpenAI, running: Running) -> None:
    """Counts BOS tokens, because a lost or doubled one changes few answers."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "<|eot_id|> Merhaba!"}]
    prompts = running.worker._host.service._prompts  # type: ignore[union-attr]
    text = prompts._conversations._templates.default.prompt(messages)
    tokens = prompts._tokenizer.tokenize(text, add_special=False, parse_special=True)
    bos = prompts._tokenizer.tokenize("", add_special=True, parse_special=True)
    assert len(bos) == 1
    assert tokens.count(bos[0]) == 1
    usage = ask(client, messages=messages, max_tokens=1).usage
    assert usage is not None
    assert usage.prompt_tokens == len(tokens)
    plain = client.completions.create(model="embedded", prompt="Merhaba!", max_tokens=1).usage
    assert plain is not None
    without = prompts._tokenizer.tokenize("Merhaba!", add_special=False, parse_special=True)
    assert plain.prompt_tokens == 1 + len(without)


def test_n_answers_differ_with_temperature_and_repeat_with_a_seed(client: openai.OpenAI) -> None:
    def texts() -> list[str | None]:
        answer = ask(client, n=4, temperature=2.0, top_p=1, seed=5, extra_body={"top_k": 0, "min_p": 0})
        return [choice.message.content for choice in answer.choices]

    first = texts()
    assert len(set(first)) > 1
    assert sorted(map(str, texts())) == sorted(map(str, first))


def test_logprobs_name_the_tokens_of_the_answer(client: openai.OpenAI) -> None:
    answer = ask(client, temperature=0, logprobs=True, top_logprobs=3)
    choice = answer.choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content
    for entry in choice.logprobs.content:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob == max(top.logprob for top in entry.top_logprobs)
        assert entry.logprob <= 0


def test_logit_bias_on_a_text_changes_the_answer(client: openai.OpenAI) -> None:
    answer = ask(client, temperature=0, max_tokens=4, extra_body={"logit_bias": [["x", 1000]]})
    assert answer.choices[0].message.content == "xxxx"


def test_completions_echo_their_prompt_and_take_several(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="embedded", prompt=["one", "two"], echo=True, max_tokens=2, n=2)
    assert [choice.text[:3] for choice in answer.choices] == ["one", "one", "two", "two"]


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, messages=[{"role": "user", "content": "word " * 5000}])
    body = refused.value.body
    assert isinstance(body, dict)
    assert body["code"] == "context_length_exceeded"
    assert body["n_ctx"] == 1024
    assert body["n_prompt_tokens"] > 5000


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        ask(client, model="gpt-5")


def test_models_lists_the_embedded_one(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["embedded"]
    assert client.models.retrieve("embedded").id == "embedded"


def test_what_changes_nothing_is_named_in_a_header(running: Running) -> None:
    body = {"messages": QUESTION, "max_tokens": 1, "user": "me", "flux_capacitance": 88}
    answer = httpx.post(f"{running.url}/v1/chat/completions", json=body)
    assert answer.status_code == 200
    assert answer.headers["X-Ignored-Parameters"] == "flux_capacitance, user"
    assert 'worker_gguf_ignored_parameters_total{name="user"}' in httpx.get(f"{running.url}/metrics").text


def test_a_deadline_is_answered_504_and_frees_the_slot(running: Running) -> None:
    body = {"messages": QUESTION, "max_tokens": 900, "ignore_eos": True, "timeout": 0.05}
    answer = httpx.post(f"{running.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "deadline_exceeded"


def test_health_tells_the_plan_and_the_timeline(running: Running) -> None:
    health = httpx.get(f"{running.url}/health").json()
    assert health["status"] == "ready"
    assert health["slots"]["total"] == 4
    assert health["plan"]["n_ctx"] == 1024
    assert {"fetch", "header", "load", "context", "service"} <= {phase["phase"] for phase in health["timeline"]}
    assert "/" not in json.dumps(health["model"])


def test_the_metrics_count_the_answers(client: openai.OpenAI, running: Running) -> None:
    def total(name: str) -> float:
        lines = httpx.get(f"{running.url}/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    before = total("worker_gguf_completion_tokens_total")
    ask(client, max_tokens=7, extra_body={"ignore_eos": True})
    assert total("worker_gguf_completion_tokens_total") == before + 7
    assert total("worker_gguf_time_to_first_token_seconds_count") > 0
