"""The states of sequences that lost their slot, kept in main memory: which to save, which to load, which to drop.

Only the tokens and sizes are here. The states themselves are kept by the runner, under the same keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Tokens

from msgspec import Struct

from worker_gguf.engine.adapters import AdapterSet
from worker_gguf.engine.batch import Drop, Saved
from worker_gguf.engine.costs import StepCosts
from worker_gguf.engine.runner import Limits
from worker_gguf.engine.slots import begins, reusable

__all__ = ["Entry", "PromptCache"]

# A state is saved if computing its tokens anew would take at least so many seconds.
_LEAST_SECONDS = 0.1
# Or, while the time of a token is unknown, if there are so many.
_LEAST_TOKENS = 256
# And if saving it takes at most this share of that time. A memory that is slow to read is better computed anew.
_MOST_SHARE = 0.5
# A save may have been slow only because of other processes. So with each state that is not saved, its time counts less,
# until another one is tried.
_FADING = 0.9


class Entry(Struct, eq=False):
    """A saved state, computed with `adapters`. `n_bytes` is an estimate until it is saved."""

    key: int
    tokens: list[int]
    n_bytes: int = 0
    adapters: AdapterSet = ()

    def holds(self, tokens: Tokens[int], adapters: AdapterSet) -> bool:
        """Return whether the state has all of these tokens, computed with these adapters."""
        return self.adapters == adapters and begins(self.tokens, tokens)


class PromptCache:
    """The saved states of one engine. At most `limit_bytes` in all; the least recently used go first."""

    def __init__(self, limit_bytes: int, limits: Limits, costs: StepCosts) -> None:
        self.limit_bytes = limit_bytes
        self._limits = limits
        self._costs = costs
        self._entries: dict[int, Entry] = {}  # the least recently used first
        self._n_bytes = 0  # changed by `_resize` alone
        self._last_key = 0
        self._size = _Size(has_constant=limits.saved_prefix == "whole")
        self._byte_seconds = 0.0

    @property
    def n_bytes(self) -> int:
        return self._n_bytes

    def find(self, tokens: Tokens[int], adapters: AdapterSet = ()) -> tuple[Entry, int] | None:
        """Return the entry that shares most tokens with a sequence, and how many of them can be reused."""
        can_cut = self._limits.saved_prefix == "any"
        found = [
            (entry, reusable(entry.tokens, tokens, n_uncut=0 if can_cut else len(entry.tokens)))
            for entry in self._entries.values()
            if entry.adapters == adapters
        ]
        return max(found, key=lambda pair: pair[1], default=None)

    def touch(self, entry: Entry) -> None:
        self._entries[entry.key] = self._entries.pop(entry.key)

    def is_worth(self, n_tokens: int) -> bool:
        """Return whether a state of so many tokens is worth its place."""
        per_token = self._costs.per_prompt_token
        if per_token is None:
            return n_tokens >= _LEAST_TOKENS
        computed_s = n_tokens * per_token
        return computed_s >= _LEAST_SECONDS and self.seconds_of(n_tokens) <= _MOST_SHARE * computed_s

    def note_refused(self, n_tokens: int) -> None:
        """Note that a state was not worth it. If only because saves are slow, another one is tried after some more."""
        if n_tokens * (self._costs.per_prompt_token or 0.0) >= _LEAST_SECONDS:
            self._byte_seconds *= _FADING

    def seconds_of(self, n_tokens: int) -> float:
        """Return what it takes to save or load a state of so many tokens; 0 if that is not known yet."""
        return self._size.of(n_tokens) * self._byte_seconds

    def is_worth_loading(self, entry: Entry, n_saved: int) -> bool:
        """Return whether loading an entry is faster than computing the `n_saved` tokens that it saves."""
        return n_saved * (self._costs.per_prompt_token or math.inf) > self.seconds_of(len(entry.tokens))

    def has(self, tokens: Tokens[int], adapters: AdapterSet = ()) -> bool:
        """Return whether a saved state holds all of these tokens."""
        return any(entry.holds(tokens, adapters) for entry in self._entries.values())

    def add(
        self, tokens: list[int], keep: Entry | None = None, adapters: AdapterSet = ()
    ) -> tuple[int | None, list[Drop]]:
        """Make room for a state. Returns its key, or None if it is too large, and what is to be dropped for it.

        States that hold nothing more than the new one are dropped, unless only whole states can be used: there, an
        earlier one is a place to which a conversation can return. `keep` is not dropped.
        """
        n_bytes = round(self._size.of(len(tokens)))
        drops: list[Drop] = []
        if n_bytes > self.limit_bytes:
            return None, drops
        if self._limits.saved_prefix == "any":
            new = Entry(0, tokens, adapters=adapters)
            others = [entry for entry in self._entries.values() if entry is not keep]
            drops += [self._drop(entry) for entry in others if new.holds(entry.tokens, entry.adapters)]
        drops += self._shrink(n_bytes, keep)
        if self.n_bytes + n_bytes > self.limit_bytes:
            return None, drops
        self._last_key += 1
        entry = self._entries[self._last_key] = Entry(self._last_key, list(tokens), adapters=adapters)
        self._resize(entry, n_bytes)
        return entry.key, drops

    def note(self, saved: Saved) -> list[Drop]:
        """Learn the size of a state that was saved, or that it could not be. Returns what is to be dropped for it."""
        entry = self._entries.get(saved.key)
        if entry is None:
            return []
        if not saved.n_bytes:
            self._drop(entry)  # the runner has nothing to drop
            return []
        self._resize(entry, saved.n_bytes)
        self._size.learn(len(entry.tokens), saved.n_bytes)
        self._byte_seconds = saved.seconds / saved.n_bytes
        return self._shrink(0)

    def forget(self, key: int) -> list[Drop]:
        """Drop a state that could not be loaded, if it is still there."""
        return [self._drop(self._entries[key])] if key in self._entries else []

    def clear(self) -> list[Drop]:
        return [self._drop(entry) for entry in list(self._entries.values())]

    def _shrink(self, n_bytes: int, keep: Entry | None = None) -> list[Drop]:
        """Drop the least recently used states until there is room for `n_bytes`."""
        drops: list[Drop] = []
        while self.n_bytes + n_bytes > self.limit_bytes:
            oldest = next((entry for entry in self._entries.values() if entry is not keep), None)
            if oldest is None:
                break
            drops.append(self._drop(oldest))
        return drops

    def _resize(self, entry: Entry, n_bytes: int) -> None:
        self._n_bytes += n_bytes - entry.n_bytes
        entry.n_bytes = n_bytes

    def _drop(self, entry: Entry) -> Drop:
        self._resize(entry, 0)
        del self._entries[entry.key]
        return Drop(entry.key)


class _Size:
    """The size of a state by its tokens: proportional, or with a constant part such as a recurrent state or a window.

    The constant part is learned from the shortest and the longest state so far.
    """

    def __init__(self, *, has_constant: bool) -> None:
        self._has_constant = has_constant
        self._shortest: tuple[int, int] = (0, 0)
        self._longest: tuple[int, int] = (0, 0)

    def learn(self, n_tokens: int, n_bytes: int) -> None:
        if not self._shortest[0] or n_tokens <= self._shortest[0]:
            self._shortest = n_tokens, n_bytes
        if n_tokens >= self._longest[0]:
            self._longest = n_tokens, n_bytes

    def of(self, n_tokens: int) -> float:
        """Return the bytes; 0 before the first state was saved."""
        (n_short, short), (n_long, long) = self._shortest, self._longest
        if not n_long:
            return 0.0
        if not self._has_constant:
            return n_tokens * long / n_long
        slope = (long - short) / (n_long - n_short) if n_long > n_short else 0.0
        return max(0.0, long + slope * (n_tokens - n_long))
