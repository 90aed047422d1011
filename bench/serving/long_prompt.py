"""A long prompt that arrives while other answers stream: what it does to the times between their tokens.

`long_prompt_tpot_ratio` is the 99th percentile of the times between two tokens of the streams while the long prompt is
computed, over their 99th percentile before it came.
"""

import asyncio
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low

from bench import words
from bench.connection import Connection
from bench.load import Answer, percentile, run_loop, stream
from bench.serving.picture import Panel, gap_picture
from bench.serving.servers import Server, Setup

_POLL_S = 0.01
# At least so many of each stream in the quiet time, however slow the machine.
_QUIET_TOKENS = 5


@dataclass(frozen=True, slots=True)
class Sizes:
    streams: int = 8
    stream_tokens: int = 4000  # more than a stream reaches: all of them are cut off at the end
    long_tokens: int = 4000
    short_tokens: int = 40
    max_tokens: int = 8  # of the answer to the long prompt
    settled_tokens: int = 20  # of each stream, before the quiet time
    quiet_s: float = 2.0  # at least
    after_s: float = 1.0  # for the picture


@dataclass(frozen=True, slots=True)
class Watched:
    """One round. Gaps are pairs of a token's arrival, in seconds after the long prompt was sent, and the milliseconds
    since the token before it.
    """

    gaps: tuple[tuple[float, float], ...]
    first_token_s: float  # of the long prompt
    quiet_s: float  # between the settling of the streams and the long prompt

    @property
    def before(self) -> list[float]:
        return [gap for end, gap in self.gaps if -self.quiet_s <= end - gap / 1e3 and end <= 0]

    @property
    def during(self) -> list[float]:
        """Return every gap that overlaps the computing of the long prompt, a single long stall among them."""
        return [gap for end, gap in self.gaps if end > 0 and end - gap / 1e3 < self.first_token_s]

    @property
    def ratio(self) -> float:
        return percentile(self.during, 99) / percentile(self.before, 99)


def measure(setup: Setup, model: Path, sizes: Sizes = Sizes()) -> None:
    """The model's vocabulary is that of bench/words.py."""
    n_ctx = max(sizes.long_tokens + sizes.max_tokens, sizes.short_tokens + sizes.stream_tokens) + 8
    watched: dict[Server, list[Watched]] = {}
    with setup.servers(model, sizes.streams + 1, n_ctx) as servers:
        for server in servers:
            run_loop(alone(server, _long_request(server, sizes)))  # memory that a server touches for the first time
        for _, server in setup.in_turn(servers):
            alone_ms = run_loop(alone(server, _long_request(server, sizes)))
            seen = run_loop(watch(server, sizes, _long_request(server, sizes)))
            watched.setdefault(server, []).append(seen)
            name = f"{server.prefix}long_prompt"
            setup.findings.add(f"{name}_ttft_alone_ms", alone_ms)
            setup.findings.add(f"{name}_ttft_ms", seen.first_token_s * 1e3)
            setup.findings.add(f"{name}_gap_p99_before_ms", percentile(seen.before, 99))
            setup.findings.add(f"{name}_gap_p99_ms", percentile(seen.during, 99))
            setup.findings.add(f"{name}_gap_max_ms", max(seen.during))
            setup.findings.add(f"{name}_tpot_ratio", seen.ratio)
    setup.findings.picture = gap_picture([_panel(server, rounds, sizes) for server, rounds in watched.items()])


def _panel(server: Server, rounds: list[Watched], sizes: Sizes) -> Panel:
    """Return the round with the middle ratio."""
    middle = median_low(seen.ratio for seen in rounds)
    seen = next(seen for seen in rounds if seen.ratio == middle)
    first = -min(1.0, sizes.quiet_s)
    points = tuple((end, gap) for end, gap in seen.gaps if end >= first)
    return Panel(server.prefix.rstrip("_") or "worker", points, seen.first_token_s)


async def alone(server: Server, request: bytes) -> float:
    """Return the milliseconds until the first token of a request beside which nothing runs."""
    connection = Connection()
    answer = await server.ask(connection, request)
    connection.close()
    return answer.first_token_ms


async def watch(server: Server, sizes: Sizes, request: bytes) -> Watched:
    """Run streams, and send a request for a stream while they run."""
    seed, connections = secrets.token_hex(8), [Connection() for _ in range(sizes.streams)]
    streams = [Answer() for _ in connections]
    running = []
    for number, (connection, answer) in enumerate(zip(connections, streams, strict=True)):
        prompt = words.prompt(sizes.short_tokens, f"{seed} {number}")
        short = server.request(prompt, sizes.stream_tokens, ignore_eos=True, temperature=0.8)
        running.append(asyncio.create_task(stream(server.url, short, connection, answer)))
    try:
        await _wait_for_tokens(sizes.settled_tokens, running, streams)
        quiet_from = time.perf_counter()
        await asyncio.sleep(sizes.quiet_s)
        await _wait_for_tokens(sizes.settled_tokens + _QUIET_TOKENS, running, streams)
        connection = Connection()
        long = await server.ask(connection, request)
        connection.close()
        await asyncio.sleep(sizes.after_s)
        _check(running, streams)
    finally:
        for task in running:
            task.cancel()
        for task in running:
            with suppress(asyncio.CancelledError):
                await task
    gaps = [
        (end - long.sent, (end - begin) * 1e3)
        for answer in streams
        for begin, end in zip(answer.arrivals, answer.arrivals[1:], strict=False)
    ]
    return Watched(tuple(gaps), long.arrivals[0] - long.sent, long.sent - quiet_from)


async def _wait_for_tokens(n: int, running: list[asyncio.Task[None]], streams: list[Answer]) -> None:
    """Wait until each stream has so many."""
    while min(len(answer.arrivals) for answer in streams) < n:
        _check(running, streams)
        await asyncio.sleep(_POLL_S)


def _check(running: list[asyncio.Task[None]], streams: list[Answer]) -> None:
    for task, answer in zip(running, streams, strict=True):
        if task.done():
            raise RuntimeError(f"a stream ended after {len(answer.arrivals)} tokens: {answer.error or 'too few'}")


def _long_request(server: Server, sizes: Sizes) -> bytes:
    prompt = words.prompt(sizes.long_tokens, secrets.token_hex(8))
    return server.request(prompt, sizes.max_tokens, ignore_eos=True, temperature=0.8)
