"""Chooses the models to unload so that another one fits. A pure decision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["eviction_for"]


def eviction_for(
    loaded: frozenset[str], candidates: Sequence[str], fits_with: Callable[[frozenset[str]], bool]
) -> tuple[str, ...] | None:
    """Return the candidates to unload, the first candidates first, or None if unloading all of them is not enough.

    The result has no unnecessary model: a model that freed too little is kept if a later one frees enough.
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
