"""Which models to unload so that another fits: a pure decision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["eviction_for"]


def eviction_for(
    loaded: frozenset[str], candidates: Sequence[str], fits_with: Callable[[frozenset[str]], bool]
) -> tuple[str, ...] | None:
    """The candidates to unload, those that come first before others; None when not even all of them are enough.

    None of them is needless: one that made too little room is spared again when a later one made it all.
    """
    gone: list[str] = []
    for name in (None, *candidates):
        if name is not None:
            gone.append(name)
        if fits_with(loaded.difference(gone)):
            break
    else:
        return None
    for name in reversed(gone[:-1]):
        if fits_with(loaded.difference(gone) | {name}):
            gone.remove(name)
    return tuple(gone)
