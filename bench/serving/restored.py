"""A long conversation that returns when other conversations have taken its slot: the time to its first token.

`restored_over_computed` is that time over the time that a new conversation of the same length takes. A round is one
conversation, others that take its slot, which are new and are therefore computed, and the return.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import words
from bench.connection import Connection
from bench.load import run_loop
from bench.serving.servers import Server, Setup


@dataclass(frozen=True, slots=True)
class Sizes:
    conversation_tokens: int = 4000
    others: int = 2
    new_tokens: int = 20  # of the next question
    max_tokens: int = 8


def measure(setup: Setup, model: Path, sizes: Sizes = Sizes()) -> None:
    """The model's vocabulary is that of bench/words.py."""
    n_ctx = sizes.conversation_tokens + sizes.new_tokens + 4 * sizes.max_tokens + 64
    with setup.servers(model, 1, n_ctx) as servers:
        for server in servers:
            run_loop(_round(server, sizes))  # memory that a server touches for the first time
        for _, server in setup.in_turn(servers):
            restored_ms, computed_ms, cached_share = run_loop(_round(server, sizes))
            setup.findings.add(f"{server.prefix}restored_ms", restored_ms)
            setup.findings.add(f"{server.prefix}computed_ms", computed_ms)
            setup.findings.add(f"{server.prefix}restored_cached_share", cached_share)
            setup.findings.add(f"{server.prefix}restored_over_computed", restored_ms / computed_ms)


async def _round(server: Server, sizes: Sizes) -> tuple[float, float, float]:
    """Return the milliseconds of the return and of a computed prompt, and the share of the return's prompt that was
    cached.
    """
    seed, connection = secrets.token_hex(8), Connection()

    async def ask(prompt: str) -> tuple[float, float, str]:
        request = server.request(prompt, sizes.max_tokens, ignore_eos=True, temperature=0.8)
        answer = await server.ask(connection, request)
        return answer.first_token_ms, answer.cached_tokens / answer.prompt_tokens, answer.text

    conversation = words.prompt(sizes.conversation_tokens, seed)
    _, _, said = await ask(conversation)
    others = [words.prompt(sizes.conversation_tokens + sizes.new_tokens, f"{seed} {n}") for n in range(sizes.others)]
    computed_ms = median([(await ask(other))[0] for other in others])
    question = words.prompt(sizes.new_tokens + 1, f"{seed} question")
    restored_ms, cached_share, _ = await ask(f"{conversation}{said} {question}")
    connection.close()
    return restored_ms, computed_ms, cached_share
