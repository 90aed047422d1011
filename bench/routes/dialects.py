"""The Responses API and Anthropic's Messages beside chat completions: tokens per second of the same load.

`responses_ratio` and `messages_ratio` are the tokens per second with 8 streams at once, over those of chat completions.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.load import Answer, Figures, Load, Wire, run_alone
from bench.serving.servers import Server, Setup

# Two loads one after the other differ by more than the dialects do, so many short pairs are needed.
_TURNS = 8


@dataclass(frozen=True, slots=True)
class Sizes:
    at_once: int = 8
    requests: int = 16
    prompt_tokens: int = 60
    max_tokens: int = 128


def measure(setup: Setup, model: Path, sizes: Sizes = Sizes()) -> None:
    """The model's vocabulary is that of bench/words.py."""
    n_ctx = sizes.prompt_tokens + sizes.max_tokens + 64
    with setup.worker(model, sizes.at_once, n_ctx) as worker:
        for name in WIRES:
            _load(worker, sizes, name)
        names = list(WIRES)
        for turn in range(_TURNS * setup.rounds):
            order = names[turn % len(names) :] + names[: turn % len(names)]
            rates = {name: _load(worker, sizes, name).tokens_per_s for name in order}
            for name, rate in rates.items():
                setup.findings.add(f"{name}_tokens_per_s_c{sizes.at_once}", rate)
                if name != "chat":
                    setup.findings.add(f"{name}_ratio", rate / rates["chat"])


def _responses_body(load: Load, text: str) -> dict[str, Any]:
    return _sampled(load) | {"input": text, "max_output_tokens": load.max_tokens}


def _note_response(answer: Answer, event: dict[str, Any], arrived: float) -> None:
    match event["type"]:
        case "response.output_text.delta":
            answer.arrivals.append(arrived)
            answer.text += event["delta"]
        case "response.completed" | "response.incomplete":
            usage = event["response"]["usage"]
            answer.prompt_tokens, answer.completion_tokens = usage["input_tokens"], usage["output_tokens"]
            answer.finish_reason = event["response"]["status"]
        case "response.failed" | "error":
            answer.error = f"the stream says: {event}"


def _messages_body(load: Load, text: str) -> dict[str, Any]:
    return _sampled(load) | {"messages": [{"role": "user", "content": text}], "max_tokens": load.max_tokens}


def _note_message(answer: Answer, event: dict[str, Any], arrived: float) -> None:
    match event["type"]:
        case "message_start":
            answer.prompt_tokens = event["message"]["usage"]["input_tokens"]
        case "content_block_delta" if event["delta"]["type"] == "text_delta":
            answer.arrivals.append(arrived)
            answer.text += event["delta"]["text"]
        case "message_delta":
            answer.completion_tokens = event["usage"]["output_tokens"]
            answer.finish_reason = event["delta"]["stop_reason"]
        case "error":
            answer.error = f"the stream says: {event}"


def _sampled(load: Load) -> dict[str, Any]:
    return {"model": load.model, "stream": True, "ignore_eos": True, "temperature": 0.8, "top_k": 40, "top_p": 0.95}


WIRES: dict[str, Wire | None] = {
    "chat": None,
    "responses": Wire("/responses", _responses_body, _note_response),
    "messages": Wire("/messages", _messages_body, _note_message),
}


def _load(server: Server, sizes: Sizes, name: str) -> Figures:
    load = Load(
        server.url,
        server.model,
        sizes.at_once,
        sizes.requests,
        sizes.prompt_tokens,
        sizes.max_tokens,
        secrets.token_hex(8),
        chat=True,
        wire=WIRES[name],
    )
    return run_alone(load)
