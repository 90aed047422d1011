"""Tests of a model in byte pieces: fetched, verified and stored as one file."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.fake_hub import FakeHub
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.errors import DownloadError, ModelNotFound
from worker_gguf.store import Hub, HubRef, ModelRef, ensure, locate, read_remote
from worker_gguf.store.cache import Cache
from worker_gguf.store.joined import JoinedDigest, JoinedFile
from worker_gguf.store.parallel_fetch import Digest
from worker_gguf.store.prune import kept_models
from worker_gguf.store.tuning import Tuning
from worker_gguf.store.verify import matches_record
from worker_gguf.store.web import WebFile

CONTENT = b"GGUF" + random.Random(7).randbytes(300_000)
CUTS = (0, 100_000, 170_001, len(CONTENT))
PIECES = {f"m.Q8_0.gguf.part{number}of3": CONTENT[begin:end] for number, (begin, end) in enumerate(pairwise(CUTS), 1)}
Q8 = HubRef("org/repo", quant="Q8_0")


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.repo("org/repo", {"m.Q4_K_M.gguf": b"GGUF4", **PIECES})
        yield hub
    from huggingface_hub import close_session

    close_session()


def tuning(**changes: object) -> Tuning:
    values: dict[str, object] = {"piece_bytes": 30_000, "waits_s": (0.0,), "n_connections": 4}
    return Tuning(**values | changes)  # type: ignore[arg-type]


def test_pieces_become_one_file_with_every_byte_fetched_once(hub: FakeHub, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    model = ensure(
        Q8, [tmp_path], endpoint=hub.url, progress=lambda done, of: heard.append((done, of)), tuning=tuning()
    )
    commit = hub.repo("org/repo").branches["main"]
    assert model.paths == (tmp_path / "models--org--repo/snapshots" / commit / "m.Q8_0.gguf",)
    assert model.path.read_bytes() == CONTENT
    assert (model.size_bytes, model.name) == (len(CONTENT), "org/repo/m.Q8_0.gguf")
    assert hub.bytes_served == len(CONTENT)
    assert heard[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in (tmp_path / "models--org--repo/blobs").iterdir()] == [model.path.resolve().name]


def test_the_second_time_nothing_is_asked(hub: FakeHub, tmp_path: Path) -> None:
    ensure(Q8, [tmp_path], endpoint=hub.url, tuning=tuning())
    hub.requests.clear()
    for ref in Q8, ModelRef.parse("org/repo/m.Q8_0.gguf"), ModelRef.parse("org/repo/m.Q8_0.gguf.part2of3"):
        found = locate(ref, [tmp_path])
        assert found is not None
        assert found.path.name == "m.Q8_0.gguf"
    assert hub.requests == []


def test_a_connection_that_breaks_anywhere_is_continued(hub: FakeHub, tmp_path: Path) -> None:
    hub.cuts = random.Random(3)
    model = ensure(Q8, [tmp_path], endpoint=hub.url, tuning=tuning(n_attempts=50))
    assert model.path.read_bytes() == CONTENT


def test_a_wrong_byte_is_found_and_all_is_fetched_again(hub: FakeHub, tmp_path: Path) -> None:
    hub.wrong_bytes = 1
    model = ensure(Q8, [tmp_path], endpoint=hub.url, tuning=tuning())
    assert model.path.read_bytes() == CONTENT


def test_wrong_bytes_twice_are_an_error_and_no_file(hub: FakeHub, tmp_path: Path) -> None:
    hub.wrong_bytes = 1000
    with pytest.raises(DownloadError, match=r"m\.Q8_0\.gguf had a wrong SHA-256 twice"):
        ensure(Q8, [tmp_path], endpoint=hub.url, tuning=tuning())
    assert list(tmp_path.rglob("*.gguf")) == []
    assert locate(Q8, [tmp_path]) is None


def test_the_joined_file_is_one_model_to_pruning_and_has_no_digest_to_verify(hub: FakeHub, tmp_path: Path) -> None:
    model = ensure(Q8, [tmp_path], endpoint=hub.url, tuning=tuning())
    (kept,) = kept_models(Cache(tmp_path))
    assert kept.size_bytes == len(CONTENT)
    assert kept.names == {model.path}
    assert matches_record(model.path) is None


def test_the_header_is_read_across_pieces_before_the_download(hub: FakeHub) -> None:
    whole = MODEL_PATH.read_bytes()
    half = 20_000
    hub.repo("org/real", {"r.Q8_0.gguf.part1of2": whole[:half], "r.Q8_0.gguf.part2of2": whole[half:]})
    remote = read_remote(HubRef("org/real", quant="Q8_0"), Hub(endpoint=hub.url))
    assert (remote.files, remote.size_bytes) == (("r.Q8_0.gguf",), len(whole))
    assert remote.header.architecture == "llama"


def test_pieces_on_this_machine_are_refused_by_name(tmp_path: Path) -> None:
    for name, content in PIECES.items():
        (tmp_path / name).write_bytes(content)
    first = tmp_path / "m.Q8_0.gguf.part1of3"
    with pytest.raises(
        ModelNotFound, match=r"is one of 3 byte pieces .* in order into m\.Q8_0\.gguf, or write org/repo"
    ):
        locate(ModelRef.parse(str(first)), [])
    with pytest.raises(ModelNotFound, match=r"only byte pieces \(m\.Q8_0\.gguf\.part1of3, .*part2of3"):
        locate(ModelRef.parse(str(tmp_path)), [])


class Bytes(WebFile):
    def __init__(self, content: bytes) -> None:
        super().__init__("piece", lambda: "", len(content))
        self._content = content

    def read(self, first: int, end: int, timeout_s: float = 30.0) -> Iterator[bytes]:
        assert 0 <= first < end <= self.size_bytes
        yield self._content[first:end]


def test_any_range_of_the_joined_file_can_be_read() -> None:
    joined = JoinedFile("m", [Bytes(b"abc"), Bytes(b""), Bytes(b"defg"), Bytes(b"h")])
    for first in range(9):
        for end in range(first, 9):
            assert b"".join(joined.read(first, end)) == b"abcdefgh"[first:end]


def test_the_digest_of_pieces_does_not_depend_on_how_the_bytes_come() -> None:
    pieces = [
        (3, Digest("sha256", hashlib.sha256(b"abc").hexdigest())),
        (4, Digest("git", hashlib.sha1(b"blob 4\0defg", usedforsecurity=False).hexdigest())),
        (1, Digest("sha256", hashlib.sha256(b"h").hexdigest())),
    ]
    digest = JoinedDigest.from_pieces(pieces)
    for step in range(1, 9):
        running = digest.begin(8)
        for at in range(0, 8, step):
            running.update(b"abcdefgh"[at : at + step])
        assert running.hexdigest() == digest.hexadecimal
    wrong = digest.begin(8)
    wrong.update(b"abcdefgX")
    assert wrong.hexdigest() != digest.hexadecimal
