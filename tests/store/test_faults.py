"""Tests of faults of the Hub, the network and the disk: a verified file, or an error and no file."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.fake_hub import FakeHub
from worker_gguf.errors import DownloadError, ModelInvalid, ModelNotFound
from worker_gguf.store import ModelRef, UrlRef, ensure
from worker_gguf.store.cache import Cache
from worker_gguf.store.ref import HubRef
from worker_gguf.store.tuning import Tuning

CONTENT = b"GGUF" + random.Random(1).randbytes(700_000)
REF = HubRef("org/repo", quant="Q4_K_M")
SWIFT = Tuning(
    n_connections=4, piece_bytes=100_000, least_bytes=1, waits_s=(0.01,), stall_s=5.0,
    heartbeat_s=0.2, takeover_s=1.0, poll_s=0.02,
)  # fmt: skip


def _shown(cache: Path) -> list[Path]:
    return [*cache.glob("models--*/blobs/*"), *cache.glob("urls/*/*"), *cache.rglob("snapshots/*/*")]


@pytest.mark.parametrize("seed", range(3))
def test_connections_cut_at_random_bytes(hub: FakeHub, tmp_path: Path, seed: int) -> None:
    hub.cuts = random.Random(seed)
    assert ensure(REF, [tmp_path], endpoint=hub.url, tuning=SWIFT).path.read_bytes() == CONTENT
    assert hub.bytes_served == len(CONTENT)


def test_ranges_are_fetched_side_by_side(hub: FakeHub, tmp_path: Path) -> None:
    ensure(REF, [tmp_path], endpoint=hub.url, tuning=SWIFT)
    assert len(hub.requested("GET", "/cdn/")) == 8
    assert len(hub.requested("HEAD", "/resolve/")) == 1


def test_wrong_byte_is_thrown_away_and_fetched_again(hub: FakeHub, tmp_path: Path) -> None:
    hub.wrong_bytes = 1
    assert ensure(REF, [tmp_path], endpoint=hub.url, tuning=SWIFT).path.read_bytes() == CONTENT
    assert hub.bytes_served == 2 * len(CONTENT)


def test_bytes_that_stay_wrong_are_an_error_and_leave_nothing(hub: FakeHub, tmp_path: Path) -> None:
    hub.wrong_bytes = 1000
    with pytest.raises(DownloadError, match="wrong SHA-256"):
        ensure(REF, [tmp_path], endpoint=hub.url, tuning=SWIFT)
    assert _shown(tmp_path) == []
    assert [path for path in (tmp_path / ".locks").rglob("*") if path.is_file()] == []


def test_trickle_is_cut_and_another_connection_opened(hub: FakeHub, tmp_path: Path) -> None:
    hub.trickles = 1
    tuning = Tuning(n_connections=2, piece_bytes=400_000, least_bytes=1000, waits_s=(0.01,), stall_s=0.3)
    assert ensure(REF, [tmp_path], endpoint=hub.url, tuning=tuning).path.read_bytes() == CONTENT


def test_a_connection_that_only_trickles_is_closed(hub: FakeHub, tmp_path: Path) -> None:
    hub.trickles = 1000
    tuning = Tuning(n_connections=1, least_bytes=1000, waits_s=(0.01,), stall_s=0.15, n_attempts=2)
    with pytest.raises(DownloadError, match="too slowly"):
        ensure(REF, [tmp_path], endpoint=hub.url, tuning=tuning)
    assert _shown(tmp_path) == []


def test_a_failing_file_server_is_retried(hub: FakeHub, tmp_path: Path) -> None:
    fresh = ensure(REF, [tmp_path / "a"], endpoint=hub.url, tuning=SWIFT)
    n_before = len(hub.requests)
    hub.fail_files = [503, 429, 500, 403]
    again = ensure(REF, [tmp_path / "b"], endpoint=hub.url, tuning=SWIFT)
    assert again.path.read_bytes() == fresh.path.read_bytes()
    statuses = len(hub.requests) - n_before
    assert statuses >= 1 + 1 + 8 + 4


def test_retry_after_is_obeyed_up_to_a_bound(hub: FakeHub, tmp_path: Path) -> None:
    hub.retry_after = "3600"
    hub.fail_files = [429] * 100
    with pytest.raises(DownloadError, match="answered 429") as caught:
        ensure(REF, [tmp_path], endpoint=hub.url, tuning=SWIFT)
    assert caught.value.retry_after_s == 3600


def test_a_disk_that_becomes_full_during_a_download_keeps_its_bytes(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, room = os.pwrite, [400_000]

    def pwrite(number: int, content: Any, at: int) -> int:
        room[0] -= len(content)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(number, content, at)

    monkeypatch.setattr("os.pwrite", pwrite)
    with pytest.raises(DownloadError, match="full"):
        ensure(REF, [tmp_path], endpoint=hub.url, tuning=SWIFT)
    assert _shown(tmp_path) == []
    room[0] = 10**9
    hub.bytes_served = 0
    assert ensure(REF, [tmp_path], endpoint=hub.url, tuning=SWIFT).path.read_bytes() == CONTENT
    assert hub.bytes_served < len(CONTENT)


def test_volume_that_vanishes_in_the_middle_is_a_sentence(hub: FakeHub, tmp_path: Path) -> None:
    cache = tmp_path / "volume"
    hub.bytes_per_s = 2e6

    def vanish(done: int, _total: int) -> None:
        if done > 100_000 and cache.is_dir():
            shutil.rmtree(cache, ignore_errors=True)
            shutil.rmtree(cache, ignore_errors=True)
            cache.touch()

    with pytest.raises(DownloadError):
        ensure(REF, [cache], progress=vanish, endpoint=hub.url, tuning=SWIFT)


def test_read_only_volume_with_the_model_is_enough(hub: FakeHub, tmp_path: Path) -> None:
    ensure(REF, [tmp_path], endpoint=hub.url, tuning=SWIFT)
    for path in (tmp_path, *tmp_path.rglob("*")):
        if path.is_dir():
            path.chmod(0o555)
    hub.requests.clear()
    try:
        assert ensure(REF, [tmp_path], endpoint=hub.url).path.read_bytes() == CONTENT
    finally:
        for path in (tmp_path, *tmp_path.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
    assert hub.requests == []


def test_stale_lease_is_taken_over(hub: FakeHub, tmp_path: Path) -> None:
    lease = Cache(tmp_path).lease(hashlib.sha256(CONTENT).hexdigest())
    lease.parent.mkdir(parents=True)
    lease.write_text('{"holder": "dead", "beat": 9, "bytes_done": 350000}')
    heard: list[int] = []
    model = ensure(REF, [tmp_path], None, lambda done, _total: heard.append(done), endpoint=hub.url, tuning=SWIFT)
    assert model.path.read_bytes() == CONTENT
    assert 350_000 in heard  # what the holder said, while it was waited for
    assert not lease.exists()


def test_a_cancelled_start_stops_the_download(hub: FakeHub, tmp_path: Path) -> None:
    hub.bytes_per_s = 1e6

    class GivenUp(Exception):
        pass

    def give_up(done: int, _total: int) -> None:
        if done:
            raise GivenUp

    with pytest.raises(GivenUp):
        ensure(REF, [tmp_path], None, give_up, endpoint=hub.url, tuning=SWIFT)
    assert _shown(tmp_path) == []
    hub.bytes_per_s = None
    assert ensure(REF, [tmp_path], endpoint=hub.url, tuning=SWIFT).path.read_bytes() == CONTENT


def test_two_revisions_share_equal_files(hub: FakeHub, tmp_path: Path) -> None:
    old = ensure(REF, [tmp_path], endpoint=hub.url, tuning=SWIFT)
    hub.repo("org/repo").push({"m-Q4_K_M.gguf": CONTENT, "m-Q8_0.gguf": b"GGUF8"}, branch="v2")
    hub.bytes_served = 0
    new = ensure(HubRef("org/repo", "Q4_K_M", revision="v2"), [tmp_path], endpoint=hub.url, tuning=SWIFT)
    assert hub.bytes_served == 0
    assert new.path != old.path
    assert new.path.samefile(old.path)


def test_blob_of_another_size_is_replaced(hub: FakeHub, tmp_path: Path) -> None:
    blob = Cache(tmp_path).blob("org/repo", hashlib.sha256(CONTENT).hexdigest())
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"half")
    assert ensure(REF, [tmp_path], endpoint=hub.url, tuning=SWIFT).path.read_bytes() == CONTENT


def test_where_links_cannot_be_made_the_file_itself_is_shown(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_more: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    first = ensure(REF, [tmp_path], endpoint=hub.url, tuning=SWIFT)
    assert not first.path.is_symlink()
    hub.requests.clear()
    assert ensure(REF, [tmp_path], endpoint=hub.url).path.read_bytes() == CONTENT
    assert hub.requests == []


def test_link_that_leaves_the_cache_is_neither_read_nor_written_through(hub: FakeHub, tmp_path: Path) -> None:
    elsewhere, cache = tmp_path / "elsewhere", tmp_path / "cache"
    model = ensure(REF, [elsewhere], endpoint=hub.url, tuning=SWIFT)
    cache.mkdir()
    (cache / "models--org--repo").symlink_to(elsewhere / "models--org--repo")
    with pytest.raises(DownloadError, match="symbolic link"):
        ensure(REF, [cache], endpoint=hub.url, tuning=SWIFT)
    (cache / "models--org--repo").unlink()
    snapshot = cache / model.path.parent.relative_to(elsewhere)
    snapshot.mkdir(parents=True)
    (snapshot / model.path.name).symlink_to(tmp_path / "secret.gguf")
    (tmp_path / "secret.gguf").write_bytes(b"GGUF other")
    assert ensure(REF, [cache], endpoint=hub.url, tuning=SWIFT).path.read_bytes() == CONTENT
    assert (tmp_path / "secret.gguf").read_bytes() == b"GGUF other"


# --- plain web servers ------------------------------------------------------------------------------------------------


def test_url_is_fetched_once(hub: FakeHub, tmp_path: Path) -> None:
    hub.pages["/dir/m.gguf"] = CONTENT
    ref = ModelRef.parse(f"{hub.url}/dir/m.gguf?X-Amz-Signature=one")
    first = ensure(ref, [tmp_path], tuning=SWIFT)
    assert first.path.read_bytes() == CONTENT
    assert first.path.relative_to(tmp_path).parts[0] == "urls"
    assert first.path.name == "m.gguf"
    hub.requests.clear()
    again = ensure(ModelRef.parse(f"{hub.url}/dir/m.gguf?X-Amz-Signature=two"), [tmp_path], tuning=SWIFT)
    assert (again.path, again.source) == (first.path, "cache")
    assert hub.requests == []


def test_the_download_of_a_url_continues_where_it_broke(hub: FakeHub, tmp_path: Path) -> None:
    hub.pages["/m.gguf"] = CONTENT
    hub.cuts = random.Random(5)
    assert ensure(UrlRef(f"{hub.url}/m.gguf"), [tmp_path], tuning=SWIFT).path.read_bytes() == CONTENT
    assert hub.bytes_served <= len(CONTENT) + 1  # and the byte that asked for its size


def test_server_without_ranges_serves_all(hub: FakeHub, tmp_path: Path) -> None:
    hub.pages["/m.gguf"] = CONTENT
    hub.has_ranges = False
    assert ensure(UrlRef(f"{hub.url}/m.gguf"), [tmp_path], tuning=SWIFT).path.read_bytes() == CONTENT


def test_web_page_is_no_model(hub: FakeHub, tmp_path: Path) -> None:
    hub.pages["/m.gguf"] = b"<html>log in</html>"
    with pytest.raises(ModelInvalid, match="not a GGUF file"):
        ensure(UrlRef(f"{hub.url}/m.gguf"), [tmp_path], tuning=SWIFT)
    assert _shown(tmp_path) == []


def test_address_that_leads_nowhere_is_a_sentence(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="answered 404"):
        ensure(UrlRef(f"{hub.url}/absent.gguf?sig=secret"), [tmp_path], tuning=SWIFT)
