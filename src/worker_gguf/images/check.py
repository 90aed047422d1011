"""Decides whether an image may be decoded: by its kind, its size and its dimensions, which its own header states.

The decoder is a C library in the engine process. It allocates what the header claims, and unpacks whatever there is. So
a file that claims or unpacks to too much, or ends too early, is refused before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from worker_gguf.errors import InvalidRequest
from worker_gguf.images import bmp, gif, jpeg, png
from worker_gguf.images.faults import ImageFault

__all__ = ["ImageBounds", "ImageInfo", "check_content", "check_image"]

# A longer strip would be scaled to nothing in one direction. Qwen's own preprocessing has the same limit.
_MOST_RATIO: Final = 200
_KINDS: Final[tuple[tuple[str, bytes, Callable[[bytes], tuple[int, int]]], ...]] = (
    ("PNG", png.SIGNATURE, png.dimensions),
    ("JPEG", b"\xff\xd8\xff", jpeg.dimensions),
    ("GIF", b"GIF8", gif.dimensions),
    ("BMP", b"BM", bmp.dimensions),
)
# Kinds that are sent by mistake, and the bytes by which they are known.
_OTHERS: Final = (
    ("WebP", 8, b"WEBP"),
    ("AVIF", 4, b"ftypavif"),
    ("HEIC", 4, b"ftyphei"),
    ("HEIC", 4, b"ftypmif1"),
    ("TIFF", 0, b"II*\0"),
    ("TIFF", 0, b"MM\0*"),
    ("PDF", 0, b"%PDF"),
    ("JPEG XL", 0, b"\xff\x0a"),
    ("JPEG 2000", 4, b"jP  "),
    ("Photoshop", 0, b"8BPS"),
    ("icon", 0, b"\0\0\1\0"),
)


class ImageBounds(Struct, frozen=True):
    """The largest image that may be decoded."""

    max_bytes: int
    max_pixels: int


class ImageInfo(Struct, frozen=True):
    """What an image says of itself."""

    kind: str
    width: int
    height: int


def check_image(data: bytes, bounds: ImageBounds, *, name: str = "The image", param: str | None = None) -> ImageInfo:
    """Return what an image says of itself. Raises InvalidRequest if it must not be decoded.

    This takes microseconds, except for a JPEG, of which a megabyte takes a millisecond. `check_content` must follow.
    `name` is the subject of the error's sentences, and `param` its field of the request's body.
    """
    try:
        return _checked(data, bounds)
    except ImageFault as fault:
        raise InvalidRequest(f"{name} {fault}", param=param) from None


def check_content(data: bytes, *, name: str = "The image", param: str | None = None) -> None:
    """Raise InvalidRequest if an image that `check_image` let pass unpacks to something else than it says.

    A PNG of a megabyte takes some milliseconds, so this is not for the event loop.
    """
    if data.startswith(png.SIGNATURE):
        try:
            png.check_content(data)
        except ImageFault as fault:
            raise InvalidRequest(f"{name} {fault}", param=param) from None


def _checked(data: bytes, bounds: ImageBounds) -> ImageInfo:
    if not data:
        raise ImageFault("is empty.")
    if len(data) > bounds.max_bytes:
        raise ImageFault(f"has {_mb(len(data))}, and the largest that is decoded has {_mb(bounds.max_bytes)}.")
    for kind, signature, dimensions in _KINDS:
        if data.startswith(signature):
            width, height = dimensions(data)
            _check_dimensions(width, height, bounds.max_pixels)
            return ImageInfo(kind, width, height)
    raise ImageFault(f"{_what_else(data)} Send a PNG, a JPEG, a GIF or a BMP.")


def _check_dimensions(width: int, height: int, max_pixels: int) -> None:
    if width <= 0 or height <= 0:
        raise ImageFault(f"is {width} x {height} pixels, which is nothing to see.")
    if width * height > max_pixels:
        most = max_pixels / 1e6
        raise ImageFault(f"is {width} x {height} pixels, and the largest that is decoded has {most:g} million.")
    if max(width, height) > _MOST_RATIO * min(width, height):
        raise ImageFault(f"is {width} x {height} pixels: no side may be over {_MOST_RATIO} times as long as the other.")


def _what_else(data: bytes) -> str:
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"<svg") or (start.startswith((b"<?xml", b"<!DOCTYPE", b"<!--")) and b"<svg" in start):
        return "is an SVG, a drawing that would have to be rendered."
    if start[:1] == b"<":
        return "is a page or a document of markup, and no image."
    for kind, at, mark in _OTHERS:
        if data.startswith(mark, at):
            return f"is of a kind that cannot be decoded here ({kind})."
    return "is of a kind that is not known."


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:.3g} MiB"
