"""Tests of the check of images: what may be decoded, and what each other file is told."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.image_files import png, png_chunk, png_of
from worker_gguf.errors import InvalidRequest
from worker_gguf.images import ImageBounds, ImageInfo, check_content
from worker_gguf.images import check_image as check_header

BOUNDS = ImageBounds(max_bytes=1 << 20, max_pixels=1_000_000)


def check_image(data: bytes, bounds: ImageBounds, **named: str) -> ImageInfo:
    """Check an image as both processes do."""
    info = check_header(data, bounds, **named)
    check_content(data, **named)
    return info


def jpeg(width: int = 30, height: int = 20, n_scans: int = 1, frame: int = 0xC0) -> bytes:
    """Return a JPEG with empty scans: its parts are as they should be, and its data is not."""
    size = struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes([1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0])
    scan = b"\xff\xda" + struct.pack(">HB", 8, 1) + bytes([1, 0, 0, 63, 0]) + b"\x12\xff\x00\x34\xff\xd0\x56"
    thumbnail = b"\xff\xe1" + struct.pack(">H", 6) + b"\xff\xc0\xff\xd9"
    return b"\xff\xd8" + thumbnail + b"\xff" + bytes([frame]) + size + n_scans * scan + b"\xff\xd9"


def gif(width: int = 30, height: int = 20, image_width: int | None = None) -> bytes:
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    comment = b"\x21\xfe\x03abc\x00"
    image = b"\x2c" + struct.pack("<HHHHB", 0, 0, image_width or width, height, 0x81) + bytes(12)
    return b"GIF89a" + screen + comment + image + b"\x02\x02\x4c\x01\x00\x3b"


def bmp(width: int = 30, height: int = 20, compression: int = 0) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, compression, 0, 0, 0, 0, 0)
    lines = bytes(abs(height) * (-(-width * 24 // 32) * 4))
    return b"BM" + struct.pack("<IHHI", 54 + len(lines), 0, 0, 54) + header + lines


IMAGES = {"PNG": png(1, 30, 20), "JPEG": jpeg(), "GIF": gif(), "BMP": bmp()}


@pytest.mark.parametrize("kind", IMAGES)
def test_the_dimensions_of_each_kind_are_read(kind: str) -> None:
    assert check_image(IMAGES[kind], BOUNDS) == ImageInfo(kind, 30, 20)


@pytest.mark.parametrize("data", [jpeg(frame=0xC2, n_scans=8), bmp(height=-20), png_of(30, 20, interlace=1)])
def test_other_forms_of_them_are_read(data: bytes) -> None:
    assert (check_image(data, BOUNDS).width, check_image(data, BOUNDS).height) == (30, 20)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("interlace", [0, 1])
@given(st.integers(1, 20), st.integers(1, 20))
def test_every_form_of_png_unpacks_to_what_its_dimensions_say(
    depth: int, interlace: int, width: int, height: int
) -> None:
    data = png_of(width, height, depth=depth, interlace=interlace)
    assert check_image(data, BOUNDS) == ImageInfo("PNG", width, height)


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_that_is_cut_off_anywhere_is_refused(kind: str) -> None:
    data = IMAGES[kind]
    end = data.rindex(b"IEND") if kind == "PNG" else len(data) - (2 if kind == "GIF" else 1)
    for n in [*range(2, min(end, 200)), end - 1, end]:
        with pytest.raises(InvalidRequest):
            check_image(data[:n], BOUNDS)
    with pytest.raises(InvalidRequest, match="cut off"):
        check_image(data[:end], BOUNDS)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (png_of(60_000, 60_000, lines=b""), "60000 x 60000 pixels, and the largest that is decoded has 1 million"),
        (jpeg(5000, 5000), "5000 x 5000 pixels"),
        (gif(1001, 1000), "1001 x 1000 pixels"),
        (png_of(2, 500), "over 200 times as long"),
        (jpeg(0, 20), "nothing to see"),
    ],
)
def test_dimensions_beyond_the_bounds_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        check_image(data, BOUNDS)


def test_data_that_unpacks_to_more_than_the_dimensions_say_is_refused_early() -> None:
    data = png_of(10, 10, lines=bytes(300 << 20))
    assert len(data) < BOUNDS.max_bytes
    with pytest.raises(InvalidRequest, match="unpacks to more than its dimensions"):
        check_image(data, BOUNDS)


def test_data_that_unpacks_to_less_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="cut off"):
        check_image(png_of(100, 100, lines=bytes(100)), BOUNDS)


def test_data_that_cannot_be_unpacked_is_refused() -> None:
    data = png(1).replace(zlib.compress(b"")[:2], b"\xff\xff", 1)
    with pytest.raises(InvalidRequest, match="damaged"):
        check_image(data, BOUNDS)


def test_a_jpeg_with_many_scans_or_two_headers_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="more than 100 scans"):
        check_image(jpeg(n_scans=101), BOUNDS)
    with pytest.raises(InvalidRequest, match="two headers"):
        check_image(jpeg()[:-2] + jpeg()[2:], BOUNDS)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is empty"),
        (png(1) + bytes(1 << 20), "largest that is decoded has 1 MiB"),
        (b'\xef\xbb\xbf <?xml version="1.0"?><!-- a --><svg width="10"/>', "an SVG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG"),
        (b"<!DOCTYPE html><html></html>", "a page or a document"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "cannot be decoded here .WebP."),
        (b"\0\0\0\x20ftypheic", "HEIC"),
        (b"%PDF-1.7", "PDF"),
        (b"P6 100000 100000 255\n", "not known"),
        (b"8BPS" + bytes(20), "Photoshop"),
        (b"ID3" + bytes(20), "not known"),
        (jpeg(frame=0xC9), "arithmetic"),
        (b"\xff\xd8\xff\xd9", "no image in it"),
        (gif(image_width=31), "larger than the whole"),
        (bmp(compression=1), "compressed BMP"),
        (b"\x89PNG\r\n\x1a\n" + png_chunk(b"CgBI", bytes(4)) + png(1)[8:], "does not begin with its header"),
    ],
)
def test_what_is_no_image_that_can_be_decoded_is_told_why(data: bytes, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        check_image(data, BOUNDS)


def test_the_error_names_the_image_and_its_field() -> None:
    with pytest.raises(InvalidRequest, match=r"^Image 3 is empty\.$") as caught:
        check_image(b"", BOUNDS, name="Image 3", param="messages")
    assert caught.value.param == "messages"


@given(st.sampled_from(list(IMAGES)), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=5))
def test_a_damaged_image_is_refused_or_read_and_nothing_else(kind: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(IMAGES[kind])
    for at, value in changes:
        data[at % len(data)] = value
    try:
        info = check_image(bytes(data), BOUNDS)
    except InvalidRequest:
        return
    assert 0 < info.width * info.height <= BOUNDS.max_pixels


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM"]))
def test_any_bytes_are_refused_or_read(data: bytes, start: bytes) -> None:
    try:
        check_image(start + data, BOUNDS)
    except InvalidRequest:
        return
