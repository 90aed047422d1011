"""Tests of fetching a client's URL: what it may not reach, and each failure as a sentence."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from worker_gguf.errors import DownloadError, InvalidRequest, PayloadTooLarge
from worker_gguf.http.binding import bind
from worker_gguf.http.server import ServerThread
from worker_gguf.store.public_file import _is_public, fetch_public_file

CONTENT = b"line\n" * 1000
hosts: list[str] = []


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
    return Response(gzip.compress(b"0" * (8 << 20)), headers={"Content-Encoding": "gzip"})


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


def fetch(url: str, **more: Any) -> bytes:
    with fetch_public_file(url, **{"most_bytes": 1 << 20, "may_be_private": True, **more}) as file:
        return file.read()


def test_a_file_is_fetched_through_redirects(url: str) -> None:
    assert fetch(f"{url}/file") == CONTENT
    assert fetch(f"{url}/redirect?to=/file") == CONTENT
    assert fetch(f"{url}/redirect?to={url}/file") == CONTENT


def test_an_address_of_ipv6_is_reached() -> None:
    app = Starlette(routes=[Route("/file", serve_file)])
    try:
        sock = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with ServerThread(app, sock) as server:
        assert fetch(f"http://[::1]:{server.port}/file") == CONTENT


def test_a_name_is_looked_up_once_and_its_server_hears_the_name(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = []

    def getaddrinfo(host: str, port: int, *args: object, **more: object) -> list[Any]:
        looked_up.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    hosts.clear()
    port = url.rpartition(":")[2]
    # The connection itself looks up an address, not a name.
    assert fetch(f"http://files.example:{port}/redirect?to=/file") == CONTENT
    assert looked_up.count("files.example") == 2  # the request and the redirect
    assert set(looked_up) <= {"files.example", "127.0.0.1"}
    assert hosts == [f"files.example:{port}"]


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "172.16.5.5", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:10.0.0.1"),
        *("::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::"),
    ],
)
def test_an_address_that_is_not_public_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not _is_public(address)
    found = [(0, 0, 0, "", ("93.184.216.34", 80)), (0, 0, 0, "", (address, 80))]  # one of several is enough
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: found)
    with pytest.raises(InvalidRequest, match=r"'inside\.example' is not on the public internet"):
        fetch("http://inside.example/file", may_be_private=False)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:4700:4700::1111", "64:ff9b::5db8:d822"])
def test_a_public_address_is_allowed(address: str) -> None:
    assert _is_public(address)


def test_a_redirect_is_checked_like_the_first_url(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = iter([True, False])
    monkeypatch.setattr("worker_gguf.store.public_file._is_public", lambda address: next(checked))
    hosts.clear()
    with pytest.raises(InvalidRequest, match="not on the public internet"):
        fetch(f"{url}/redirect?to=/file", may_be_private=False)
    assert hosts == []


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/file", "gopher://127.0.0.1/"])
def test_only_http_is_spoken(url: str, to: str) -> None:
    for wrong in (to, f"{url}/redirect?to={to}"):
        with pytest.raises(InvalidRequest, match=r"must begin with|cannot be fetched"):
            fetch(wrong)


@pytest.mark.parametrize("wrong", ["http://", "http://[::1", "https:///file", "http://:80/"])
def test_a_malformed_url_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidRequest):
        fetch(wrong)


def test_a_redirect_without_end_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be fetched"):
        fetch(f"{url}/loop")


@pytest.mark.parametrize("path", ["/file", "/bomb"])
def test_a_file_over_the_limit_is_refused_also_a_compressed_one(url: str, path: str) -> None:
    with pytest.raises(PayloadTooLarge, match=r"may read\. Split it"):
        fetch(f"{url}{path}", most_bytes=4000)


def test_a_file_that_arrives_too_slowly_is_given_up(url: str) -> None:
    with pytest.raises(DownloadError, match="too slowly"):
        fetch(f"{url}/file", within_s=-1)


def test_an_answer_of_the_server_is_named_without_the_secrets_of_the_url(url: str) -> None:
    with pytest.raises(InvalidRequest, match="its server answered 403") as refused:
        fetch(f"{url}/fail?status=403&signature=secret")
    assert "secret" not in refused.value.message
    with pytest.raises(DownloadError, match="answered 503") as failed:
        fetch(f"{url}/fail?status=503&signature=secret")
    assert (failed.value.retry_after_s, failed.value.retryable) == (7, True)


def test_a_server_that_is_not_there_may_be_there_the_next_time() -> None:
    with bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match="ConnectError"):
        fetch(f"http://127.0.0.1:{port}/file")
