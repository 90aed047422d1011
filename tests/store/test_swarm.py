"""Tests that many worker processes on one volume fetch a file once, even if some are killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.store.kill import run
from tests.store.swarm import swarm

SIZE_BYTES = 16 * 2**20

pytestmark = pytest.mark.slow


def test_four_workers_at_once_fetch_it_once(tmp_path: Path) -> None:
    with swarm(tmp_path, SIZE_BYTES, 32 * 2**20) as workers:
        workers.start(4)
        workers.finish()
        assert workers.ratio <= 1.02


def test_the_work_of_a_killed_leader_is_continued(tmp_path: Path) -> None:
    with swarm(tmp_path, SIZE_BYTES, 8 * 2**20) as workers:
        workers.start(4)
        workers.wait_served(SIZE_BYTES // 2)
        workers.kill(workers.leader())
        workers.finish()
        assert workers.ratio <= 1.10


def test_workers_killed_at_random_moments_leave_it_whole(tmp_path: Path) -> None:
    tally = run(10, tmp_path, seed=3)
    assert tally.kills == 10
