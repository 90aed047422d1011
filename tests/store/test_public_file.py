"""Tests of fetching a client's URL: what it may not reach, and each failure as a sentence."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from worker_gguf.errors import DownloadError, InvalidRequest, PayloadTooLarge
from worker_gguf.http.binding import bind
from worker_gguf.http.server import ServerThread
from worker_gguf.store.public_file import fetch_public_file, is_public

CONTENT = b"line\n" * 1000
hosts: list[str] = []
encodings: list[str] = []


async def serve_file(request: Request) -> Response:
    hosts.append(request.headers["host"])
    return Response(CONTENT)


async def redirect(request: Request) -> Response:
    return RedirectResponse(request.query_params["to"])


async def loop(request: Request) -> Response:
    return RedirectResponse("/loop")


async def fail(request: Request) -> Response:
    return Response(status_code=int(request.query_params["status"]), headers={"Retry-After": "7"})


async def bomb(request: Request) -> Response:
    encodings.append(request.headers["accept-encoding"])
    nested = gzip.compress(gzip.compress(b"0" * (8 << 20)))
    return Response(nested, headers={"Content-Encoding": "gzip, gzip"})


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    routes = [
        Route("/file", serve_file),
        Route("/redirect", redirect),
        Route("/loop", loop),
        Route("/fail", fail),
        Route("/bomb", bomb),
    ]
    with ServerThread(Starlette(routes=routes), bind("127.0.0.1", 0)) as server:
        yield server.url


async def fetch(url: str, **more: Any) -> bytes:
    with await fetch_public_file(url, **{"most_bytes": 1 << 20, "may_be_private": True, **more}) as file:
        return file.read()


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw_server(serve: Serve) -> AsyncIterator[str]:
    """Yield the URL of a server that answers each request with what `serve` writes. Waits for their ends."""
    answering: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # the client has closed the connection
            await reader.readuntil(b"\r\n\r\n")
            await serve(reader, writer)
        with suppress(OSError):
            writer.close()
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(asyncio.create_task(answer(reader, writer)))

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"
        await asyncio.gather(*answering)


async def drip(writer: asyncio.StreamWriter, head: bytes, piece: bytes) -> None:
    writer.write(head)
    while True:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)


async def test_a_file_is_fetched_through_redirects(url: str) -> None:
    assert await fetch(f"{url}/file") == CONTENT
    assert await fetch(f"{url}/redirect?to=/file") == CONTENT
    assert await fetch(f"{url}/redirect?to={url}/file") == CONTENT


async def test_an_address_of_ipv6_is_reached() -> None:
    app = Starlette(routes=[Route("/file", serve_file)])
    try:
        sock = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with ServerThread(app, sock) as server:
        assert await fetch(f"http://[::1]:{server.port}/file") == CONTENT


async def test_a_name_is_looked_up_once_and_its_server_hears_the_name(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = []

    def getaddrinfo(host: str, port: int, *args: object, **more: object) -> list[Any]:
        looked_up.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    hosts.clear()
    port = url.rpartition(":")[2]
    # The connection itself looks up an address, not a name.
    assert await fetch(f"http://files.example:{port}/redirect?to=/file") == CONTENT
    assert looked_up.count("files.example") == 2  # the request and the redirect
    assert set(looked_up) <= {"files.example", "127.0.0.1"}
    assert hosts == [f"files.example:{port}"]


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "172.16.5.5", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:10.0.0.1"),
        *("::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::"),
        *("fec0::1", "feff::1", "64:ff9b:1::7f00:1", "::7f00:1", "::93.184.216.34", "192.0.0.192", "2001:0:7f00:1::"),
    ],
)
async def test_an_address_that_is_not_public_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_public(address)
    found = [(0, 0, 0, "", ("93.184.216.34", 80)), (0, 0, 0, "", (address, 80))]  # one of several is enough
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: found)
    with pytest.raises(InvalidRequest, match=r"'inside\.example' is not on the public internet"):
        await fetch("http://inside.example/file", may_be_private=False)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:4700:4700::1111", "64:ff9b::5db8:d822", "::ffff:93.184.216.34"]
)
def test_a_public_address_is_allowed(address: str) -> None:
    assert is_public(address)


async def test_a_redirect_is_checked_like_the_first_url(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = iter([True, False])
    monkeypatch.setattr("worker_gguf.store.public_file.is_public", lambda address: next(checked))
    hosts.clear()
    with pytest.raises(InvalidRequest, match="not on the public internet"):
        await fetch(f"{url}/redirect?to=/file", may_be_private=False)
    assert hosts == []


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/file", "gopher://127.0.0.1/"])
async def test_only_http_is_spoken(url: str, to: str) -> None:
    for wrong in (to, f"{url}/redirect?to={to}"):
        with pytest.raises(InvalidRequest, match=r"must begin with|cannot be fetched"):
            await fetch(wrong)


@pytest.mark.parametrize("wrong", ["http://", "http://[::1", "https:///file", "http://:80/"])
async def test_a_malformed_url_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidRequest):
        await fetch(wrong)


async def test_a_redirect_without_end_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be fetched"):
        await fetch(f"{url}/loop")


async def test_a_file_over_the_limit_is_refused(url: str) -> None:
    with pytest.raises(PayloadTooLarge, match=r"may read\. Split it"):
        await fetch(f"{url}/file", most_bytes=4000)


async def test_a_file_without_a_length_is_refused_at_the_limit() -> None:
    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await drip(writer, b"HTTP/1.1 200 OK\r\n\r\n", b"0" * 1000)

    async with raw_server(endless) as url:
        with pytest.raises(PayloadTooLarge, match=r"may read\. Split it"):
            await fetch(url, most_bytes=1 << 20)


async def test_a_compressed_file_is_refused_without_decoding_it(url: str) -> None:
    encodings.clear()
    with pytest.raises(InvalidRequest, match="Content-Encoding 'gzip, gzip'"):
        await fetch(f"{url}/bomb", most_bytes=1 << 30)
    assert encodings == ["identity"]


async def test_the_body_of_a_redirect_is_not_read(url: str) -> None:
    head = f"HTTP/1.1 302 Found\r\nLocation: {url}/file\r\n\r\n".encode()

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await drip(writer, head, b"0" * 1000)

    async with raw_server(endless) as redirecting:
        assert await fetch(redirecting) == CONTENT


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX-Header: ", b""])
async def test_a_dripping_server_is_left_at_the_time_limit(head: bytes) -> None:
    """Each byte restarts the limit of a read, in the body as in the headers."""

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while not reader.at_eof():
            writer.write(b"H")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with raw_server(slow) as url:
        with pytest.raises(DownloadError, match=r"did not arrive within 0\.2 s"):
            await fetch(url, within_s=0.2)


async def test_cancelling_closes_the_connection() -> None:
    is_asked = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nstart")
        is_asked.set()
        await reader.read()  # to the end of the connection

    async with raw_server(hang) as url:
        task = asyncio.create_task(fetch(url))
        await is_asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_an_answer_of_the_server_is_named_without_the_secrets_of_the_url(url: str) -> None:
    with pytest.raises(InvalidRequest, match="its server answered 403") as refused:
        await fetch(f"{url}/fail?status=403&signature=secret")
    assert "secret" not in refused.value.message
    with pytest.raises(DownloadError, match="answered 503") as failed:
        await fetch(f"{url}/fail?status=503&signature=secret")
    assert (failed.value.retry_after_s, failed.value.retryable) == (7, True)


async def test_a_server_that_is_not_there_may_be_there_the_next_time() -> None:
    with bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match="ConnectError"):
        await fetch(f"http://127.0.0.1:{port}/file")
