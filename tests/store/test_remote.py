"""Tests of reading a header from the Hub by ranges: few requests, few bytes, each failure a sentence."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import models
from bench.gguf_file import TensorType
from tests.fake_hub import FakeHub
from worker_gguf.errors import DownloadError, ModelInvalid, ModelNotFound
from worker_gguf.gguf import read_header
from worker_gguf.store import HubRef, read_remote
from worker_gguf.store.hub import Hub
from worker_gguf.store.remote import LONGEST_READ_BYTES, RangeReader
from worker_gguf.store.select import by_labels

REF = HubRef("org/repo", quant="Q8_0")


@pytest.fixture(scope="module")
def large_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """128k tokens and 300k merges before a few weights."""
    shape = models.Shape("vocab", 1, 64, 64, 1, 1, 512, 7, TensorType.Q8_0, TensorType.Q8_0)
    return models.ensure(shape, tmp_path_factory.mktemp("models"))


@pytest.fixture
def hub(large_vocabulary: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr("time.sleep", lambda _s: None)
    with FakeHub() as hub:
        files = {"m-Q8_0.gguf": large_vocabulary.read_bytes(), "m-Q4_K_M.gguf": b"GGUF" + bytes(100)}
        hub.repo("org/repo", files)
        yield hub
    from huggingface_hub import close_session

    close_session()


def test_the_header_is_the_files_own(hub: FakeHub, large_vocabulary: Path) -> None:
    remote = read_remote(REF, Hub(None, hub.url))
    assert remote.header == read_header(large_vocabulary)
    assert remote.files == ("m-Q8_0.gguf",)
    assert remote.size_bytes == large_vocabulary.stat().st_size
    assert remote.commit == hub.repo("org/repo").branches["main"]


def test_a_large_vocabulary_costs_few_requests_and_few_bytes(hub: FakeHub, large_vocabulary: Path) -> None:
    header = read_remote(REF, Hub(None, hub.url)).header
    assert len(hub.requested("GET", "/cdn/")) <= 6
    assert hub.bytes_served <= header.data_offset + LONGEST_READ_BYTES
    assert all(request.range for request in hub.requested("GET", "/cdn/"))
    assert len(hub.requests) <= 9  # the listing, where the file is, and the ranges


def test_the_token_is_sent_to_the_hub_and_not_to_its_cdn(hub: FakeHub) -> None:
    hub.repo("org/repo").token = "secret"
    read_remote(REF, Hub("secret", hub.url))
    assert {request.token for request in hub.requested("HEAD", "/resolve/")} == {"secret"}
    assert {request.token for request in hub.requested("GET", "/cdn/")} == {None}


def test_the_quant_that_the_caller_prefers_is_read(hub: FakeHub) -> None:
    asked: list[dict[str, int]] = []

    def largest(sizes: object) -> list[str]:
        asked.append(dict(sizes))  # type: ignore[call-overload]
        return sorted(asked[0], key=lambda label: -asked[0][label])

    assert read_remote(HubRef("org/repo"), Hub(None, hub.url), by_labels(largest)).files == ("m-Q8_0.gguf",)
    assert set(asked[0]) == {"Q8_0", "Q4_K_M"}


@pytest.mark.parametrize(("quant", "error"), [("Q3_K", ModelNotFound), ("Q4_K_M", ModelInvalid)])
def test_a_missing_file_or_one_that_is_not_a_model_is_an_error(
    hub: FakeHub, quant: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        read_remote(HubRef("org/repo", quant=quant), Hub(None, hub.url))


def test_a_connection_cut_in_the_middle_is_a_download_error(hub: FakeHub) -> None:
    hub.cut_after = 1000
    with pytest.raises(DownloadError):
        read_remote(REF, Hub(None, hub.url))


def test_a_reader_returns_the_bytes_of_the_file_at_any_position() -> None:
    content = bytes(range(256)) * 40_000
    reads: list[int] = []

    def fetch(first: int, end: int) -> bytes:
        reads.append(end - first)
        return content[first:end]

    reader = RangeReader("m", len(content), fetch)
    assert reader.read(4) == content[:4]
    reader.seek(1_000_000)
    assert reader.read(10) == content[1_000_000:1_000_010]
    reader.seek(2)
    assert reader.read(2) == content[2:4]
    assert len(reads) == 2
    reader.seek(-3, io.SEEK_END)
    assert reader.read() == content[-3:]
    assert reader.read(1) == b""
    assert max(reads) <= LONGEST_READ_BYTES
