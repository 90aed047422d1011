"""Tests of how many forced tokens a step computes next to other sequences."""

from __future__ import annotations

import pytest

from tests.fakes import limits, request
from worker_gguf.engine.costs import StepCosts
from worker_gguf.engine.sequence import Sequence, Slot
from worker_gguf.engine.widths import width_of

PARTITIONED = limits(partitioned=True)


def decoding(*pending: int) -> list[Sequence]:
    sequences = []
    for slot, n_pending in enumerate(pending):
        sequence = Sequence(request(str(slot), list(range(20))), slot, slot=Slot(slot))
        sequence.n_computed = 20 - n_pending
        sequences.append(sequence)
    return sequences


def costs(**seconds: float) -> StepCosts:
    known = StepCosts(partitioned=True)
    for name, value in seconds.items():
        known.note(int(name.removeprefix("rows_")), 0, value)
    return known


WEIGHTS_COST_ALL = costs(rows_1=1.0, rows_8=1.0)
ROWS_COST_ALL = costs(rows_1=0.1, rows_8=0.8, rows_16=1.6)


@pytest.mark.parametrize(
    ("known", "pending", "width"),
    [
        # Each pass takes as long as all sequences together.
        (WEIGHTS_COST_ALL, (1, 1, 1, 1, 3, 1, 1, 1), 1),
        (WEIGHTS_COST_ALL, (1, 1, 1, 1, 17, 1, 1, 1), 17),
        # A pass of one sequence takes little.
        (ROWS_COST_ALL, (1, 1, 1, 1, 3, 1, 1, 1), 3),
        (costs(rows_1=0.4, rows_8=0.8), (1, 1, 1, 1, 3, 1, 1, 1), 1),
        # One pass in any case.
        (WEIGHTS_COST_ALL, (5,), 5),
        (WEIGHTS_COST_ALL, (1, 1), 1),
        (WEIGHTS_COST_ALL, (), 1),
        (StepCosts(), (1, 3), 3),
    ],
)
def test_forced_tokens_wait_if_a_pass_of_their_own_takes_longer_than_it_saves(
    known: StepCosts, pending: tuple[int, ...], width: int
) -> None:
    assert width_of(decoding(*pending), PARTITIONED, known) == width


def test_a_shared_memory_computes_all_in_one_pass() -> None:
    assert width_of(decoding(1, 1, 1, 9), limits(), WEIGHTS_COST_ALL) == 9
