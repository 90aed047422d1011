"""Tests of the data in the package: a small GGUF, and prompts that a test of the engine can run."""

import json
import re

from tools.embedded import template
from worker_gguf.embedded import MODEL_PATH, published_prompts

MAX_BYTES = 6_000_000
FEWEST_PROMPTS = 60
GROUPS = {
    "capital", "sum", "reverse", "upper", "turkish", "tool-call", "tool-result", "memory", "long-memory", "story",
}  # fmt: skip


def test_model_is_a_small_gguf() -> None:
    assert MODEL_PATH.stat().st_size < MAX_BYTES
    with MODEL_PATH.open("rb") as file:
        assert file.read(4) == b"GGUF"


def test_model_carries_the_template_of_the_tools() -> None:
    assert template.source().encode() in MODEL_PATH.read_bytes()


def test_enough_prompts_with_unique_names() -> None:
    names = [prompt.name for prompt in published_prompts()]
    assert len(names) >= FEWEST_PROMPTS
    assert len(names) == len(set(names))


def test_every_ability_is_published() -> None:
    assert {re.sub(r"-\d+$", "", prompt.name) for prompt in published_prompts()} >= GROUPS


def test_every_prompt_is_ready_to_ask() -> None:
    for prompt in published_prompts():
        assert prompt.messages[-1]["role"] in ("user", "tool")
        assert prompt.expected
        assert prompt.max_tokens > 1
        assert template.render(prompt.messages, prompt.tools, add_generation_prompt=True)


def test_a_published_tool_call_is_json_for_its_tool() -> None:
    calls = [prompt for prompt in published_prompts() if prompt.name.startswith("tool-call-")]
    for prompt in calls:
        offered = {tool["function"]["name"] for tool in prompt.tools}
        assert json.loads(prompt.expected)["name"] in offered
