"""Tests of compressed bodies."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest

from tests.http.serving import CHAT, Served, serving
from worker_gguf.errors import InvalidRequest, PayloadTooLarge
from worker_gguf.http.encoding import decode

BODY = json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode()
LIMIT = 100_000


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(max_body_bytes=LIMIT) as served:
        yield served


def raw_deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(body) + compressor.flush()


@pytest.mark.parametrize(
    ("coding", "content"),
    [
        ("gzip", gzip.compress(BODY)),
        ("GZIP", gzip.compress(BODY)),
        ("x-gzip", gzip.compress(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", raw_deflate(BODY)),
        ("identity", BODY),
        ("", BODY),
        ("identity, gzip", gzip.compress(BODY)),
    ],
)
def test_a_compressed_body_is_decoded(served: Served, coding: str, content: bytes) -> None:
    reply = served.client.post(CHAT, content=content, headers={"Content-Encoding": coding})
    assert reply.status_code == 200
    assert served.backend.calls[-1][2] == json.loads(BODY)


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "compress", "gzip, br"])
def test_another_coding_is_a_415_that_names_the_header_and_the_accepted_codings(served: Served, coding: str) -> None:
    reply = served.client.post(CHAT, content=BODY, headers={"Content-Encoding": coding})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (415, "unsupported_encoding")
    assert "Content-Encoding" in error["message"]
    assert "gzip or deflate" in error["message"]
    assert reply.headers["accept-encoding"] == "gzip, deflate"


def test_two_header_lines_are_two_codings(served: Served) -> None:
    headers = [("Content-Encoding", "gzip"), ("Content-Encoding", "gzip")]
    assert served.client.post(CHAT, content=gzip.compress(BODY), headers=headers).status_code == 415


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (gzip.compress(BODY)[:-1], "ends before its gzip data"),
        (gzip.compress(BODY)[:15], "ends before its gzip data"),
        (BODY, "is not gzip"),
        (gzip.compress(BODY)[:-8] + b"\0" * 8, "is not gzip"),
        (gzip.compress(BODY) + b"more", "continues after its gzip data"),
        (gzip.compress(BODY) * 2, "continues after its gzip data"),
        (gzip.compress(b"\xff"), "not UTF-8"),
        (gzip.compress(b""), "is empty"),
        (b"", "is empty"),
    ],
)
def test_what_is_not_whole_gzip_is_a_400(served: Served, content: bytes, what: str) -> None:
    reply = served.client.post(CHAT, content=content, headers={"Content-Encoding": "gzip"})
    assert reply.status_code == 400
    assert what in reply.json()["error"]["message"]


def test_the_limit_counts_decoded_bytes(served: Served) -> None:
    padded = BODY + b" " * (LIMIT - len(BODY))
    for content, status in (padded, 200), (padded + b" ", 413):
        reply = served.client.post(CHAT, content=gzip.compress(content), headers={"Content-Encoding": "gzip"})
        assert reply.status_code == status
    assert reply.json()["error"]["code"] == "payload_too_large"
    assert "decoded" in reply.json()["error"]["message"]


def test_a_bomb_is_refused_without_being_decoded() -> None:
    bomb = zlib.compress(bytes(100_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge):
            decode(bomb, "deflate", 1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_body_compressed_beyond_the_limit_is_a_413(served: Served) -> None:
    reply = served.client.post(CHAT, content=b"x" * (LIMIT + 1), headers={"Content-Encoding": "gzip"})
    assert reply.status_code == 413


def test_a_get_needs_no_decoding(served: Served) -> None:
    assert served.client.get("/v1/models", headers={"Content-Encoding": "br"}).status_code == 200


@pytest.mark.parametrize("raw", [b"", b"\x78", b"\x78\x9c", b"\x1f\x8b"])
def test_the_beginning_of_a_body_is_not_a_body(raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode(raw, "deflate", LIMIT)
