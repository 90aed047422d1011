"""Eight requests at once over two LoRA adapters, against eight with one of them: tokens per second, and first tokens.

`lora_two_adapters_ratio` is the tokens per second with two adapters over those with one. The peer gets the same
requests: each names its adapter by `lora`, as llama-server takes it. `lora_over_llama_server` is the worker's ratio
over that of the peer.
"""

import asyncio
import secrets
import shlex
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from bench import adapters
from bench.connection import Connection
from bench.load import Answer, Load, ask, run_loop
from bench.serving.servers import Server, Setup

VERSION = 1
# Waves one after the other differ by more than most of what they show, so many are needed.
_TURNS = 4
# The adapter of each request in turn.
_KINDS = {"one": (0,), "two": (0, 1)}


@dataclass(frozen=True, slots=True)
class Sizes:
    at_once: int = 8
    prompt_tokens: int = 120
    max_tokens: int = 64
    rank: int = 16


@dataclass(frozen=True, slots=True)
class Wave:
    tokens_per_s: float
    ttft_ms: float  # the mean


def ensure(model: Path, cache: Path, rank: int) -> list[Path]:
    """Return two adapters with random weights for a model, written where they are missing."""
    paths = [cache / f"{model.stem}-lora-v{VERSION}-r{rank}-{seed}.gguf" for seed in (1, 2)]
    for seed, path in enumerate(paths, start=1):
        if not path.exists():
            adapters.write(path, model, seed=seed, rank=rank)
    return paths


def measure(setup: Setup, model: Path, sizes: Sizes = Sizes()) -> None:
    """The model's vocabulary is that of bench/words.py."""
    n_ctx = sizes.prompt_tokens + sizes.max_tokens + 64
    paths = ensure(model, setup.cache, sizes.rank)
    with ExitStack() as stack:
        env = {"LORA": ",".join(map(str, paths))}
        servers = [stack.enter_context(setup.worker(model, sizes.at_once, n_ctx, env))]
        if setup.peer_command:
            options = " ".join(f"--lora {shlex.quote(str(path))}" for path in paths)
            servers.append(stack.enter_context(setup.peer(model, sizes.at_once, n_ctx, options)))
        for server in servers:
            for kind in _KINDS:
                wave(server, sizes, kind)
        ratios = [
            {server.prefix: _round(setup, server, sizes) for server in order} for order in _orders(setup, servers)
        ]
    for ratio in ratios:
        for server in servers[1:]:
            setup.findings.add("lora_over_llama_server", ratio[""] / ratio[server.prefix])


def _orders(setup: Setup, servers: list[Server]) -> list[list[Server]]:
    """Return the servers of each round. In every other round the order is reversed."""
    return [servers if n % 2 == 0 else servers[::-1] for n in range(setup.rounds)]


def _round(setup: Setup, server: Server, sizes: Sizes) -> float:
    """Measure both kinds in turn, and return the ratio of their tokens per second."""
    waves: dict[str, list[Wave]] = {kind: [] for kind in _KINDS}
    for turn in range(_TURNS):
        for kind in _KINDS if turn % 2 == 0 else reversed(_KINDS):
            waves[kind].append(wave(server, sizes, kind))
    rates = {kind: median(each.tokens_per_s for each in found) for kind, found in waves.items()}
    for kind, found in waves.items():
        setup.findings.add(f"{server.prefix}lora_{kind}_tokens_per_s", rates[kind])
        setup.findings.add(f"{server.prefix}lora_{kind}_ttft_ms", median(each.ttft_ms for each in found))
    ratio = rates["two"] / rates["one"]
    setup.findings.add(f"{server.prefix}lora_two_adapters_ratio", ratio)
    return ratio


def wave(server: Server, sizes: Sizes, kind: str) -> Wave:
    """Send all requests at once, and wait for their answers. Raises RuntimeError if one is no good answer."""
    return run_loop(_wave(server, sizes, _KINDS[kind]))


async def _wave(server: Server, sizes: Sizes, numbers: tuple[int, ...]) -> Wave:
    seed = secrets.token_hex(8)
    connections = [Connection() for _ in range(sizes.at_once)]
    begun = time.perf_counter()
    try:
        answers = await asyncio.gather(
            *(
                ask(_load(server, sizes, seed, numbers[place % len(numbers)]), place, connection)
                for place, connection in enumerate(connections)
            )
        )
    finally:
        for connection in connections:
            connection.close()
    return _summary(answers, time.perf_counter() - begun)


def _summary(answers: list[Answer], seconds: float) -> Wave:
    if error := next((answer.error for answer in answers if answer.error), None):
        raise RuntimeError(error)
    n_tokens = sum(answer.completion_tokens for answer in answers)
    return Wave(n_tokens / seconds, fmean(answer.first_token_ms for answer in answers))


def _load(server: Server, sizes: Sizes, seed: str, number: int) -> Load:
    options = {"lora": [{"id": number, "scale": 1.0}]}
    return Load(
        server.url, server.model, 1, 1, sizes.prompt_tokens, sizes.max_tokens, f"{seed} {number}", options=options
    )
