"""Tests of the requests of known clients, with their default parameters."""

from __future__ import annotations

from typing import Any

from worker_gguf.engine.request import DEFAULT_SAMPLERS
from worker_gguf.protocol.calls import Defaults
from worker_gguf.protocol.openai.requests import parse_chat, parse_completion

# SillyTavern's text completion to a generic OpenAI-compatible server, at its default settings (textgen-settings.js).
SILLYTAVERN: dict[str, Any] = {
    "prompt": "You are Ada.\nUser: Hi\nAda:",
    "model": "m",
    "max_new_tokens": 350,
    "max_tokens": 350,
    "temperature": 0.7,
    "top_p": 0.5,
    "typical_p": 1,
    "typical": 1,
    "min_p": 0,
    "repetition_penalty": 1.2,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "top_k": 40,
    "skew": 0,
    "min_tokens": 0,
    "add_bos_token": True,
    "smoothing_factor": 0,
    "smoothing_curve": 1,
    "dry_allowed_length": 2,
    "dry_multiplier": 0,
    "dry_base": 1.75,
    "dry_sequence_breakers": '["\\n", ":", "\\"", "*"]',
    "dry_penalty_last_n": 0,
    "max_tokens_second": 0,
    "stopping_strings": ["\nUser:"],
    "stop": ["\nUser:"],
    "truncation_length": 8192,
    "ban_eos_token": False,
    "skip_special_tokens": True,
    "include_reasoning": True,
    "top_a": 0,
    "tfs": 1,
    "mirostat_mode": 0,
    "mirostat_tau": 5,
    "mirostat_eta": 0.1,
    "custom_token_bans": "",
    "banned_strings": [],
    "api_type": "generic",
    "api_server": "http://127.0.0.1:8000",
    "xtc_threshold": 0.1,
    "xtc_probability": 0,
    "nsigma": 0,
    "top_n_sigma": 0,
    "min_keep": 0,
    "adaptive_target": -0.01,
    "adaptive_decay": 0.9,
    "rep_pen": 1.2,
    "rep_pen_range": 0,
    "repetition_penalty_range": 0,
    "guidance_scale": 1,
    "negative_prompt": "",
    "repeat_penalty": 1.2,
    "repeat_last_n": 0,
    "n_predict": 350,
    "num_predict": 350,
    "num_ctx": 8192,
    "mirostat": 0,
    "ignore_eos": False,
    "rep_pen_slope": 1,
    "stream": True,
}

# What it adds or changes for llama.cpp, with token probabilities on.
SILLYTAVERN_LLAMACPP: dict[str, Any] = SILLYTAVERN | {
    "logprobs": 10,
    "n_probs": 10,
    "n": 1,
    "samplers": [*DEFAULT_SAMPLERS, "adaptive_p"],
    "logit_bias": [[5, -1.5], [7, False]],
    "grammar": "",
    "cache_prompt": True,
    "dry_sequence_breakers": ["\n", ":", '"', "*"],
    "can_abort": True,
}

NAMED_AS_IGNORED = ("api_server", "api_type", "include_reasoning", "num_ctx", "truncation_length")


def test_sillytavern() -> None:
    call = parse_completion(SILLYTAVERN, Defaults())
    sampling = call.options.sampling
    assert call.options.ignored == NAMED_AS_IGNORED
    assert (call.options.max_tokens, call.options.stop, call.options.stream) == (350, ("\nUser:",), True)
    assert (sampling.repeat_penalty, sampling.repeat_last_n, sampling.top_p) == (1.2, 0, 0.5)
    assert sampling.dry_sequence_breakers == ("\n", ":", '"', "*")


def test_sillytavern_for_llamacpp() -> None:
    options = parse_completion(SILLYTAVERN_LLAMACPP, Defaults()).options
    assert options.top_logprobs == 10
    assert options.sampling.logit_bias == ((5, -1.5), (7, float("-inf")))
    assert options.ignored == tuple(sorted((*NAMED_AS_IGNORED, "can_abort")))


def test_open_webui() -> None:
    body = {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "session_id": "s",
        "chat_id": "c",
        "background_tasks": {"title_generation": True},
        "features": {"web_search": False},
        "max_completion_tokens": 1000,
        "tools": None,
    }
    options = parse_chat(body, Defaults()).options
    assert (options.max_tokens, options.include_usage) == (1000, True)
    assert options.ignored == ("background_tasks", "chat_id", "features", "session_id")


def test_langchain() -> None:
    body = {
        "messages": [
            {"content": "Be brief", "role": "system"},
            {"content": "Hi", "role": "user", "name": None},
            {"content": None, "role": "assistant", "tool_calls": [{"type": "function", "id": "1", "function": {}}]},
            {"content": "4", "role": "tool", "tool_call_id": "1"},
        ],
        "model": "m",
        "frequency_penalty": None,
        "logit_bias": None,
        "logprobs": None,
        "n": 1,
        "parallel_tool_calls": True,
        "seed": 7,
        "stream": False,
        "temperature": 1,
        "tools": [],
        "user": "u",
    }
    options = parse_chat(body, Defaults()).options
    assert (options.sampling.seed, options.sampling.temperature) == (7, 1)
    assert options.ignored == ("parallel_tool_calls", "user")
