"""Images in the messages of a conversation: the forms in which clients send them, as one frozen value.

What is in an image is checked later, because only the model that answers knows its limits.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from worker_gguf.protocol.validation import invalid, required

__all__ = ["SentImage", "image_in", "image_of_base64", "image_of_url", "image_part", "images_of", "with_images"]

_DATA_URL: Final = re.compile(r"data:([^;,]*)((?:;[^;,]*)*),", re.IGNORECASE)
_MOST_OF_HEAD: Final = 256
_NO_EFFECT: Final = (None, "auto")

Part = Mapping[str, Any]
Message = Mapping[str, Any]


class SentImage(Struct, frozen=True):
    """An image as a client sent it: its file, or the URL of a server, which has not been asked yet.

    `param` is its place in the body, in the names of the dialect, and `unread` are the places of what has no effect.
    It `is_returned` if a tool returned it.
    """

    param: str
    data: bytes = b""
    url: str = ""
    unread: tuple[str, ...] = ()
    is_returned: bool = False

    def __repr__(self) -> str:
        """Leave out the image, so that it reaches no log."""
        return f"SentImage({self.param!r})"


def image_of_base64(param: str, text: str, unread: tuple[str, ...] = ()) -> SentImage:
    """Return the image of a text in Base64. Raises InvalidRequest."""
    try:
        # Some tools write Base64 in lines.
        return SentImage(param, base64.b64decode("".join(text.split()), validate=True), unread=unread)
    except (binascii.Error, ValueError):
        raise invalid(param, "must be an image in Base64") from None


def image_of_url(param: str, url: object, unread: tuple[str, ...] = ()) -> SentImage:
    """Return the image of a data URL, or of the URL of a server. Raises InvalidRequest."""
    if url is None:
        raise required(param)
    if not isinstance(url, str):
        raise invalid(param, "must be a text: a data URL, or a URL that begins with https:// or http://")
    if url[:5].lower() == "data:":
        return image_of_base64(param, _content(param, url), unread)
    if url[:8].lower().startswith(("https://", "http://")):
        return SentImage(param, url=url, unread=unread)
    raise invalid(param, "must be a data URL, or begin with https:// or http://")


def image_part(image: SentImage) -> dict[str, Any]:
    """Return the part of a message in the common form that shows an image."""
    return {"type": "image", "image": image}


def image_in(part: Part) -> SentImage | None:
    """Return the image of a part that shows one. What a client calls an image is none: only `image_part` makes them."""
    image = part.get("image")
    return image if isinstance(image, SentImage) else None


def images_of(messages: Sequence[Message]) -> Iterator[SentImage]:
    """Return the images of a conversation in their order."""
    for message in messages:
        if isinstance(content := message.get("content"), list):
            yield from filter(None, map(image_in, content))


def with_images(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with each part `image_url` as one that shows an image. Raises InvalidRequest."""
    return [_with_images(f"messages.{place}", message) for place, message in enumerate(messages)]


def _with_images(param: str, message: Message) -> Message:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    is_returned = message.get("role") in ("tool", "function")
    parts: list[Part] = []
    for number, part in enumerate(content):
        shown = _read(f"{param}.content.{number}", part)
        if is_returned and (image := image_in(shown)) is not None:
            shown = image_part(replace(image, is_returned=True))
        parts.append(shown)
    return {**message, "content": parts}


def _read(param: str, part: Part) -> Part:
    if part.get("type") != "image_url":
        return part
    at = f"{param}.image_url"
    sent = part.get("image_url")
    if not isinstance(sent, dict):  # some clients send the URL alone
        return image_part(image_of_url(at, sent))
    # llama-server and OpenAI read nothing else of it.
    unread = tuple(f"{at}.{name[:64]}" for name in sent if name != "url" and sent[name] not in _NO_EFFECT)
    return image_part(image_of_url(at if "url" in sent else f"{at}.url", sent.get("url"), unread))


def _content(param: str, url: str) -> str:
    """Return the Base64 of a data URL."""
    head = _DATA_URL.match(url[:_MOST_OF_HEAD])
    if head is None:
        raise invalid(param, "must have the form data:image/png;base64,... if it is a data URL")
    kind, options = head[1].strip().lower(), head[2].lower().split(";")
    if not kind.startswith("image/"):
        raise invalid(param, "must be of a type that begins with image/ if it is a data URL")
    if "base64" not in map(str.strip, options):
        raise invalid(param, "must have its data in Base64 if it is a data URL: data:image/png;base64,...")
    return url[head.end() :]
