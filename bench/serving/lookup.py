"""Speculation by prompt lookup: its gain where an answer quotes its prompt, its cost where none does, its answers.

Two workers run beside each other, one with the default settings and one with SPECULATION=off, and are asked in turn.
`lookup_speedup_c1` and `lookup_cost_c32` are the new tokens per second of the first over those of the second, with one
request at a time and with 32 at once. `lookup_equal` is the share of prompts whose greedy answers are equal.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.connection import Connection
from bench.load import Answer, Load, run, run_loop
from bench.serving.quoting import quoted_share, quoting_prompts
from bench.serving.servers import Server, Setup
from worker_gguf.embedded import published_prompts

OFF = {"SPECULATION": "off"}


@dataclass(frozen=True, slots=True)
class Sizes:
    quoting: int = 8  # prompts
    quoting_tokens: int = 256  # of an answer, at most
    others: int = 24  # prompts whose answers are only compared
    other_tokens: int = 48
    at_once: int = 32
    requests: int = 32
    noise_rounds: int = 9  # for each round of the others, because the bound is narrow; they are short
    prompt_tokens: int = 40
    max_tokens: int = 64
    n_ctx: int = 1536


def measure(setup: Setup, chat_model: Path, model: Path, sizes: Sizes = Sizes(), peer_options: str = "") -> None:
    """`chat_model` answers the prompts that ask for a quotation, and `model`, whose vocabulary is that of
    bench/words.py, makes noise. `peer_options` switch the peer's lookup on.
    """
    quoting = quoting_prompts(sizes.quoting)
    with setup.worker(chat_model, 1, sizes.n_ctx) as auto, setup.worker(chat_model, 1, sizes.n_ctx, OFF) as off:
        pairs = _compare_quoting(setup, auto, off, quoting, sizes)
        shares = [quoted_share(without.text, prompt) for prompt, (_, without) in zip(quoting, pairs, strict=True)]
        setup.findings.add("lookup_quoted", sum(shares) / len(shares))
        pairs += _ask_in_turn(auto, off, _other_prompts(sizes.others), sizes.other_tokens)
        setup.findings.add("lookup_compared", len(pairs))
        setup.findings.add("lookup_equal", sum(with_it.text == without.text for with_it, without in pairs) / len(pairs))
    if setup.peer_command and peer_options:
        with (
            setup.peer(chat_model, 1, sizes.n_ctx, peer_options) as auto,
            setup.peer(chat_model, 1, sizes.n_ctx) as off,
        ):
            _compare_quoting(setup, auto, off, quoting, sizes)
    n_ctx = sizes.prompt_tokens + sizes.max_tokens + 8
    with setup.worker(model, sizes.at_once, n_ctx) as auto, setup.worker(model, sizes.at_once, n_ctx, OFF) as off:
        _compare_noise(setup, auto, off, sizes)


def _compare_quoting(
    setup: Setup, auto: Server, off: Server, prompts: Sequence[str], sizes: Sizes
) -> list[tuple[Answer, Answer]]:
    """Return the last round's answers."""
    _ask_in_turn(auto, off, prompts[:1], sizes.quoting_tokens)  # memory that the servers touch for the first time
    for _ in range(setup.rounds):
        pairs = _ask_in_turn(auto, off, prompts, sizes.quoting_tokens)
        rates = [_tokens_per_s([pair[which] for pair in pairs]) for which in (0, 1)]
        setup.findings.add(f"{auto.prefix}lookup_tokens_per_s", rates[0])
        setup.findings.add(f"{auto.prefix}lookup_off_tokens_per_s", rates[1])
        setup.findings.add(f"{auto.prefix}lookup_speedup_c1", rates[0] / rates[1])
    return pairs


def _other_prompts(count: int) -> list[str]:
    """Return questions that the embedded model was trained on; to other models they are plain questions."""
    known = [str(prompt.messages[-1]["content"]) for prompt in published_prompts() if not prompt.tools]
    return known[:: max(1, len(known) // max(1, count))][:count]


def _ask_in_turn(auto: Server, off: Server, prompts: Sequence[str], max_tokens: int) -> list[tuple[Answer, Answer]]:
    """Return both answers to each prompt. The server that is asked first changes from prompt to prompt."""

    async def ask_all() -> list[tuple[Answer, Answer]]:
        connections, pairs = {auto: Connection(), off: Connection()}, []
        for n, prompt in enumerate(prompts):
            answers: dict[Server, Answer] = {}
            for server in (auto, off) if n % 2 else (off, auto):
                messages = [{"role": "user", "content": prompt}]
                # Every prompt is computed each time, so that all rounds measure the same.
                request = server.request(messages, max_tokens, temperature=0, cache_prompt=False)
                answers[server] = await server.ask(connections[server], request)
            pairs.append((answers[auto], answers[off]))
        for connection in connections.values():
            connection.close()
        return pairs

    return run_loop(ask_all())


def _tokens_per_s(answers: Sequence[Answer]) -> float:
    return sum(answer.completion_tokens for answer in answers) / sum(answer.ended - answer.sent for answer in answers)


def _compare_noise(setup: Setup, auto: Server, off: Server, sizes: Sizes) -> None:
    """Measure both servers in turns, with short readings: a machine that others use may change its speed in seconds."""
    for n in range(sizes.noise_rounds * setup.rounds):
        rates: dict[Server, float] = {}
        for server in (auto, off) if n % 2 == 0 else (off, auto):
            lengths = (sizes.prompt_tokens, sizes.max_tokens)
            load = Load(server.url, server.model, sizes.at_once, sizes.requests, *lengths, secrets.token_hex(8))
            figures = run_loop(run(load))
            if figures.errors:
                raise RuntimeError(figures.errors[0])
            rates[server] = figures.tokens_per_s
        setup.findings.add("lookup_noise_tokens_per_s", rates[auto])
        setup.findings.add("lookup_noise_off_tokens_per_s", rates[off])
        setup.findings.add("lookup_cost_c32", rates[auto] / rates[off])
