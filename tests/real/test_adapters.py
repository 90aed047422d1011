"""LoRA adapters with random weights: greedy answers equal those of llama.cpp's own server, alone and beside others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import adapters as writer
from tests.real.conftest import N_CTX, opened, serve_peer
from tests.real.peer import Peer
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.engine.adapters import AdapterSet
from worker_gguf.engine.request import GenerationRequest, SamplingParams
from worker_gguf.generation.events import Delta, Finished
from worker_gguf.start.loaded import LoadedModel

pytestmark = pytest.mark.real

N_TOKENS = 32
# Adapters with random weights leave tokens nearly tied. In f32, the order of sums decides none of them.
EXACT = ["-fa", "off", "-ctk", "f32", "-ctv", "f32"]
SETS: list[AdapterSet] = [(), ((0, 1.0),), ((1, 1.0),), ((0, 0.5),), ((0, 1.0), (1, -0.75))]
QUESTIONS = ["Tell me a long story.", "What is the capital of France?", "Count to ten.", "Write a poem about the sea."]
CHAT = "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [writer.write(folder / f"{seed}.gguf", MODEL_PATH, seed=seed, rank=8, gain=2.0) for seed in (1, 2)]


@pytest.fixture(scope="module")
def loaded(adapters: list[Path]) -> Iterator[LoadedModel]:
    lora = ",".join(f"a{number}={path}" for number, path in enumerate(adapters))
    found = opened(MODEL_PATH, lora=lora, flash_attn="off", type_k="f32", type_v="f32")
    yield found
    found.stop()


@pytest.fixture(scope="module")
def peer(adapters: list[Path], peer_command: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    options = [option for path in adapters for option in ("--lora", str(path))]
    yield from serve_peer(peer_command, MODEL_PATH, tmp_path_factory.mktemp("peer"), N_CTX, *options, *EXACT)


def prompts_of(loaded: LoadedModel) -> list[tuple[int, ...]]:
    texts = [CHAT.format(question) for question in QUESTIONS]
    return [tuple(loaded.vocabulary.tokenize(text, add_special=True, parse_special=True)) for text in texts]


async def greedy(loaded: LoadedModel, name: str, prompt: tuple[int, ...], adapters: AdapterSet) -> list[int]:
    request = GenerationRequest(
        name, prompt, SamplingParams(temperature=0), N_TOKENS, cache_prompt=False, adapters=adapters
    )
    tokens: list[int] = []
    async for items in loaded.engine.submit(request):
        for event in items[0]:
            if isinstance(event, Delta):
                tokens += event.tokens
            elif isinstance(event, Finished):
                assert event.error is None
    return tokens


Answers = dict[AdapterSet, list[list[int]]]


@pytest.fixture(scope="module")
def alone(loaded: LoadedModel) -> Answers:
    async def one_by_one() -> Answers:
        prompts = list(enumerate(prompts_of(loaded)))
        return {
            adapters: [await greedy(loaded, f"alone{number}-{n}", prompt, adapters) for n, prompt in prompts]
            for number, adapters in enumerate(SETS)
        }

    return asyncio.run(one_by_one())


def test_each_set_changes_the_answers(alone: Answers) -> None:
    answers = {tuple(map(tuple, found)) for found in alone.values()}
    assert len(answers) == len(SETS)


def test_greedy_answers_equal_llama_server(loaded: LoadedModel, peer: Peer, alone: Answers) -> None:
    for adapters, ours in alone.items():
        theirs = [peer.greedy(prompt, N_TOKENS, adapters or ((0, 0.0),)) for prompt in prompts_of(loaded)]
        # Its last token may be the end of generation, which is not part of an answer.
        assert [tokens[: len(own)] for tokens, own in zip(theirs, ours, strict=True)] == ours
        assert all(len(tokens) - len(own) <= 1 for tokens, own in zip(theirs, ours, strict=True))


@pytest.mark.parametrize("others", [SETS[2], SETS[0]], ids=["another adapter", "none"])
def test_greedy_answers_are_the_same_beside_eight_requests(
    loaded: LoadedModel, alone: Answers, others: AdapterSet
) -> None:
    async def together() -> list[list[int]]:
        prompts = prompts_of(loaded)
        mine = [greedy(loaded, f"mine{n}", prompt, SETS[1]) for n, prompt in enumerate(prompts)]
        beside = [greedy(loaded, f"beside{n}", prompts[n % len(prompts)], others) for n in range(8)]
        return list(await asyncio.gather(*mine, *beside))

    found = asyncio.run(together())
    n = len(QUESTIONS)
    assert found[:n] == alone[SETS[1]]
    assert found[n:] == alone[others] * 2
