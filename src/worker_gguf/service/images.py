"""Gets the files of the images in a request, and refuses what must not be decoded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from worker_gguf.errors import DownloadError, InvalidRequest, RequestError, UnsupportedParameter
from worker_gguf.protocol.calls import ChatCall, CompletionCall, InfillCall, InspectionCall
from worker_gguf.protocol.history import without_images
from worker_gguf.protocol.images import SentImage
from worker_gguf.protocol.models import ModelCard
from worker_gguf.protocol.pooling.calls import PoolingCall

__all__ = ["Fetch", "ImageLimits", "ImageLoader", "check_images", "for_model"]

AnyCall = TypeVar("AnyCall", bound=ChatCall | CompletionCall | InfillCall)

Fetch = Callable[[str], Awaitable[bytes]]
"""Fetches the image of a URL. Raises a RequestError or a DownloadError."""


class ImageLimits(Struct, frozen=True):
    """The limits of the images in a request: their number, and the size of each. The defaults are the settings'."""

    max_images: int = 20
    max_bytes: int = 20 << 20
    max_pixels: int = 50_000_000


class ImageLoader:
    """Returns the files of images. Several are fetched at once. Can be used on several event loops."""

    def __init__(self, limits: ImageLimits = ImageLimits(), fetch: Fetch | None = None) -> None:  # noqa: B008 - frozen
        self._limits = limits
        self._fetch = fetch

    async def load(self, images: Sequence[SentImage]) -> list[bytes]:
        """Return the files of images in their order. Raises InvalidRequest, which names the place of a wrong one."""
        if not images:
            return []
        if len(images) > (most := self._limits.max_images):
            raise InvalidRequest(
                f"The request has {len(images)} images, and at most {most} are allowed (MAX_IMAGES). Send fewer.",
                param=images[most].param,
            )
        # An image that was sent twice is fetched once, and is the same file in both places.
        sources: dict[tuple[str, bytes], SentImage] = {}
        for image in images:
            sources.setdefault((image.url, image.data), image)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {source: group.create_task(self._file(image)) for source, image in sources.items()}
        except ExceptionGroup as failed:
            # The first one in the conversation: those after it were cancelled, or failed in the same moment.
            raise failed.exceptions[0] from None
        return [tasks[image.url, image.data].result() for image in images]

    async def _file(self, image: SentImage) -> bytes:
        data = await self._fetched(image) if image.url else image.data
        # In a thread: to check some megabytes takes milliseconds.
        await asyncio.to_thread(self._check, image, data)
        return data

    async def _fetched(self, image: SentImage) -> bytes:
        if self._fetch is None:
            raise InvalidRequest(
                f"Invalid '{image.param}': images are not fetched from other servers here. Send the image itself as a "
                "data URL, or in Base64. The operator of the worker can allow hosts with IMAGE_DOMAINS.",
                param=image.param,
            )
        try:
            return await self._fetch(image.url)
        except (RequestError, DownloadError) as error:
            raise InvalidRequest(f"Invalid '{image.param}': {error.message}", param=image.param) from None

    def _check(self, image: SentImage, data: bytes) -> None:
        from worker_gguf.images import ImageBounds, check_content, check_image  # with the first image

        bounds = ImageBounds(self._limits.max_bytes, self._limits.max_pixels)
        # Some dialects have no field for the place of an error.
        name = f"Invalid '{image.param}': the image"
        check_image(data, bounds, name=name, param=image.param)
        check_content(data, name=name, param=image.param)


def for_model(call: AnyCall, card: ModelCard) -> AnyCall:
    """Return the call as a model can take it.

    One that does not see gets a text in the place of an image that a tool returned, because a client cannot choose what
    a tool returns. Raises UnsupportedParameter for other images.
    """
    if not isinstance(call, ChatCall) or not call.images or "vision" in card.capabilities:
        return call
    sent = next((image for image in call.images if not image.is_returned), None)
    if sent is None:
        return replace(call, messages=without_images(call.messages), images=())
    raise UnsupportedParameter(
        f"The model {card.id!r} does not see images: it has no projector here. Put its projector, a file that is often "
        "called mmproj, beside the model, or set MMPROJ to it (with MODELS, `mmproj` of its entry); or send text only.",
        param=sent.param,
    )


def check_images(card: ModelCard, call: ChatCall | CompletionCall | InfillCall | InspectionCall | PoolingCall) -> None:
    """Raise UnsupportedParameter if a call has images that its model does not see."""
    match call:
        case ChatCall():
            for_model(call, card)
        case InspectionCall(chat=ChatCall() as chat):
            for_model(chat, card)
