"""Chooses the models to unload so that another model fits. A pure function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["eviction_for"]


def eviction_for(
    loaded: frozenset[str], candidates: Sequence[str], fits_with: Callable[[frozenset[str]], bool]
) -> tuple[str, ...] | None:
    """Return the candidates to unload, preferring the first ones, or None if unloading all of them is not enough.

    No candidate is unloaded needlessly: one that freed too little memory stays loaded if a later one frees enough.
    """
    evicted: list[str] = []
    for name in (None, *candidates):
        if name is not None:
            evicted.append(name)
        if fits_with(loaded.difference(evicted)):
            break
    else:
        return None
    for name in reversed(evicted[:-1]):
        if fits_with(loaded.difference(evicted) | {name}):
            evicted.remove(name)
    return tuple(evicted)
