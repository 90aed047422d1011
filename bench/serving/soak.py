"""Thousands of mixed requests: what the worker's processes hold in memory after all of them, over after the first ones.

The requests are chats and completions of several lengths, with shared beginnings and without, streamed or not, left by
their clients in the middle, or refused. The model and the memory for cached prompts (CACHE_RAM) are small, so that the
cache is full when memory is measured for the first time. `soak_wrong` counts requests without the right ending.
"""

import asyncio
import json
import random
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.connection import Connection
from bench.load import STREAMED, address, post, run_loop
from bench.process import memory_mb
from bench.serving.servers import Server, Setup
from bench.wire import EventLines

_LIMIT_S = 60.0
_SHARED = " ".join(f"rule {n}: answer in short sentences." for n in range(10))
_GOOD = ("chat", "completion", "shared prefix", "long prompt", "long answer")
_BAD: dict[str, tuple[str, dict[str, object], int]] = {
    "no such route": ("/nonsense", {}, 404),
    "no such parameter value": ("/completions", {"prompt": "a", "max_tokens": -7}, 400),
    "wrong type": ("/chat/completions", {"messages": "hello"}, 400),
    "no messages": ("/chat/completions", {"messages": []}, 400),
    "prompt too long": ("/completions", {"prompt": "word " * 4000}, 400),
}


@dataclass(frozen=True, slots=True)
class Sizes:
    requests: int = 10_000
    first: int = 500  # requests before memory is measured for the first time
    at_once: int = 8
    n_parallel: int = 4
    n_ctx: int = 512
    cache_ram_mib: int = 4


@dataclass(slots=True)
class Count:
    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def measure(setup: Setup, model: Path | str = "embedded", sizes: Sizes = Sizes()) -> None:
    # One thread is fast enough for so small a model, and does not wait for another one on a busy machine.
    env = {"CACHE_RAM": str(sizes.cache_ram_mib), "N_THREADS": "1"}
    chance, count = random.Random(7), Count()
    with setup.worker(Path(model), sizes.n_parallel, sizes.n_ctx, env) as server:
        begun = time.perf_counter()
        memory: list[tuple[float, float]] = []  # MB: all, and without the pages of files
        for n in _blocks(sizes):
            run_loop(_ask_all(server, n, sizes.at_once, chance, count))
            _wait_until_idle(server)
            memory.append((memory_mb(server.pid), memory_mb(server.pid, "Anonymous")))
            setup.findings.add("soak_memory_mb", memory[-1][0])
            setup.findings.add("soak_anonymous_mb", memory[-1][1])
        setup.findings.add("soak_seconds", time.perf_counter() - begun)
    for name, number in sorted(count.ends.items()):
        setup.findings.add(f"soak_{name}", number)
    (first, first_anonymous), (last, last_anonymous) = memory[0], memory[-1]
    setup.findings.add("soak_memory_first_mb", first)
    setup.findings.add("soak_memory_last_mb", last)
    setup.findings.add("soak_growth_anonymous", last_anonymous / first_anonymous)
    setup.findings.add("soak_wrong", len(count.wrong))
    setup.findings.add("soak_growth", last / first)
    setup.findings.notes += count.wrong[:10]


def _blocks(sizes: Sizes) -> Iterator[int]:
    """Give the numbers of requests between two measurements of memory."""
    for begin in range(0, sizes.requests, sizes.first):
        yield min(sizes.first, sizes.requests - begin)


def _wait_until_idle(server: Server) -> None:
    """Wait until no request runs, those of clients that left among them."""
    deadline = time.monotonic() + _LIMIT_S
    health = f"{server.url.removesuffix('/v1')}/health"
    while time.monotonic() < deadline:
        with urllib.request.urlopen(health, timeout=30) as answer:
            said = json.load(answer)
        if said["slots"]["busy"] == said["queue"]["waiting"] == 0:
            return
        time.sleep(0.05)
    raise RuntimeError(f"requests still run {_LIMIT_S} s after the last one: {said['slots']}")


