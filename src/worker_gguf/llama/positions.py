"""The position of each token of a slot, where the rows of images have other positions than their place there."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Positions", "Run"]


class Run(NamedTuple):
    """A run of `n_rows` rows of an image from the place `start` of a slot on. It uses `n_positions` positions."""

    start: int
    n_rows: int
    n_positions: int


class Positions:
    """Counts positions as models with M-RoPE do: an image of 30 x 20 rows uses 30 positions.

    A slot is never cut inside a run.
    """

    def __init__(self) -> None:
        self._runs: dict[int, tuple[Run, ...]] = {}

    def of(self, slot: int, index: int) -> int:
        """Return the position of the token at a place of the slot that is not inside a run."""
        return index + sum(run.n_positions - run.n_rows for run in self.runs(slot) if run.start < index)

    def runs(self, slot: int) -> tuple[Run, ...]:
        """Return the runs that the slot holds, as `become` takes them."""
        return self._runs.get(slot, ())

    def add(self, slot: int, run: Run) -> None:
        if run.n_positions != run.n_rows and run not in self.runs(slot):
            self._runs[slot] = (*self.runs(slot), run)

    def cut(self, slot: int, n_tokens: int) -> None:
        """Forget the runs after the first `n_tokens` of a slot."""
        if slot in self._runs:
            self.become(slot, self._runs[slot], n_tokens)

    def become(self, slot: int, runs: tuple[Run, ...], n_tokens: int | None = None) -> None:
        """Make a slot hold these runs, as far as they begin before the token `n_tokens`."""
        kept = tuple(run for run in runs if n_tokens is None or run.start < n_tokens)
        if kept:
            self._runs[slot] = kept
        else:
            self._runs.pop(slot, None)
