"""Many requests with the same long beginning, from an empty cache: the prompt tokens that a server computes for them.

No server can compute less than the shared tokens once and each request's own tokens. `shared_prefix_tokens_ratio` is
what the server computes, by its `usage`, over that.
"""

import asyncio
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from bench import words
from bench.connection import Connection
from bench.load import Answer, percentile, run_loop
from bench.serving.servers import Server, Setup


@dataclass(frozen=True, slots=True)
class Sizes:
    requests: int = 64
    at_once: int = 32
    shared_tokens: int = 1000
    own_tokens: int = 40
    max_tokens: int = 32


def measure(setup: Setup, model: Path, sizes: Sizes = Sizes()) -> None:
    """The model's vocabulary is that of bench/words.py."""
    n_ctx = sizes.shared_tokens + sizes.own_tokens + sizes.max_tokens + 8
    with setup.servers(model, sizes.at_once, n_ctx) as servers:
        for _, server in setup.in_turn(servers):
            begun = time.perf_counter()
            answers = run_loop(_ask_all(server, sizes))
            seconds = time.perf_counter() - begun
            name = f"{server.prefix}shared_prefix"
            setup.findings.add(f"{name}_s", seconds)
            setup.findings.add(f"{name}_ttft_p50_ms", percentile([answer.first_token_ms for answer in answers], 50))
            setup.findings.add(f"{name}_tokens_ratio", tokens_ratio(answers, sizes))


def tokens_ratio(answers: list[Answer], sizes: Sizes) -> float:
    computed = sum(answer.prompt_tokens - answer.cached_tokens for answer in answers)
    return computed / (sizes.shared_tokens + sizes.own_tokens * len(answers))


async def _ask_all(server: Server, sizes: Sizes) -> list[Answer]:
    seed = secrets.token_hex(8)
    shared = words.prompt(sizes.shared_tokens, seed)
    numbers = iter(range(sizes.requests))

    async def client() -> list[Answer]:
        connection, answers = Connection(), []
        for number in numbers:
            # One token less in the words, because only the first prompt has a BOS.
            own = words.prompt(sizes.own_tokens + 1, f"{seed} {number}")
            request = server.request(f"{shared} {own}", sizes.max_tokens, ignore_eos=True, temperature=0.8)
            answers.append(await server.ask(connection, request))
        connection.close()
        return answers

    asked = [answer for some in await asyncio.gather(*(client() for _ in range(sizes.at_once))) for answer in some]
    expected = sizes.shared_tokens + sizes.own_tokens
    if wrong := {answer.prompt_tokens for answer in asked} - {expected}:
        raise RuntimeError(f"a prompt of {expected} tokens has {wrong} tokens for the server")
    return asked
