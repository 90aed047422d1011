"""Tests of docs/api.md: its tables contain every parameter, and its examples match the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.pages import blocks, broken_links
from tools.docs.api import api_page, bounds_text, tables, type_text
from worker_gguf.errors import ContextLengthExceeded, WorkerError
from worker_gguf.generation.events import Delta, Finished, Usage
from worker_gguf.protocol.calls import Defaults
from worker_gguf.protocol.openai.chat_rendering import ChatRendering
from worker_gguf.protocol.openai.errors import error_body
from worker_gguf.protocol.openai.requests import parse_chat, parse_completion
from worker_gguf.protocol.parameters import ALIASES, CHAT_REFUSED, COMPLETION_REFUSED, HONOURED, IGNORED
from worker_gguf.protocol.rendering import Heading
from worker_gguf.queue.job_input import read_job_input

PATH = Path(__file__).parents[2] / "docs" / "api.md"
PAGE = PATH.read_text("utf-8")
EXAMPLES: list[dict[str, Any]] = [json.loads(text) for text in blocks(PAGE, "json")]
JOBS = [example["input"] for example in EXAMPLES if "input" in example]


def names(*titles: str) -> list[str]:
    return [name for title in titles for name in re.findall(r"^\| `([^`]+)`", tables()[title], re.MULTILINE)]


def test_every_honoured_parameter_has_a_row_with_a_description() -> None:
    titles = ("both", "sampling", "chat", "completions")
    # On both routes, and not of one kind.
    assert sorted(names(*titles)) == sorted([*HONOURED, "logprobs"])
    rows = [row.split(" | ") for title in titles for row in tables()[title].splitlines()[2:]]
    assert [row[0] for row in rows if len(row[-1]) < 10] == []


def test_every_alias_is_listed_with_its_parameter() -> None:
    text = "".join(tables().values())
    for alias, name in ALIASES.items():
        assert re.search(rf"^\| `{name}` \| [^|]*`{alias}`", text, re.MULTILINE), alias


def test_every_refused_and_every_ignored_name_is_there() -> None:
    assert names("refused") == sorted({*CHAT_REFUSED, *COMPLETION_REFUSED})
    ignored = re.sub(r"\([^)]*\)", "", tables()["ignored"])
    assert sorted(re.findall(r"`([^`]+)`", ignored)) == sorted(IGNORED)


def test_a_page_without_a_place_for_a_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="table: refused"):
        api_page(PAGE.replace("<!-- table: refused -->", ""))


@pytest.mark.parametrize(
    ("schema", "kind", "bounds"),
    [
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, "number", "> 0, <= 0.5"),
        ({"anyOf": [{"type": "integer", "maximum": 2**31 - 1}, {"type": "null"}]}, "integer", "<= 2^31-1"),
        ({"type": "integer", "minimum": -(2**63), "exclusiveMaximum": 2**64}, "integer", ">= -2^63, < 2^64"),
        ({"type": "array", "items": {"type": "string", "maxLength": 9}}, "list of texts", "at most 9 characters"),
        ({"type": "array", "items": {}, "minItems": 1}, "list", "not empty"),
    ],
)
def test_a_schema_in_words(schema: dict[str, Any], kind: str, bounds: str) -> None:
    assert type_text(schema) == kind
    assert bounds_text(schema) == bounds


@pytest.mark.parametrize("job", JOBS, ids=lambda job: sorted(job)[0])
def test_an_example_of_a_job_is_a_call(job: dict[str, Any]) -> None:
    call = read_job_input(job)
    parse = parse_chat if call.route == "/v1/chat/completions" else parse_completion
    assert parse(call.body, Defaults(strict=True)).options.ignored == ()


def test_all_three_shapes_of_a_job_have_an_example() -> None:
    shapes = ("openai_route", "route", "sampling_params")
    assert [shape for job in JOBS for shape in shapes if shape in job] == list(shapes)


def test_the_example_of_an_answer_is_of_the_shape_that_is_sent() -> None:
    example = next(example for example in EXAMPLES if "choices" in example)
    heading = Heading(example["id"], example["created"], example["model"], example["system_fingerprint"])
    rendering = ChatRendering(heading)
    rendering.collect(
        0, [Delta("The capital of France is Paris.", (1,)), Finished("stop", Usage(22, 12, cached_tokens=0))]
    )
    assert rendering.answer() == example


def test_the_example_of_an_error_is_true() -> None:
    error = next(example for example in EXAMPLES if "error" in example)
    assert error == error_body(ContextLengthExceeded(5019, 4096, param="messages"))


def test_the_codes_it_names_are_errors() -> None:
    codes = {kind.code for kind in _kinds(WorkerError)}
    named = re.findall(r"\b4\d\d `(\w+)`", PAGE)
    assert len(named) >= 2
    assert set(named) <= codes


def _kinds(kind: type[WorkerError]) -> list[type[WorkerError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _kinds(child))]


def test_its_links_lead_to_headings_and_files() -> None:
    assert broken_links(PATH) == []
