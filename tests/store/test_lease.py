"""Tests of the lease of a download: one worker holds it, and another takes it over when the holder is silent."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from worker_gguf.store.lease import Lease, bytes_said
from worker_gguf.store.tuning import Tuning

STILL = Tuning(heartbeat_s=1000.0, takeover_s=2000.0)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_only_one_worker_takes_a_lease(tmp_path: Path) -> None:
    first, second = Lease(tmp_path / "x", STILL), Lease(tmp_path / "x", STILL)
    assert first.try_take()
    assert not second.try_take()
    first.release()
    assert not (tmp_path / "x").exists()
    assert second.try_take()
    second.release()


def test_silent_holder_is_followed_by_another(tmp_path: Path) -> None:
    clock = Clock()
    dead, heir = Lease(tmp_path / "x", STILL, clock=clock), Lease(tmp_path / "x", STILL, clock=clock)
    assert dead.try_take()
    assert not heir.try_take()
    clock.now_s = 1999.0
    assert not heir.try_take()
    assert not dead.is_sure  # it stops writing before anybody may take over
    clock.now_s = 2000.0
    assert heir.try_take()
    assert heir.is_sure
    dead._beat()
    assert not dead.is_sure
    dead.release()
    assert (tmp_path / "x").exists()  # not the heir's
    heir.release()


def test_beating_holder_is_left_alone(tmp_path: Path) -> None:
    clock = Clock()
    holder, other = Lease(tmp_path / "x", STILL, clock=clock), Lease(tmp_path / "x", STILL, clock=clock)
    assert holder.try_take()
    for at in range(0, 10_000, 900):
        clock.now_s = float(at)
        holder.bytes_done = at
        holder._beat()
        assert holder.is_sure
        assert not other.try_take()
        assert other.bytes_done == at
    holder.release()


@pytest.mark.parametrize("content", [b"", b"garbage", b'{"holder": 1}', b"[]", b"\xff" * 300])
def test_an_unreadable_lease_becomes_stale(tmp_path: Path, content: bytes) -> None:
    clock = Clock()
    (tmp_path / "x").write_bytes(content)
    lease = Lease(tmp_path / "x", STILL, clock=clock)
    assert not lease.try_take()
    clock.now_s = 2000.0
    assert lease.try_take()
    lease.release()
    assert list(tmp_path.iterdir()) == []


def test_live_lease_that_was_moved_away_is_made_again(tmp_path: Path) -> None:
    lease = Lease(tmp_path / "x", STILL)
    assert lease.try_take()
    (tmp_path / "x").rename(tmp_path / "aside")
    lease._beat()
    assert (tmp_path / "x").exists()
    assert lease.is_sure
    lease.release()
    assert not (tmp_path / "x").exists()


def test_heartbeat_runs_by_itself(tmp_path: Path) -> None:
    lease = Lease(tmp_path / "x", Tuning(heartbeat_s=0.01, takeover_s=60.0))
    assert lease.try_take()
    before = (tmp_path / "x").read_bytes()
    until = time.monotonic() + 10
    while (tmp_path / "x").read_bytes() == before:
        assert time.monotonic() < until
    lease.release()


def test_holder_on_a_volume_that_is_gone_is_not_sure(tmp_path: Path) -> None:
    clock = Clock()
    lease = Lease(tmp_path / "gone" / "x", STILL, clock=clock)
    assert lease.try_take()
    (tmp_path / "gone" / "x").unlink()
    (tmp_path / "gone").rmdir()
    (tmp_path / "gone").touch()
    clock.now_s = 1500.0
    with pytest.raises(OSError):
        lease._beat()
    assert not lease.is_sure
    lease.release()


def test_released_lease_allows_no_more_writes(tmp_path: Path) -> None:
    lease = Lease(tmp_path / "x", STILL)
    assert lease.try_take()
    assert lease.is_sure
    lease.release()
    assert not lease.is_sure


def test_the_holders_progress_can_be_read_without_the_lease(tmp_path: Path) -> None:
    assert bytes_said(tmp_path / "x") is None
    lease = Lease(tmp_path / "x", STILL)
    lease.bytes_done = 70
    assert lease.try_take()
    assert bytes_said(tmp_path / "x") == 70
    lease.release()
    assert bytes_said(tmp_path / "x") is None
    (tmp_path / "x").write_bytes(b"torn")
    assert bytes_said(tmp_path / "x") == 0
