"""llama-server's own routes against llama-server of the same source: tokens, templates, completions, gaps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.asking import ask
from tests.real.conftest import opened, serve_peer
from tests.real.peer import Peer
from tests.real.test_smollm2 import QUESTIONS, TEXTS, conversation
from tests.tiny_models import write_infill
from worker_gguf.service.request import Answer
from worker_gguf.start.loaded import LoadedModel

pytestmark = pytest.mark.real

ODD_TEXTS = ["", " ", "\n\n", "Grüße aus 東京 🤗", "<|im_start|>user\nHi<|im_end|>", "a" * 300, "1234567890", "\u2028x"]
GAPS: list[dict[str, Any]] = [
    {"input_prefix": "def add(a, b):\n    return ", "input_suffix": "\n\nprint(add(1, 2))\n"},
    {"input_prefix": "<fim_pre>", "input_suffix": "<eos>", "prompt": "x = "},
    {
        "input_prefix": "int main() {\n",
        "prompt": "    int n = ",
        "input_suffix": "}\n",
        "input_extra": [{"filename": "a.h", "text": "int f();\n"}, {"text": "int g();\n"}],
    },
]


def answer(loaded: LoadedModel, path: str, body: dict[str, Any]) -> Any:
    answered = asyncio.run(ask(loaded, "POST", path, body))
    assert isinstance(answered, Answer)
    return answered.body


@pytest.fixture(scope="module")
def coder_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_infill(tmp_path_factory.mktemp("coder") / "coder.gguf")


@pytest.fixture(scope="module")
def coder(coder_path: Path) -> Iterator[LoadedModel]:
    loaded = opened(coder_path, n_ctx=512, n_parallel=1)
    yield loaded
    loaded.stop()


@pytest.fixture(scope="module")
def coder_peer(coder_path: Path, peer_command: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    # If a batch is as long as the context, llama-server leaves out the texts from elsewhere.
    yield from serve_peer(peer_command, coder_path, tmp_path_factory.mktemp("peer"), 512, "-b", "256")


@pytest.mark.parametrize("options", [{}, {"add_special": True}, {"parse_special": False}, {"with_pieces": True}])
def test_tokens_are_the_same(smollm2: LoadedModel, smollm2_peer: Peer, options: dict[str, Any]) -> None:
    for content in [*TEXTS, *ODD_TEXTS, ["a", 5, "b"], [5, " x"]]:
        body = {"content": content, **options}
        assert answer(smollm2, "/tokenize", body) == smollm2_peer.post("/tokenize", body), content


def test_the_text_of_tokens_is_the_same(smollm2: LoadedModel, smollm2_peer: Peer) -> None:
    for text in [*TEXTS, *ODD_TEXTS]:
        body = {"tokens": smollm2_peer.tokenize(text)}
        assert answer(smollm2, "/detokenize", body) == smollm2_peer.post("/detokenize", body), text


def test_prompts_of_conversations_are_the_same_and_count_the_same(smollm2: LoadedModel, smollm2_peer: Peer) -> None:
    for question in QUESTIONS:
        body = {"messages": conversation(question)}
        for path in "/apply-template", "/v1/chat/completions/input_tokens":
            assert answer(smollm2, path, body) == smollm2_peer.post(path, body), question


@pytest.mark.parametrize("text", TEXTS)
def test_greedy_completions_are_the_same(smollm2: LoadedModel, smollm2_peer: Peer, text: str) -> None:
    body = {
        "prompt": text,
        "n_predict": 16,
        "temperature": 0,
        "return_tokens": True,
        "cache_prompt": False,
        "stop": ["."],
    }
    own, theirs = answer(smollm2, "/completion", body), smollm2_peer.post("/completion", body)
    same = (
        *("content", "tokens", "prompt", "stop", "stop_type", "stopping_word", "truncated", "has_new_line"),
        *("tokens_evaluated", "index"),
    )
    assert {name: own[name] for name in same} == {name: theirs[name] for name in same}
    assert theirs.keys() <= own.keys()
    assert own["timings"].keys() <= theirs["timings"].keys()
    settings, known = own["generation_settings"], theirs["generation_settings"]
    numbers = {name for name, value in known.items() if type(value) in (int, float)} - {"seed", "dry_penalty_last_n"}
    numbers &= settings.keys()
    assert len(numbers) > 25
    assert {name: settings[name] for name in numbers} == pytest.approx(
        {name: known[name] for name in numbers}, rel=1e-6
    )


@pytest.mark.parametrize("gap", GAPS)
def test_gaps_are_filled_in_the_same_way(coder: LoadedModel, coder_peer: Peer, gap: dict[str, Any]) -> None:
    body = {**gap, "n_predict": 16, "temperature": 0, "return_tokens": True, "cache_prompt": False}
    own, theirs = answer(coder, "/infill", body), coder_peer.post("/infill", body)
    for name in "prompt", "tokens_evaluated", "tokens", "content":
        assert own[name] == theirs[name], name
