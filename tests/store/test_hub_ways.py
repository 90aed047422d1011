"""Tests of normal behaviour of the Hub and of other servers: moved names, expired addresses, waits."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.fake_hub import FakeHub
from tests.split_model import split_model
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.errors import DownloadError
from worker_gguf.store import HubRef, UrlRef, ensure, read_remote
from worker_gguf.store.hub import Hub
from worker_gguf.store.tuning import Tuning
from worker_gguf.store.web import open_url

CONTENT = b"GGUF" + random.Random(3).randbytes(700_000)
REF = HubRef("org/repo", quant="Q4_K_M")
SWIFT = Tuning(n_connections=4, piece_bytes=100_000, least_bytes=1, waits_s=(0.01,), stall_s=5.0, poll_s=0.02)


def test_an_expired_address_is_requested_again(hub: FakeHub, tmp_path: Path) -> None:
    """With Xet storage, the Hub gives a signed address, which the CDN refuses after a while."""
    hub.address_uses = 3
    assert ensure(REF, [tmp_path], endpoint=hub.url, tuning=SWIFT).path.read_bytes() == CONTENT
    assert hub.bytes_served == len(CONTENT)
    assert len(hub.requested("HEAD", "/resolve/")) >= 3


def test_an_address_that_is_refused_at_first_is_an_error(hub: FakeHub, tmp_path: Path) -> None:
    hub.address_uses = 0
    with pytest.raises(DownloadError, match="answered 403"):
        ensure(REF, [tmp_path], endpoint=hub.url, tuning=SWIFT)
    assert hub.bytes_served == 0
    assert len(hub.requests) < 100


def test_repository_that_was_renamed_is_found(hub: FakeHub, tmp_path: Path) -> None:
    hub.renamed = {"former/name": "org/repo"}
    ref = HubRef("former/name", quant="Q4_K_M")
    model = ensure(ref, [tmp_path], endpoint=hub.url, tuning=SWIFT)
    assert model.path.read_bytes() == CONTENT
    hub.requests.clear()
    assert ensure(ref, [tmp_path], endpoint=hub.url, tuning=SWIFT).path == model.path
    assert hub.requests == []


def test_hub_that_asks_to_wait_is_given_the_time(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    hub.retry_after, hub.fail_once = "7", [429]
    assert ensure(REF, [tmp_path], endpoint=hub.url, tuning=SWIFT).path.read_bytes() == CONTENT
    assert 7 in waits


def test_a_file_that_changes_during_the_download_is_not_mixed(hub: FakeHub, tmp_path: Path) -> None:
    hub.pages["/m.gguf"] = CONTENT
    hub.bytes_per_s = 2e6

    def change(done: int, _total: int) -> None:
        if done > 100_000:
            hub.pages["/m.gguf"] = b"GGUF" + bytes(len(CONTENT) - 4)

    with pytest.raises(DownloadError, match="changed on its server"):
        ensure(UrlRef(f"{hub.url}/m.gguf"), [tmp_path], None, change, tuning=SWIFT)
    assert not list(tmp_path.glob("urls/*/*.gguf"))
    hub.bytes_per_s = None
    assert ensure(UrlRef(f"{hub.url}/m.gguf"), [tmp_path], tuning=SWIFT).path.read_bytes() == hub.pages["/m.gguf"]


def test_a_file_that_becomes_shorter_than_a_range_has_changed(hub: FakeHub) -> None:
    hub.pages["/m.gguf"] = CONTENT
    file = open_url(f"{hub.url}/m.gguf")
    hub.pages["/m.gguf"] = CONTENT[:10]
    with pytest.raises(DownloadError, match="changed on its server"):
        next(file.read(100, 200))


def test_split_model_in_a_folder_is_inspected_by_its_headers_alone(hub: FakeHub, tmp_path: Path) -> None:
    shutil.copy(MODEL_PATH, tmp_path / "m-Q8_0.gguf")
    parts = split_model(tmp_path / "m-Q8_0.gguf", tmp_path)
    hub.repo("org/split", {f"Q8_0/{path.name}": path.read_bytes() for path in parts})
    remote = read_remote(HubRef("org/split", quant="q8_0"), Hub(None, hub.url))
    assert remote.files == tuple(f"Q8_0/{path.name}" for path in parts)
    assert remote.size_bytes == sum(path.stat().st_size for path in parts)
    assert {tensor.part for tensor in remote.header.tensors} == {0, 1}
    served = {request.range for request in hub.requested("GET", "/cdn/")}
    assert len(served) == 1  # each part from its front, once, and no further
    assert hub.bytes_served == sum(min(256 << 10, path.stat().st_size) for path in parts)
    assert hub.bytes_served < remote.size_bytes / 4


@pytest.mark.parametrize(
    "ref",
    [
        "Org/Repo:q8_0",
        "org/repo/Q8_0/m-Q8_0-00001-of-00002.gguf",
        "org/repo/q8_0/M-Q8_0-00002-of-00002.gguf@v1",
        "org/repo:Q8_0@v1",
        "https://huggingface.co/org/repo/blob/main/Q8_0/m-Q8_0-00001-of-00002.gguf",
        "hf.co/org/repo:Q8_0",
    ],
)
def test_every_spelling_leads_to_all_parts_in_their_folder(hub: FakeHub, tmp_path: Path, ref: str) -> None:
    from worker_gguf.store import ModelRef

    parts = {f"Q8_0/m-Q8_0-0000{n}-of-00002.gguf": b"GGUF" + bytes([n]) * 1000 for n in (1, 2)}
    others = {"m-Q4_K_M.gguf": CONTENT, "mmproj-F16.gguf": b"GGUFp", "m-draft-Q8_0.gguf": b"GGUFd"}
    hub.repo("org/repo").push(parts | others)
    hub.repo("org/repo").push(parts | others, branch="v1")
    hub.renamed = {"Org/Repo": "org/repo"}  # the Hub's names have no case either
    parsed = ModelRef.parse(ref)
    model = ensure(parsed, [tmp_path], endpoint=hub.url, tuning=SWIFT)
    assert [path.read_bytes() for path in model.paths] == list(parts.values())
    assert hub.bytes_served == 2008
    hub.requests.clear()
    assert ensure(parsed, [tmp_path], endpoint=hub.url, tuning=SWIFT).paths == model.paths
    assert hub.requests == []


@pytest.mark.parametrize(("kind", "name"), [("mmproj", "mmproj-F16.gguf"), ("draft", "m-draft-Q8_0.gguf")])
def test_projector_and_draft_are_found_next_to_their_model_without_requests(
    hub: FakeHub, tmp_path: Path, kind: str, name: str
) -> None:
    files = {"m-Q4_K_M.gguf": CONTENT, "mmproj-F16.gguf": b"GGUFp", "m-draft-Q8_0.gguf": b"GGUFd"}
    hub.repo("org/repo").push(files)
    ensure(REF, [tmp_path], endpoint=hub.url, tuning=SWIFT)
    beside = ensure(HubRef("org/repo"), [tmp_path], endpoint=hub.url, tuning=SWIFT, kind=kind)  # type: ignore[arg-type]
    assert beside.path.name == name
    hub.requests.clear()
    again = ensure(HubRef("org/repo"), [tmp_path], endpoint=hub.url, tuning=SWIFT, kind=kind)  # type: ignore[arg-type]
    assert again.path == beside.path
    assert hub.requests == []
