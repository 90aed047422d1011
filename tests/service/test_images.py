"""Tests of getting the images of a request, and of what a model that does not see is told."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from tests.image_files import png, png_of
from worker_gguf.errors import DownloadError, InvalidRequest, PayloadTooLarge, UnsupportedParameter
from worker_gguf.protocol.calls import ChatCall, Defaults, InspectionCall
from worker_gguf.protocol.images import SentImage
from worker_gguf.protocol.models import ModelCard
from worker_gguf.protocol.openai.requests import parse_chat
from worker_gguf.service.images import ImageLimits, ImageLoader, check_images, for_model

LIMITS = ImageLimits(max_images=3, max_bytes=20_000, max_pixels=10_000)
FIRST, SECOND = png(1), png(2)


def sent(data: bytes, number: int = 0) -> SentImage:
    return SentImage(f"messages.0.content.{number}.image_url", data=data)


def linked(name: str, number: int = 0) -> SentImage:
    return SentImage(f"messages.0.content.{number}.image_url", url=f"https://images.example/{name}")


class Site:
    """A site with two images. It answers when all that are expected have been asked for."""

    def __init__(self, n_expected: int = 1) -> None:
        self.asked: list[str] = []
        self._n_expected = n_expected
        self._is_full = asyncio.Event()

    async def fetch(self, url: str) -> bytes:
        self.asked.append(url)
        if len(self.asked) == self._n_expected:
            self._is_full.set()
        await self._is_full.wait()
        return {"first": FIRST, "second": SECOND, "text": b"<html>"}[url.rpartition("/")[2]]


async def test_several_images_are_fetched_at_once_and_come_in_order() -> None:
    site = Site(n_expected=2)
    images = [linked("second", 0), sent(FIRST, 1), linked("first", 2)]
    assert await ImageLoader(LIMITS, site.fetch).load(images) == [SECOND, FIRST, FIRST]


async def test_an_image_that_is_there_twice_is_fetched_once() -> None:
    site = Site()
    first, second, third = await ImageLoader(LIMITS, site.fetch).load([linked("first", n) for n in range(3)])
    assert first is second is third
    assert len(site.asked) == 1


async def test_too_many_images_are_refused_before_any_is_fetched() -> None:
    site = Site()
    with pytest.raises(InvalidRequest, match="100 images, and at most 3 are allowed") as refused:
        await ImageLoader(LIMITS, site.fetch).load([linked("first", n) for n in range(100)])
    assert refused.value.param == "messages.0.content.3.image_url"
    assert site.asked == []


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "is empty"),
        (bytes(20_001), "the largest that is decoded"),
        (png_of(101, 100), "101 x 100 pixels"),
        (png(1)[:-20], "cut off"),
        (png_of(60, 40, lines=bytes(5_000_000)), "unpacks to"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "WebP"),
        (b"%PDF-1.7", "PDF"),
        (b"not an image", "not known"),
    ],
    ids=["empty", "bytes", "pixels", "cut off", "bomb", "svg", "webp", "pdf", "text"],
)
async def test_an_image_that_must_not_be_decoded_is_named_by_its_place(data: bytes, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what) as refused:
        await ImageLoader(LIMITS).load([sent(FIRST, 0), sent(data, 1)])
    assert refused.value.param == "messages.0.content.1.image_url"


async def test_what_a_site_sends_is_checked_like_what_a_client_sends() -> None:
    with pytest.raises(InvalidRequest, match="is a page") as refused:
        await ImageLoader(LIMITS, Site().fetch).load([linked("text", 4)])
    assert refused.value.param == "messages.0.content.4.image_url"


@pytest.mark.parametrize("error", [DownloadError("It is slow."), PayloadTooLarge("It is large.")])
async def test_a_failed_fetch_is_an_error_of_the_request(error: Exception) -> None:
    async def fetch(url: str) -> bytes:
        raise error

    with pytest.raises(InvalidRequest, match=r"It is") as refused:
        await ImageLoader(LIMITS, fetch).load([linked("first")])
    assert (refused.value.param, refused.value.status) == ("messages.0.content.0.image_url", 400)


async def test_a_failed_image_ends_the_fetching_of_the_others() -> None:
    site = Site(n_expected=2)  # which never comes
    with pytest.raises(InvalidRequest, match="cut off"):
        await ImageLoader(LIMITS, site.fetch).load([linked("first", 0), sent(FIRST[:-20], 1)])


async def test_without_image_domains_nothing_is_fetched() -> None:
    with pytest.raises(InvalidRequest, match="IMAGE_DOMAINS") as refused:
        await ImageLoader(LIMITS).load([linked("first")])
    assert refused.value.param == "messages.0.content.0.image_url"


def call_with(role: str) -> ChatCall:
    shown = {"type": "image_url", "image_url": {"url": "https://images.example/a"}}
    called = {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f"}}]}
    messages = [{"role": "user", "content": "a"}, called, {"role": role, "tool_call_id": "c", "content": [shown]}]
    return parse_chat({"messages": messages}, Defaults())


def test_a_model_that_does_not_see_refuses_images_and_says_how_it_could() -> None:
    blind = ModelCard("m", 1, capabilities=("completion",))
    with pytest.raises(UnsupportedParameter, match=r"'m' does not see images.*MMPROJ") as refused:
        for_model(call_with("user"), blind)
    assert refused.value.param == "messages.2.content.0.image_url"
    seeing = replace(blind, capabilities=("completion", "vision"))
    assert for_model(call_with("user"), seeing) == call_with("user")


def test_images_are_refused_before_a_model_is_loaded_that_does_not_see_them() -> None:
    blind = ModelCard("m", 1)
    for call in call_with("user"), InspectionCall(chat=call_with("user")):
        with pytest.raises(UnsupportedParameter, match="'m' does not see images"):
            check_images(blind, call)
        check_images(replace(blind, capabilities=("completion", "vision")), call)
    check_images(blind, call_with("tool"))
    check_images(blind, InspectionCall())


def test_a_model_that_does_not_see_reads_that_a_tool_returned_an_image() -> None:
    call = for_model(call_with("tool"), ModelCard("m", 1))
    assert call.images == ()
    assert call.messages[2]["content"] == [
        {"type": "text", "text": "[The tool returned content of type image, which cannot be shown here.]"}
    ]
