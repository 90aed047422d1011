"""Tests of the requests that clients of Ollama send, as their sources build them."""

from __future__ import annotations

from typing import Any

import pytest

from worker_gguf.protocol.calls import ChatCall, CompletionCall, Defaults
from worker_gguf.protocol.ollama.requests import parse_chat, parse_generate

SYSTEM = {"role": "system", "content": "You are a voice assistant."}
TURN_ON = {
    "type": "function",
    "function": {
        "name": "HassTurnOn",
        "description": "Turns on a device",
        "parameters": {"type": "object", "properties": {"name": {"type": "string"}}, "required": []},
    },
}

HOME_ASSISTANT: dict[str, Any] = {
    "model": "qwen3:4b",
    "messages": [
        SYSTEM,
        {"role": "user", "content": "Turn on the light"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "HassTurnOn", "arguments": {"name": "light"}}}],
        },
        {"role": "tool", "content": '{"success": true}'},
    ],
    "tools": [TURN_ON],
    "stream": True,
    "keep_alive": "-1s",
    "options": {"num_ctx": 8192},
    "think": False,
}
OPEN_WEBUI: dict[str, Any] = {
    "model": "llama3.2:latest",
    "messages": [{"role": "user", "content": "Hi", "images": []}, {"role": "assistant", "content": "Hello!"}, SYSTEM],
    "stream": True,
    "options": {"temperature": 0.7, "num_ctx": 4096, "num_predict": 128, "stop": ["###"], "seed": 1, "tfs_z": 1.0},
    "keep_alive": "10m",
    "format": "json",
}
CONTINUE: dict[str, Any] = {
    "model": "codellama:7b",
    "messages": [{"role": "user", "content": "Explain this."}],
    "options": {
        "temperature": 0.1,
        "num_predict": 600,
        "num_ctx": 8192,
        "stop": ["</s>"],
        "mirostat": 0,
        "num_thread": 4,
        "use_mmap": True,
        "num_gpu": 1,
    },
    "keep_alive": 1800,
    "stream": True,
}
CONTINUE_RAW: dict[str, Any] = {
    "model": "codellama:7b",
    "prompt": "<PRE> a <SUF> b <MID>",
    "raw": True,
    "options": {"temperature": 0.01, "num_predict": 100, "stop": ["<PRE>"]},
    "keep_alive": 1800,
    "stream": True,
}
LANGCHAIN: dict[str, Any] = {
    "model": "llama3.2",
    "messages": [
        {"role": "user", "content": "What is the weather?", "images": []},
        {
            "role": "assistant",
            "content": "",
            "images": [],
            "tool_calls": [{"type": "function", "id": "u-1", "function": {"name": "HassTurnOn", "arguments": {}}}],
        },
        {"role": "tool", "content": "done", "images": [], "tool_call_id": "u-1"},
    ],
    "stream": True,
    "options": {"temperature": 0.0, "num_predict": 256},
    "keep_alive": None,
    "think": None,
    "format": None,
    "tools": [TURN_ON],
}


@pytest.mark.parametrize(
    ("body", "ignored"),
    [
        (HOME_ASSISTANT, ("keep_alive", "options.num_ctx")),
        (OPEN_WEBUI, ("keep_alive", "options.num_ctx", "options.tfs_z")),
        (CONTINUE, ("keep_alive", "options.num_ctx", "options.num_gpu", "options.num_thread", "options.use_mmap")),
        (LANGCHAIN, ()),
    ],
    ids=["home-assistant", "open-webui", "continue", "langchain"],
)
def test_a_chat_of_a_client_is_honoured_but_for_what_is_set_at_the_start(
    body: dict[str, Any], ignored: tuple[str, ...]
) -> None:
    call = parse_chat(body, Defaults())
    assert isinstance(call, ChatCall)
    assert call.options.ignored == ignored
    assert call.options.stream
    for message in call.messages:
        assert "images" not in message
        for made in message.get("tool_calls", ()):
            assert isinstance(made["function"]["arguments"], str)


def test_results_without_an_id_belong_to_the_open_call() -> None:
    call = parse_chat(HOME_ASSISTANT, Defaults())
    assert isinstance(call, ChatCall)
    *_, asked, result = call.messages
    assert result["tool_call_id"] == asked["tool_calls"][0]["id"]
    assert result["name"] == "HassTurnOn"


def test_a_raw_prompt_of_a_client_is_continued() -> None:
    call = parse_generate(CONTINUE_RAW, Defaults())
    assert isinstance(call, CompletionCall)
    assert (call.prompts, call.options.stop) == (("<PRE> a <SUF> b <MID>",), ("<PRE>",))
    assert call.options.ignored == ("keep_alive",)