async def _ask_all(server: Server, n: int, at_once: int, chance: random.Random, count: Count) -> None:
    numbers = iter(range(n))

    async def client() -> None:
        connection = Connection()
        for _ in numbers:
            try:
                end, wrong = await _ask(server, connection, chance)
            except (OSError, TimeoutError, ValueError) as error:
                connection.close()
                end, wrong = "lost", f"{type(error).__name__}: {error}"
            count.ends[end] += 1
            if wrong:
                count.wrong.append(f"{end}: {wrong}")
        connection.close()

    await asyncio.gather(*(client() for _ in range(at_once)))


async def _ask(server: Server, connection: Connection, chance: random.Random) -> tuple[str, str | None]:
    """Make a request of a random kind. Return the ending that it should have, and what was wrong with it."""
    if chance.random() < 0.15:
        path, given, expected = _BAD[chance.choice(list(_BAD))]
        status, body = await _exchange(server, connection, path, {"model": server.model, **given})
        return "refused", None if status == expected and b'"error"' in body else f"{status} {body[:200]!r}"
    path, given = _good(chance)
    given |= {"model": server.model, "temperature": chance.choice((0, 0.8))}
    streamed, leaves = chance.random() < 0.6, chance.random() < 0.2
    given |= STREAMED if streamed else {}
    if leaves:
        await _leave(server, connection, path, given, chance.randint(1, 12) if streamed else chance.uniform(0, 0.03))
        return "left", None
    status, body = await _exchange(server, connection, path, given)
    is_whole = status == 200 and (_ends(body) if streamed else bool(json.loads(body)["choices"][0]["finish_reason"]))
    return "streamed" if streamed else "whole", None if is_whole else f"{status} {body[-200:]!r}"


def _good(chance: random.Random) -> tuple[str, dict[str, object]]:
    kind, word = chance.choice(_GOOD), f"{chance.randrange(10**6)}"
    question = f"Question {word}: what is the capital of France, and how do you spell it?"
    match kind:
        case "completion":
            return "/completions", {"prompt": f"{word} Once upon a time", "max_tokens": chance.randint(1, 40)}
        case "shared prefix":
            system = {"role": "system", "content": _SHARED}
            messages = [system, {"role": "user", "content": question}]
            return "/chat/completions", {"messages": messages, "max_tokens": chance.randint(1, 20)}
        case "long prompt":
            text = " ".join(f"{word}{n}" for n in range(chance.randint(10, 40)))
            return "/completions", {"prompt": text, "max_tokens": 8}
        case "long answer":
            return "/completions", {"prompt": word, "max_tokens": 150, "ignore_eos": True}
    return "/chat/completions", {"messages": [{"role": "user", "content": question}], "max_tokens": 30}


def _ends(body: bytes) -> bool:
    """Return whether a stream has one finish_reason, no error and its last line."""
    *events, done = EventLines().feed(body)
    parsed = [json.loads(event) for event in events]
    reasons = [choice["finish_reason"] for event in parsed for choice in event.get("choices", ())]
    n_ends = sum(reason is not None for reason in reasons)
    return done == b"[DONE]" and n_ends == 1 and not any("error" in event for event in parsed)


async def _exchange(
    server: Server,
    connection: Connection,
    path: str,
    given: dict[str, object],
    also: Callable[[bytes], None] = lambda piece: None,
) -> tuple[int, bytes]:
    host, port, _ = address(server.url)
    body = bytearray()

    def take(piece: bytes) -> None:
        body.extend(piece)
        also(piece)

    async with asyncio.timeout(_LIMIT_S):
        status = await connection.exchange(host, port, post(server.url, path, given), take)
    return status, bytes(body)


async def _leave(
    server: Server, connection: Connection, path: str, given: dict[str, object], after: int | float
) -> None:
    """Close the connection after so many pieces of the answer, or so many seconds, unless the answer ends before."""
    enough, seen = asyncio.Event(), 0

    def see(piece: bytes) -> None:
        nonlocal seen
        seen += 1
        if seen == after:
            enough.set()

    asking = asyncio.create_task(_exchange(server, connection, path, given, see))
    waiting = asyncio.create_task(enough.wait() if isinstance(after, int) else asyncio.sleep(after))
    await asyncio.wait((asking, waiting), return_when=asyncio.FIRST_COMPLETED)
    for task in (asking, waiting):
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    connection.close()
