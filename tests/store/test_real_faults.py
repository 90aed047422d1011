"""Tests with real full or read-only disks, and real volumes that lie about locks or go away."""

from __future__ import annotations

import fcntl
import json
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.fake_hub import FakeHub
from tests.store.fuse_volume import mounted, why_not
from tests.store.swarm import FAST, swarm
from worker_gguf.errors import DownloadError
from worker_gguf.store import UsageMark, ensure
from worker_gguf.store.ref import HubRef
from worker_gguf.store.tuning import Tuning

CONTENT = b"GGUF" + random.Random(2).randbytes(3 << 20)
REF = HubRef("org/repo", quant="Q4_K_M")
SWIFT = Tuning(
    n_connections=4, piece_bytes=1 << 18, least_bytes=1, waits_s=(0.01,), stall_s=5.0,
    heartbeat_s=0.2, takeover_s=1.0, poll_s=0.02, sync_s=0.05,
)  # fmt: skip
needs_fuse = pytest.mark.skipif(why_not() is not None, reason=f"no FUSE mount: {why_not()}")


@contextmanager
def disk(at: Path, options: str) -> Iterator[Path]:
    """Mount a real file system in memory inside this context."""
    at.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "test", str(at)], check=False, capture_output=True)
    if made.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {made.stderr.decode().strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def shown(cache: Path) -> list[Path]:
    return [*cache.glob("models--*/blobs/*"), *cache.rglob("snapshots/*/*")]


def once(act: Callable[[], object]) -> Callable[[int, int], None]:
    """Return a progress function that acts once when a third of the bytes is there."""
    left = [act]

    def progress(done: int, total: int) -> None:
        if done > total // 3 and left:
            left.pop()()

    return progress


def test_a_disk_that_becomes_full_keeps_the_downloaded_bytes(hub: FakeHub, tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "size=5m") as volume:
        hub.bytes_per_s = 6e6
        filler = volume / "filler"

        def fill() -> None:
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass

        with pytest.raises(DownloadError, match=r"is full\. Everything fetched so far is kept"):
            ensure(REF, [volume], None, once(fill), endpoint=hub.url, tuning=SWIFT)
        assert shown(volume) == []
        filler.unlink()
        hub.bytes_served, hub.bytes_per_s = 0, None
        assert ensure(REF, [volume], endpoint=hub.url, tuning=SWIFT).path.read_bytes() == CONTENT
        assert 0 < hub.bytes_served < len(CONTENT)


def test_a_disk_that_is_too_small_is_an_error_before_the_first_byte(hub: FakeHub, tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "size=2m") as volume:
        with pytest.raises(DownloadError, match="GiB free and the model needs"):
            ensure(REF, [volume], endpoint=hub.url, tuning=SWIFT)
        assert hub.bytes_served == 0


def test_a_read_only_volume_serves_its_models_and_reports_that_it_cannot_be_written(
    hub: FakeHub, tmp_path: Path
) -> None:
    with disk(tmp_path / "disk", "size=16m") as volume:
        ensure(REF, [volume], endpoint=hub.url, tuning=SWIFT)
        subprocess.run(["mount", "-o", "remount,ro", str(volume)], check=True)
        hub.requests.clear()
        model = ensure(REF, [volume], endpoint=hub.url, tuning=SWIFT)
        assert model.path.read_bytes() == CONTENT
        assert hub.requests == []
        hold = UsageMark(model.paths, volume)  # cannot be marked, and nobody prunes there
        hold.release()
        hub.repo("org/other", {"m-Q4_K_M.gguf": CONTENT})
        with pytest.raises(DownloadError, match="Set MODEL_CACHE_DIR to a writable folder"):
            ensure(HubRef("org/other"), [volume], endpoint=hub.url, tuning=SWIFT)


def test_a_read_only_volume_comes_before_a_writable_cache(hub: FakeHub, tmp_path: Path) -> None:
    own = tmp_path / "own"
    with disk(tmp_path / "disk", "size=16m,ro") as volume:
        model = ensure(REF, [volume, own], endpoint=hub.url, tuning=SWIFT)
        assert own in model.path.parents
        assert list(volume.iterdir()) == []


@needs_fuse
def test_locks_that_everybody_gets_change_nothing(tmp_path: Path) -> None:
    with mounted(tmp_path / "files", tmp_path / "mount"):
        with (tmp_path / "mount" / "x").open("w") as one, (tmp_path / "mount" / "x").open("w") as two:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the mount lies
        with swarm(tmp_path / "mount" / "hub", 4 << 20, 4 << 20) as workers:
            workers.start(3)
            workers.wait_served(1 << 20)
            workers.kill(workers.leader())
            workers.finish()
            assert workers.ratio <= 1.5


@needs_fuse
def test_a_volume_that_goes_away_in_the_middle_is_a_sentence_and_nothing_is_lost(hub: FakeHub, tmp_path: Path) -> None:
    hub.bytes_per_s = 2e6
    with mounted(tmp_path / "files", tmp_path / "mount") as server:
        volume = tmp_path / "mount" / "hub"

        def go_away() -> None:
            server.send_signal(signal.SIGKILL)

        with pytest.raises(DownloadError, match=r"Check the volume"):
            ensure(REF, [volume], None, once(go_away), endpoint=hub.url, tuning=SWIFT)
    hub.bytes_served, hub.bytes_per_s = 0, None
    with mounted(tmp_path / "files", tmp_path / "mount"):
        assert ensure(REF, [volume], endpoint=hub.url, tuning=SWIFT).path.read_bytes() == CONTENT
    assert 0 < hub.bytes_served < len(CONTENT)


@needs_fuse
def test_a_model_on_a_volume_that_is_gone_is_a_sentence(hub: FakeHub, tmp_path: Path) -> None:
    with mounted(tmp_path / "files", tmp_path / "mount") as server:
        volume = tmp_path / "mount" / "hub"
        ensure(REF, [volume], endpoint=hub.url, tuning=SWIFT)
        server.kill()
        server.wait()
        with pytest.raises(DownloadError, match="Check the volume"):
            ensure(REF, [volume], endpoint=hub.url, tuning=SWIFT)


def test_a_holder_that_is_killed_is_followed_within_the_time(tmp_path: Path) -> None:
    with swarm(tmp_path, 8 << 20, 4 << 20) as workers:
        workers.start(2)
        workers.wait_served(2 << 20)
        leader = workers.leader()
        workers.kill(leader)
        killed_at = time.monotonic()
        heir = workers.leader()
        assert heir.pid != leader.pid
        assert time.monotonic() - killed_at < 10 * FAST["takeover_s"]
        workers.finish()


def test_a_frozen_holder_does_no_harm_when_it_thaws(tmp_path: Path) -> None:
    with swarm(tmp_path, 8 << 20, 4 << 20) as workers:
        workers.start(2)
        workers.wait_served(2 << 20)
        frozen = workers.leader()
        frozen.send_signal(signal.SIGSTOP)
        until = time.monotonic() + 20
        while (text := _text(workers.lease)) == "" or json.loads(text)["pid"] == frozen.pid:
            assert time.monotonic() < until
            time.sleep(0.02)
        frozen.send_signal(signal.SIGCONT)
        workers.finish()


def _text(path: Path) -> str:
    """Read a lease, which is absent or empty for a moment while it changes hands."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return '{"pid": 0}'
