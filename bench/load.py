"""A closed loop of streamed, sampled requests to any OpenAI-compatible server, with the latencies of its users.

Every connection sends its next request when the last one has ended. Every prompt is new, so that no prefix cache helps,
and every answer must have exactly the tokens asked for. Tokens are counted from the server's `usage`.
"""

import argparse
import asyncio
import gc
import json
import math
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any, TypeVar
from urllib.parse import urlsplit

from bench import words
from bench.connection import Connection
from bench.wire import EventLines

T = TypeVar("T")
PING_INTERVAL_S = 0.02
TIMEOUT_S = 600.0
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


@dataclass(frozen=True, slots=True)
class Wire:
    """How another dialect than OpenAI's older one asks and answers.

    `body` returns the body of a request, without what the options of a load add. `note` notes an event of the answer.
    """

    path: str
    body: Callable[["Load", str], dict[str, Any]]
    note: Callable[["Answer", dict[str, Any], float], None]


@dataclass(frozen=True, slots=True)
class Load:
    url: str
    model: str
    concurrency: int
    requests: int
    prompt_tokens: int
    max_tokens: int
    seed: str
    api_key: str | None = None
    chat: bool = False
    timeout_s: float = TIMEOUT_S
    options: Mapping[str, object] = field(default_factory=dict)  # further fields of each body; None leaves one out
    history: Sequence[Mapping[str, object]] = ()  # messages before the one of a chat
    wire: Wire | None = None


@dataclass(slots=True)
class Answer:
    """One request's story; written by its connection alone. Times are of `time.perf_counter`."""

    sent: float = 0.0
    arrivals: list[float] = field(default_factory=list)  # of events with text
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str | None = None
    error: str | None = None
    cached_tokens: int = 0  # of the prompt
    text: str = ""
    ended: float = 0.0

    @property
    def first_token_ms(self) -> float:
        return (self.arrivals[0] - self.sent) * 1e3

    @property
    def token_ms(self) -> float:
        """Between tokens, on average, once the first is there."""
        return (self.arrivals[-1] - self.arrivals[0]) / (self.completion_tokens - 1) * 1e3

    def gaps_ms(self) -> Iterable[float]:
        return ((after - before) * 1e3 for before, after in zip(self.arrivals, self.arrivals[1:], strict=False))


@dataclass(frozen=True, slots=True)
class Figures:
    tokens_per_s: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    tpot_p50_ms: float  # per answer: the mean time from one token to the next
    tpot_p99_ms: float
    gap_p99_ms: float  # between two arrivals of one answer: a stall shows here
    seconds: float
    prompt_tokens: float
    client_cpu_s: float
    errors: list[str]


async def ask(load: Load, number: int, connection: Connection) -> Answer:
    """Make one request; whatever goes wrong becomes the answer's error."""
    answer = Answer()
    note_event = note if load.wire is None else load.wire.note
    await stream(load.url, encode(load, number), connection, answer, load.timeout_s, note_event)
    answer.error = answer.error or fault(load, answer)
    return answer


async def stream(
    url: str,
    request: bytes,
    connection: Connection,
    answer: Answer,
    timeout_s: float = TIMEOUT_S,
    note_event: Callable[[Answer, dict[str, Any], float], None] | None = None,
) -> None:
    """Send a request for a stream and note in `answer` what arrives, and what goes wrong.

    A stream that is cancelled leaves the connection closed, which is how a client leaves.
    """
    events, body = EventLines(), bytearray()

    def take(piece: bytes) -> None:
        arrived = time.perf_counter()
        body.extend(piece[: 500 - len(body)])
        for event in events.feed(piece):
            if event != b"[DONE]":
                (note_event or note)(answer, json.loads(event), arrived)

    host, port, _ = address(url)
    answer.sent = time.perf_counter()
    try:
        async with asyncio.timeout(timeout_s):
            status = await connection.exchange(host, port, request, take)
    except asyncio.CancelledError:
        connection.close()
        raise
    except (OSError, TimeoutError, ValueError) as error:
        connection.close()
        answer.error = f"{type(error).__name__}: {error}"
    else:
        if status != 200:
            answer.error = f"status {status}: {body.decode(errors='replace')}"
    answer.ended = time.perf_counter()


def encode(load: Load, number: int) -> bytes:
    text = words.prompt(load.prompt_tokens, f"{load.seed} {number}")
    if load.wire is not None:
        return post(load.url, load.wire.path, load.wire.body(load, text) | dict(load.options), load.api_key)
    messages = [*load.history, {"role": "user", "content": text}]
    prompt: dict[str, Any] = {"messages": messages} if load.chat else {"prompt": text}
    sampled = {"temperature": 0.8, "top_k": 40, "top_p": 0.95}
    body = {"model": load.model, **prompt, "max_tokens": load.max_tokens, **STREAMED, "ignore_eos": True, **sampled}
    body = {name: value for name, value in (body | dict(load.options)).items() if value is not None}
    return post(load.url, "/chat/completions" if load.chat else "/completions", body, load.api_key)


