"""Tests of tools, calls and results as text, for templates that leave some of them out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from worker_gguf.markup.stated_format import stated_call, stated_format
from worker_gguf.markup.tool import Tool
from worker_gguf.service.stated_tools import with_calls_as_text, with_instructions
from worker_gguf.template.chat_template import ChatTemplate

GEMMA = Path(__file__).parents[3] / "shared" / "templates" / "google-gemma-2-2b-it.jinja"
TOOLS = [Tool("find", {"type": "object"}, "Finds.")]
USER = {"role": "user", "content": "Find tea."}


def called(arguments: object = '{"a": 1}', content: Any = None) -> dict[str, Any]:
    function = {"name": "find", "arguments": arguments}
    return {"role": "assistant", "content": content, "tool_calls": [{"id": "1", "function": function}]}


def result(content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "1", "content": content}


def test_instructions_are_in_a_system_message() -> None:
    assert with_instructions([USER], "Call.") == [{"role": "system", "content": "Call."}, USER]
    brief = {"role": "system", "content": "Be brief."}
    assert with_instructions([brief, USER], "Call.")[0]["content"] == "Be brief.\n\nCall."
    as_parts = {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}
    assert with_instructions([as_parts, USER], "Call.")[0] == {"role": "developer", "content": "Be brief.\n\nCall."}


def test_without_calls_nothing_changes() -> None:
    messages = [USER, {"role": "assistant", "content": "Which?"}, USER]
    assert with_calls_as_text(messages) == messages


@pytest.mark.parametrize("arguments", ['{"a": 1}', {"a": 1}])
def test_calls_become_text_as_the_model_writes_them(arguments: object) -> None:
    (_, call) = with_calls_as_text([USER, called(arguments, "Yes.")])
    assert call == {"role": "assistant", "content": "Yes.\n\n" + stated_call("find", '{"a": 1}')}


def test_arguments_that_are_cut_off_stay_in_full() -> None:
    assert '{"zone": "Am' in with_calls_as_text([USER, called('{"zone": "Am')])[1]["content"]
    assert with_calls_as_text([USER, called("")])[1]["content"] == stated_call("find", "{}")


def test_results_are_one_message_of_the_user_with_what_the_user_says_next() -> None:
    messages = with_calls_as_text([USER, called(), result("tea"), result([{"type": "text", "text": "two"}]), USER])
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[2]["content"] == (
        "<tool_response>\ntea\n</tool_response>\n\n<tool_response>\ntwo\n</tool_response>\n\nFind tea."
    )
    assert with_calls_as_text([USER, called(), result(None)])[2]["content"] == "<tool_response>\n\n</tool_response>"


def test_a_template_that_refuses_the_role_of_tools_takes_the_conversation() -> None:
    if not GEMMA.is_file():
        pytest.skip(f"{GEMMA} is not here: it comes with the shared folder beside the repository")
    template = ChatTemplate(GEMMA.read_text(), bos_token="<bos>")
    messages = [{"role": "system", "content": "Be brief."}, USER, called(), result("black"), USER]
    prompt = template.prompt(with_instructions(with_calls_as_text(messages), stated_format(TOOLS)))
    for text in ("Be brief.", "Finds.", '"arguments": {"a": 1}', "black"):
        assert text in prompt
