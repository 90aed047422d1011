"""The recorded answers of the package canitoolcall, judged by its own checks, whole and in every chunking."""

from __future__ import annotations

import json
from functools import cache

import pytest
from canitoolcall import checks
from canitoolcall.checks import case_status, run_checks
from canitoolcall.fixtures import Fixture
from canitoolcall.results import Observation, Status

from tests.markup.replay import all_fixtures, family_of, format_of, observe, parse, variant_of
from tests.shared_case import SHARED
from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.markup import Markup
from worker_gguf.template.chat_template import ChatTemplate

# Two answers of Gemma have a blank between the content and the call. One expects it in the content, and one does not.
CONTRADICTED = "gemma4/vllm-text-before-call"

TEMPLATES = {
    "deepseek-v3": "llama-cpp-deepseek-r1",
    "deepseek-v31": "deepseek-ai-DeepSeek-V3.1",
    "deepseek-v4": "deepseek-ai-DeepSeek-V4",
    "gemma4": "google-gemma-4-31B-it-interleaved",
    "glm45-newline": "GLM-4.6",
    "gpt-oss": "openai-gpt-oss-120b",
    "kimi-k2-instruct": "Kimi-K2-Instruct",
    "kimi-k2-thinking": "Kimi-K2-Thinking",
    "llama3-json": "meta-llama-Llama-3.3-70B-Instruct",
    "qwen3-coder": "Qwen3-Coder",
    "qwen3-coder-next": "Qwen3-Coder",
    "qwen3-instruct-2507": "Qwen-Qwen2.5-7B-Instruct",
    "qwen3.5": "Qwen3.5-4B",
    "qwen3.8": "Qwen3.5-4B",
    "v11": "Mistral-Small-3.2-24B-Instruct-2506",
    "v13-think": "mistralai-Ministral-3-14B-Reasoning-2512",
    "v3": "mistralai-Mistral-Nemo-Instruct-2407",
}


@cache
def derived_format(name: str) -> CallFormat:
    path = SHARED / "templates" / f"{name}.jinja"
    if not path.exists():
        pytest.skip(f"{path.name} is not here: it comes with the shared folder beside the repository")
    template = ChatTemplate(path.read_text("utf-8"), bos_token="<s>", eos_token="</s>")
    return Markup.of_template(template.source, template.render).format


def assert_right(fixture: Fixture, observed: Observation) -> None:
    rows = run_checks(fixture, family_of(fixture), observed)
    faults = [row for row in rows if row.status is not Status.PASS]
    wanted = Status.SOFT_PASS if fixture.id == CONTRADICTED else Status.PASS
    assert case_status(rows) is wanted, "\n".join(f"{row.check} {row.strategy}: {row.detail}" for row in faults)


@pytest.mark.parametrize("fixture", all_fixtures(), ids=lambda fixture: fixture.id)
def test_an_answer_is_read_right_whole_and_in_every_chunking(fixture: Fixture) -> None:
    form = format_of(fixture)
    assert_right(fixture, observe(fixture, lambda pieces: parse(fixture, pieces, form, holds_calls=True)))


@pytest.mark.parametrize(
    "fixture",
    [fixture for fixture in all_fixtures() if variant_of(fixture) in TEMPLATES],
    ids=lambda fixture: fixture.id,
)
def test_an_answer_is_read_right_by_the_format_that_the_template_shows(fixture: Fixture) -> None:
    form = derived_format(TEMPLATES[variant_of(fixture)])
    assert_right(fixture, observe(fixture, lambda pieces: parse(fixture, pieces, form, holds_calls=True)))


@pytest.mark.parametrize("fixture", all_fixtures(), ids=lambda fixture: fixture.id)
def test_calls_in_pieces_differ_from_whole_ones_only_where_the_answer_is_cut(fixture: Fixture) -> None:
    form = format_of(fixture)
    held = parse(fixture, [fixture.raw_output], form, holds_calls=True)
    streamed = parse(fixture, list(fixture.raw_output), form, holds_calls=False)
    assert streamed == parse(fixture, [fixture.raw_output], form, holds_calls=False)
    assert (streamed.content, streamed.reasoning_content) == (held.content, held.reasoning_content)
    if len(streamed.tool_calls) > len(held.tool_calls):
        with pytest.raises(json.JSONDecodeError):
            streamed.tool_calls[-1].arguments()
        assert {"truncated", "malformed"} & set(fixture.tags)
    else:
        assert streamed == held


def test_every_fixture_is_here() -> None:
    assert len(all_fixtures()) == 469
    assert checks.NORMALIZATION == "soft-v1"
