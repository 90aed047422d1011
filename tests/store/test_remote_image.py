"""Tests of images by URL: from which hosts they come, and what a redirect may not do. Failures: test_public_file.py."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from tests.image_files import png
from worker_gguf.errors import DownloadError, InvalidRequest, PayloadTooLarge
from worker_gguf.http.binding import bind
from worker_gguf.http.server import ServerThread
from worker_gguf.store.public_file import is_public
from worker_gguf.store.remote_image import RemoteImages

IMAGE = png(1)
ADDRESSES = {"inside.example": "10.0.0.5", "meta.example": "169.254.169.254", "v6.example": "::1"}


async def serve_image(request: Request) -> Response:
    return Response(IMAGE, media_type="image/png")


async def redirect(request: Request) -> Response:
    return RedirectResponse(request.query_params["to"])


async def wait(request: Request) -> Response:
    while not await request.is_disconnected():
        await asyncio.sleep(0.01)
    return Response()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    routes = [Route("/a.png", serve_image), Route("/to", redirect), Route("/slow", wait)]
    with ServerThread(Starlette(routes=routes), bind("127.0.0.1", 0)) as server:
        yield server.port


class Names:
    """Looks up names without a network: those that are not listed lead to the server of the test."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def look_up(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return [ADDRESSES.get(host, host if host[0].isdigit() else "127.0.0.1")]


def remote(*hosts: str, names: Names | None = None, most_bytes: int = 1 << 20, within_s: float = 20.0) -> RemoteImages:
    """Return what fetches images from these hosts, for which the server of the test counts as a public one."""
    return RemoteImages(
        hosts,
        most_bytes,
        within_s=within_s,
        look_up=(names or Names()).look_up,
        allows_address=lambda address: address == "127.0.0.1" or is_public(address),
    )


@pytest.mark.parametrize(
    ("hosts", "host"),
    [
        (("images.example",), "images.example"),
        (("other.example", "images.example"), "IMAGES.example."),
        (("*.example",), "a.images.example"),
        (("*",), "anything.test"),
    ],
)
async def test_an_image_comes_from_a_host_that_is_allowed(port: int, hosts: tuple[str, ...], host: str) -> None:
    assert await remote(*hosts).fetch(f"http://{host}:{port}/a.png") == IMAGE


@pytest.mark.parametrize(
    ("hosts", "host"),
    [
        (("images.example",), "example"),
        (("images.example",), "a.images.example"),
        (("images.example",), "images.example.evil.test"),
        (("*.example",), "example"),
        (("*.images.example",), "evilimages.example"),
        (("images.example",), "127.0.0.1"),
        (("images.example",), "[::1]"),
    ],
)
async def test_another_host_is_refused_before_it_is_looked_up(port: int, hosts: tuple[str, ...], host: str) -> None:
    names = Names()
    with pytest.raises(InvalidRequest, match="IMAGE_DOMAINS"):
        await remote(*hosts, names=names).fetch(f"http://{host}:{port}/a.png")
    assert names.asked == []


async def test_who_the_user_is_does_not_count_as_the_host(port: int) -> None:
    with pytest.raises(InvalidRequest, match="IMAGE_DOMAINS"):
        await remote("images.example").fetch(f"http://images.example@evil.test:{port}/a.png")


@pytest.mark.parametrize("host", [*ADDRESSES, "10.1.2.3", "192.168.0.1", "0.0.0.0"])
async def test_an_address_that_is_not_public_is_refused_even_where_every_host_is_allowed(port: int, host: str) -> None:
    with pytest.raises(InvalidRequest, match="not on the public internet"):
        await remote("*").fetch(f"http://{host}:{port}/a.png")


async def test_without_a_test_this_machine_is_not_public(port: int) -> None:
    with pytest.raises(InvalidRequest, match="not on the public internet"):
        await RemoteImages(["*"], 1 << 20).fetch(f"http://127.0.0.1:{port}/a.png")


async def test_a_redirect_is_checked_and_looked_up_like_the_first_url(port: int) -> None:
    names = Names()
    images = remote("images.example", "other.example", "inside.example", names=names)
    start = f"http://images.example:{port}/to?to="
    assert await images.fetch(f"{start}http://other.example:{port}/a.png") == IMAGE
    assert names.asked == ["images.example", "other.example"]
    with pytest.raises(InvalidRequest, match="IMAGE_DOMAINS"):
        await images.fetch(f"{start}http://evil.test:{port}/a.png")
    with pytest.raises(InvalidRequest, match="not on the public internet"):
        await images.fetch(f"{start}http://inside.example:{port}/a.png")
    with pytest.raises(InvalidRequest, match="must begin with"):
        await images.fetch(f"{start}file:///etc/passwd")


async def test_a_large_image_and_a_slow_server_are_left(port: int) -> None:
    with pytest.raises(PayloadTooLarge, match="MAX_IMAGE_MB"):
        await remote("*", most_bytes=1000).fetch(f"http://images.example:{port}/a.png")
    with pytest.raises(DownloadError, match=r"within 0\.2 s"):
        await remote("*", within_s=0.2).fetch(f"http://images.example:{port}/slow")
