"""The load generator against a small server that answers as OpenAI does, in ways that a test chooses."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from bench.connection import Connection
from bench.load import Answer, Load, ask, percentile, ping_p99_ms, run, summarize

Json = dict[str, Any]


@dataclass
class FakeServer:
    """`answer` gives the events of a request; `cut` is the size of the pieces in which they are sent."""

    answer: Callable[[Json], list[Json]]
    cut: int = 1 << 20
    close_after: int = 1 << 20  # requests on one connection
    status: int = 200
    requests: list[Json] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    n_connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_connections += 1
        try:
            for _ in range(self.close_after):
                await self.answer_one(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if head.startswith("GET /ping "):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            return
        length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
        request = json.loads(await reader.readexactly(length))
        self.requests.append(request)
        self.heads.append(head)
        writer.write(b"HTTP/1.1 %d Fine\r\nTransfer-Encoding: chunked\r\n\r\n" % self.status)
        events = [f"data: {json.dumps(event)}\n\n".encode() for event in self.answer(request)]
        sent = (
            b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in [*events, b"data: [DONE]\n\n"]) + b"0\r\n\r\n"
        )
        for start in range(0, len(sent), self.cut):
            writer.write(sent[start : start + self.cut])
            await writer.drain()
            await asyncio.sleep(0)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        try:
            yield f"http://{host}:{port}/v1"
        finally:
            server.close()


def completion(request: Json, n_tokens: int | None = None) -> list[Json]:
    n = request["max_tokens"] if n_tokens is None else n_tokens
    events: list[Json] = [{"choices": [{"text": "ş", "finish_reason": None}]} for _ in range(n)]
    usage = {"prompt_tokens": 1 + len(request["prompt"].split()), "completion_tokens": n}
    return [*events, {"choices": [{"text": "", "finish_reason": "length"}]}, {"choices": [], "usage": usage}]


def small(url: str, seed: str = "s", api_key: str | None = None, chat: bool = False) -> Load:
    return Load(url, "m", 2, 6, prompt_tokens=9, max_tokens=5, seed=seed, api_key=api_key, chat=chat)


@pytest.mark.parametrize("cut", [1, 2, 7, 1 << 20])
async def test_tokens_are_counted_whatever_the_pieces(cut: int) -> None:
    server = FakeServer(completion, cut)
    async with server.running() as url:
        figures = await run(small(url))
    assert figures.errors == []
    assert figures.tokens_per_s * figures.seconds == pytest.approx(6 * 5)
    assert figures.prompt_tokens == 9
    assert 0 < figures.ttft_p50_ms <= figures.ttft_p99_ms
    assert server.n_connections == 2


async def test_requests_are_streamed_sampled_and_never_the_same_twice() -> None:
    server = FakeServer(completion)
    async with server.running() as url:
        await run(small(url, api_key="secret"))
        await run(small(url, seed="another"))
    assert len({request["prompt"] for request in server.requests}) == len(server.requests) == 2 * (2 + 6)
    request = server.requests[0]
    assert request["ignore_eos"] is True
    assert request["stream"] is True
    assert request["stream_options"] == {"include_usage": True}
    assert (request["temperature"], request["top_k"], request["top_p"]) == (0.8, 40, 0.95)
    assert server.heads[0].startswith("POST /v1/completions HTTP/1.1\r\n")
    assert "Authorization: Bearer secret\r\n" in server.heads[0]
    assert "Authorization" not in server.heads[-1]


async def test_chat_answers_are_read_too() -> None:
    def chat(request: Json) -> list[Json]:
        assert request["messages"][0]["role"] == "user"
        deltas: list[Json] = [{"role": "assistant", "content": ""}, *({"content": "x"} for _ in range(5)), {}]
        events: list[Json] = [{"choices": [{"delta": delta}]} for delta in deltas]
        return [*events, {"choices": [], "usage": {"prompt_tokens": 30, "completion_tokens": 5}}]

    async with FakeServer(chat).running() as url:
        answer = await ask(small(url, chat=True), 0, Connection())
    assert answer.error is None
    assert len(answer.arrivals) == 5


async def test_an_answer_with_other_than_the_asked_tokens_is_an_error() -> None:
    async with FakeServer(lambda request: completion(request, 4)).running() as url:
        figures = await run(small(url))
    assert figures.errors == ["asked for 5 tokens, got 4 (length)"] * 6
    assert figures.tokens_per_s == 0


async def test_a_refusal_is_an_error_with_its_status() -> None:
    server = FakeServer(lambda request: [{"error": {"message": "no"}}], status=429)
    async with server.running() as url:
        answer = await ask(small(url), 0, Connection())
    assert answer.error is not None
    assert "no" in answer.error


async def test_a_connection_closed_between_requests_is_opened_again() -> None:
    server = FakeServer(completion, close_after=2)
    async with server.running() as url:
        figures = await run(small(url))
    assert figures.errors == []
    assert server.n_connections > 2


async def test_no_server_is_an_error_and_no_exception() -> None:
    async with FakeServer(completion).running() as url:
        pass
    answer = await ask(small(url), 0, Connection())
    assert answer.error is not None


async def test_pings_are_timed_while_the_load_runs() -> None:
    server = FakeServer(completion, cut=50)
    async with server.running() as url:
        assert 0 < await ping_p99_ms(small(url), url.replace("/v1", "/ping"), count=3) < 10_000
    assert len(server.requests) > 2


def test_percentiles_are_of_the_values_themselves() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert (percentile(values, 50), percentile(values, 99), percentile(values, 100)) == (50.0, 99.0, 100.0)
    assert percentile([7.0], 99) == 7.0


def test_figures_come_from_good_answers_only() -> None:
    def answer(first: float, last: float, error: str | None = None) -> Answer:
        return Answer(10.0, [10.0 + first, 10.0 + (first + last) / 2, 10.0 + last], 9, 5, "length", error)

    figures = summarize([answer(0.1, 0.5), answer(0.2, 1.0), answer(5.0, 9.0, "lost")], seconds=2.0, client_cpu_s=0.1)
    assert figures.tokens_per_s == 5.0
    assert [figures.ttft_p50_ms, figures.ttft_p99_ms] == pytest.approx([100.0, 200.0])
    assert [figures.tpot_p50_ms, figures.tpot_p99_ms] == pytest.approx([100.0, 200.0])
    assert figures.gap_p99_ms == pytest.approx(400)
    assert figures.errors == ["lost"]