def post(url: str, path: str, body: Mapping[str, object], api_key: str | None = None) -> bytes:
    """Return the bytes of a request to a path below `url`."""
    host, port, base = address(url)
    authorization = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
    content = json.dumps(body).encode()
    head = (
        f"POST {base}{path} HTTP/1.1\r\nHost: {host}:{port}\r\n"
        f"Content-Type: application/json\r\n{authorization}Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def address(url: str) -> tuple[str, int, str]:
    """Return host, port and path; only plain HTTP is spoken here."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        raise ValueError(f"{url!r} is not an http:// address")
    return parts.hostname, parts.port or 80, parts.path.rstrip("/")


def note(answer: Answer, event: dict[str, Any], arrived: float) -> None:
    if error := event.get("error"):
        answer.error = f"the stream says: {error}"
    for choice in event.get("choices") or ():
        if text := choice.get("text") or (choice.get("delta") or {}).get("content"):
            answer.arrivals.append(arrived)
            answer.text += text
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
    if usage := event.get("usage"):
        answer.prompt_tokens, answer.completion_tokens = usage["prompt_tokens"], usage["completion_tokens"]
        answer.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)


def fault(load: Load, answer: Answer) -> str | None:
    if answer.completion_tokens != load.max_tokens:
        return f"asked for {load.max_tokens} tokens, got {answer.completion_tokens} ({answer.finish_reason})"
    if len(answer.arrivals) < 2:
        return f"not streamed: {len(answer.arrivals)} events with text"
    return None


async def run(load: Load) -> Figures:
    """Warm the server up with one short request a connection, then measure."""
    connections = [Connection() for _ in range(load.concurrency)]
    warm_up = replace(load, requests=load.concurrency, max_tokens=8, seed=f"{load.seed} warm-up")
    try:
        await answers(warm_up, connections)
        gc.collect()
        gc.freeze()
        cpu_s, begun = time.process_time(), time.perf_counter()
        done = await answers(load, connections)
        seconds, cpu_s = time.perf_counter() - begun, time.process_time() - cpu_s
    finally:
        gc.unfreeze()
        for connection in connections:
            connection.close()
    return summarize(done, seconds, cpu_s)


async def answers(load: Load, connections: list[Connection]) -> list[Answer]:
    numbers = iter(range(load.requests))

    async def keep_asking(connection: Connection) -> list[Answer]:
        return [await ask(load, number, connection) for number in numbers]

    return [answer for some in await asyncio.gather(*map(keep_asking, connections)) for answer in some]


def summarize(done: list[Answer], seconds: float, client_cpu_s: float) -> Figures:
    good = [answer for answer in done if answer.error is None]
    gaps = [gap for answer in good for gap in answer.gaps_ms()]
    first, between = [answer.first_token_ms for answer in good], [answer.token_ms for answer in good]
    return Figures(
        tokens_per_s=sum(answer.completion_tokens for answer in good) / seconds,
        ttft_p50_ms=percentile(first, 50),
        ttft_p99_ms=percentile(first, 99),
        tpot_p50_ms=percentile(between, 50),
        tpot_p99_ms=percentile(between, 99),
        gap_p99_ms=percentile(gaps, 99),
        seconds=seconds,
        prompt_tokens=median(answer.prompt_tokens for answer in good) if good else 0,
        client_cpu_s=client_cpu_s,
        errors=[answer.error for answer in done if answer.error is not None],
    )


def percentile(values: list[float], percent: float) -> float:
    """Return the smallest value that `percent` of all do not exceed; not a number where there are none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


async def pings(url: str, count: int) -> list[float]:
    """Return the milliseconds of so many GETs in a row, over one connection of their own."""
    host, port, path = address(url)
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
    connection, times = Connection(), []
    for _ in range(count):
        begun = time.perf_counter()
        status = await connection.exchange(host, port, request, lambda piece: None)
        times.append((time.perf_counter() - begun) * 1e3)
        if status != 200:
            raise RuntimeError(f"GET {url} answered {status} under load")
        await asyncio.sleep(PING_INTERVAL_S)
    connection.close()
    return times


async def ping_p99_ms(load: Load, ping_url: str, count: int = 200) -> float:
    """Ping while the load runs without end: all its connections are busy from the first ping to the last."""
    connections = [Connection() for _ in range(load.concurrency)]
    busy = asyncio.create_task(answers(replace(load, requests=1_000_000), connections))
    try:
        await asyncio.sleep(0.5)
        times = await pings(ping_url, count)
        if busy.done():
            raise RuntimeError("the load ended before the pings did")
    finally:
        busy.cancel()
        with suppress(asyncio.CancelledError):
            await busy
        for connection in connections:
            connection.close()
    return percentile(times, 99)


def run_alone(load: Load) -> Figures:
    """Run a load in a loop of its own. Raises RuntimeError with the first error of a request."""
    figures = run_loop(run(load))
    if figures.errors:
        raise RuntimeError(figures.errors[0])
    return figures


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop where it is installed: half the processor time."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", required=True)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--prompt-tokens", type=int, default=120)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--api-key")
    parser.add_argument("--chat", action="store_true", help="chat completions instead of text completions")
    parser.add_argument("--seed", default=secrets.token_hex(8), help="of the prompts; default: never the same twice")
    figures = run_loop(run(Load(**vars(parser.parse_args()))))
    for name, value in asdict(figures).items():
        print(f"{name} {value:.2f}" if isinstance(value, float) else f"{name} {value}")
    if figures.errors:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
