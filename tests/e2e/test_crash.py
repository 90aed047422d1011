"""A small run of `make crash-test`."""

from __future__ import annotations

import asyncio

from tests.e2e.crash import crash


def test_every_request_ends_once_while_engine_processes_are_killed() -> None:
    outcome = asyncio.run(crash(60, 5))
    assert outcome.n_kills == 5
    assert (outcome.lost, outcome.twice, outcome.wrong, outcome.n_processes) == (0, 0, 0, 0)
    assert outcome.ends.total() == outcome.n_requests >= 60
    assert outcome.ends["answered"] > 20
