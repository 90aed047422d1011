"""Tests of answers in a wanted form from end to end, with OpenAI's client: schemas, grammars, choices."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

import httpx
import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

from tests.e2e.conftest import Running

pytestmark = pytest.mark.usefixtures("all_slots_free")

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]


class City(BaseModel):
    """Bounded, because the embedded model would go on and on."""

    name: str = Field(max_length=20)
    country: Literal["France", "Portugal", "Peru"]
    inhabitants: int = Field(ge=0, le=10**8)
    districts: list[Annotated[str, Field(max_length=10)]] = Field(max_length=2)


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "size": {"enum": ["small", "large"]},
        "number": {"type": "integer", "minimum": 1, "maximum": 99},
    },
    "required": ["name", "size", "number"],
    "additionalProperties": False,
}


def ask(client: openai.OpenAI, **body: Any) -> openai.types.chat.ChatCompletion:
    given = {"model": "embedded", "messages": QUESTION, "max_tokens": 200, "temperature": 0.8, "seed": 1}
    names = {"response_format", "stream", "logit_bias", "n", "logprobs", "top_logprobs", *given}
    extra = {name: value for name, value in body.items() if name not in names}
    plain = {name: value for name, value in body.items() if name in names}
    return client.chat.completions.create(**{**given, **plain}, extra_body=extra)  # type: ignore[no-any-return]


def text_of(answer: openai.types.chat.ChatCompletion) -> str:
    (choice, *_) = answer.choices
    assert choice.finish_reason == "stop"
    assert choice.message.content is not None
    return choice.message.content


@pytest.mark.parametrize("seed", range(3))
def test_a_pydantic_model_is_parsed_by_openais_client(client: openai.OpenAI, seed: int) -> None:
    answer = client.chat.completions.parse(
        model="embedded",
        messages=QUESTION,
        response_format=City,
        max_tokens=400,
        seed=seed,
        temperature=1.0,
    )
    assert isinstance(answer.choices[0].message.parsed, City)


def test_a_stream_is_parsed_by_openais_client(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="embedded",
        messages=QUESTION,
        response_format=City,
        max_tokens=400,
        seed=4,
    ) as stream:
        n_deltas = sum(event.type == "content.delta" for event in stream)
        parsed = stream.get_final_completion().choices[0].message.parsed
    assert isinstance(parsed, City)
    assert n_deltas > 3


@pytest.mark.parametrize(
    "body",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA, "strict": True}}},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"json_schema": SCHEMA},
        {"guided_json": SCHEMA},
        {"guided_json": json.dumps(SCHEMA)},
        {"structured_outputs": {"json": SCHEMA}},
        {"format": SCHEMA},
    ],
)
def test_a_schema_under_each_of_its_names(client: openai.OpenAI, body: dict[str, Any]) -> None:
    jsonschema.validate(json.loads(text_of(ask(client, **body))), SCHEMA)


@pytest.mark.parametrize("name", ["regex", "guided_regex"])
def test_a_regular_expression(client: openai.OpenAI, name: str) -> None:
    assert re.fullmatch(r"[A-Z][a-z]{2,8}, [0-9]{4}", text_of(ask(client, **{name: r"[A-Z][a-z]{2,8}, [0-9]{4}"})))


@pytest.mark.parametrize(
    "body",
    [
        {"choice": ["Paris", "Rome", 'New "York"']},
        {"guided_choice": ["Paris", "Rome", 'New "York"']},
        {"structured_outputs": {"choice": ["Paris", "Rome", 'New "York"']}},
    ],
)
def test_a_choice(client: openai.OpenAI, body: dict[str, Any]) -> None:
    for seed in range(4):
        assert text_of(ask(client, seed=seed, temperature=1.5, **body)) in ("Paris", "Rome", 'New "York"')


@pytest.mark.parametrize(
    "body",
    [
        {"grammar": 'root ::= "It is " city "."\ncity ::= [A-Z] [a-z]{1,9}'},
        {"guided_grammar": 'root ::= "It is " city "."\ncity ::= [A-Z] [a-z]{1,9}'},
        {"lark": 'start: "It is " CITY "."\nCITY: /[A-Z][a-z]{1,9}/'},
        {"structured_outputs": {"grammar": 'root ::= "It is " city "."\ncity ::= [A-Z] [a-z]{1,9}'}},
    ],
)
def test_a_grammar(client: openai.OpenAI, body: dict[str, Any]) -> None:
    assert re.fullmatch(r"It is [A-Z][a-z]{1,9}\.", text_of(ask(client, **body)))


def test_a_json_object_is_an_object(client: openai.OpenAI) -> None:
    answer = ask(client, response_format={"type": "json_object"}, max_tokens=60, temperature=0)
    content = answer.choices[0].message.content or ""
    assert content.startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(content), dict)


def test_completions_take_the_same(running: Running) -> None:
    body = {"model": "embedded", "prompt": "Answer:", "choice": ["yes", "no"], "max_tokens": 20}
    answer = httpx.post(f"{running.url}/v1/completions", json=body, timeout=60).json()
    assert answer["choices"][0]["text"] in ("yes", "no")


def test_an_answer_that_is_cut_says_so(client: openai.OpenAI) -> None:
    answer = ask(client, json_schema=SCHEMA, max_tokens=5)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


def test_several_answers_and_log_probabilities_keep_the_form(client: openai.OpenAI) -> None:
    answer = ask(client, json_schema=SCHEMA, n=3, logprobs=True, top_logprobs=2)
    for choice in answer.choices:
        assert choice.message.content is not None
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        jsonschema.validate(json.loads(choice.message.content), SCHEMA)
        assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"grammar": 'root ::= "a" nothing'}, "grammar"),
        ({"lark": "start: start"}, "lark"),
        ({"regex": "(((("}, "regex"),
        ({"json_schema": {"not": {"type": "string"}}}, "json_schema"),
        ({"json_schema": SCHEMA, "regex": "a"}, None),
        ({"json_schema": SCHEMA, "ignore_eos": True}, "ignore_eos"),
    ],
)
def test_what_cannot_be_guaranteed_is_refused_and_others_go_on(
    client: openai.OpenAI, body: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **body)
    if param is not None:
        assert str(refused.value.param).startswith(param)
    assert text_of(ask(client, choice=["fine"])) == "fine"


def test_constrained_tokens_are_counted(client: openai.OpenAI, running: Running) -> None:
    def count() -> float:
        metrics = httpx.get(f"{running.url}/metrics").text
        return float(re.search(r"^worker_gguf_constrained_tokens_total (\S+)$", metrics, re.MULTILINE)[1])  # type: ignore[index]

    before = count()
    usage = ask(client, choice=["a fixed answer"]).usage
    assert usage is not None
    assert count() - before >= usage.completion_tokens - 1 > 0


def test_banned_strings_and_stop_texts_that_stay(client: openai.OpenAI) -> None:
    plain = ask(client, temperature=0, max_tokens=30).choices[0].message.content or ""
    word = plain.split()[1]
    assert (
        word.lower() not in (ask(client, temperature=0, banned_strings=[word]).choices[0].message.content or "").lower()
    )
    kept = ask(client, temperature=0, stop=[word], include_stop_str_in_output=True).choices[0].message.content or ""
    assert kept == plain[: plain.index(word) + len(word)]


def test_the_ids_of_the_prompt_and_the_answer(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"temperature": 0, "max_tokens": 20, "return_token_ids": True}
    whole = ask(client, **asked)
    assert whole.usage is not None
    prompt_ids, answer_ids = whole.prompt_token_ids, whole.choices[0].token_ids  # type: ignore[attr-defined]
    assert (len(prompt_ids), len(answer_ids)) == (whole.usage.prompt_tokens, whole.usage.completion_tokens)
    chunks: list[Any] = list(ask(client, stream=True, **asked))
    assert chunks[0].prompt_token_ids == prompt_ids
    streamed = [token for chunk in chunks for token in chunk.choices[0].model_extra.get("token_ids", ())]
    assert streamed == answer_ids
    cut = ask(client, stop=["capital"], **asked)
    assert cut.usage is not None
    assert len(cut.choices[0].token_ids) == cut.usage.completion_tokens  # type: ignore[attr-defined]
    again = client.completions.create(model="embedded", prompt=prompt_ids, temperature=0, max_tokens=20)
    assert again.choices[0].text == whole.choices[0].message.content


def test_an_evaluation_harness_scores_a_prompt(running: Running) -> None:
    """The request of lm-evaluation-harness for the log-likelihood of a continuation."""
    tokens = running.worker._host.service._prompts._tokenizer.tokenize(  # type: ignore[union-attr]
        "The capital of France is Paris.", add_special=True, parse_special=False
    )
    body = {"model": "embedded", "prompt": [tokens], "echo": True, "logprobs": 1, "temperature": 0, "seed": 1}
    for max_tokens in (0, 1):
        answer = httpx.post(f"{running.url}/v1/completions", json=body | {"max_tokens": max_tokens}, timeout=60).json()
        logprobs = answer["choices"][0]["logprobs"]
        assert len(logprobs["token_logprobs"]) == len(tokens) + max_tokens
        assert logprobs["token_logprobs"][0] is None
        assert all(value <= 0 for value in logprobs["token_logprobs"][1:])
        assert all(len(top) in (1, 2) for top in logprobs["top_logprobs"][1:])
