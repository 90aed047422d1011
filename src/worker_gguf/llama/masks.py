"""Applies the masks of constraints to logits, and computes them while llama.cpp computes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker_gguf.constraints.guide import Guide, MaskWords
from worker_gguf.llama.candidates import Candidates, Floats, Ints

__all__ = ["Allowed", "MaskReader", "MaskThread"]

# A chain looks at so many tokens without a search. With more, the others are written into the logits as banned.
_FEW = 2048
# The same few masks come again and again: inside a string, between values, in a number.
_MOST_KEPT = 128
_NO_IDS = np.empty(0, np.int32)


class Allowed(NamedTuple):
    """The tokens that a mask allows: `ids` if they are few, else all but those in `others`.

    `others` has their ids, or a flag for each token of the vocabulary if they are many.
    """

    ids: Ints | None
    others: NDArray[np.int32] | NDArray[np.bool_]

    def apply(self, logits: Floats) -> Candidates | None:
        """Ban the other tokens in a row of logits (n_vocab,), in place. Returns the allowed ones if they are few.

        Then the logits are not changed.
        """
        if self.ids is not None:
            return Candidates(self.ids, logits[self.ids])
        logits[self.others] = -np.inf
        return None


class MaskReader:
    """Turns masks into token ids. For one thread at a time."""

    def __init__(self, n_vocab: int) -> None:
        self._n_vocab = n_vocab
        self._known: OrderedDict[bytes, Allowed] = OrderedDict()

    def read(self, words: MaskWords) -> Allowed:
        """Read a mask that has one bit for each token, the lowest first."""
        key = words.tobytes()
        if (known := self._known.get(key)) is not None:
            self._known.move_to_end(key)
            return known
        bits = np.unpackbits(words.view(np.uint8), count=self._n_vocab, bitorder="little")
        n_allowed = int(np.count_nonzero(bits))
        if n_allowed <= _FEW:
            allowed = Allowed(bits.nonzero()[0], _NO_IDS)
        else:
            is_other = bits == 0
            are_many = self._n_vocab - n_allowed > self._n_vocab // 16
            allowed = Allowed(None, is_other if are_many else is_other.nonzero()[0].astype(np.int32))
        self._known[key] = allowed
        if len(self._known) > _MOST_KEPT:
            self._known.popitem(last=False)
        return allowed


class MaskThread:
    """Computes masks in a thread of its own, which exists once there was a mask."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None

    def begin(self, guides: Sequence[Guide]) -> None:
        """Begin to compute the masks of these answers. Until `wait` returns, nobody else may use them."""
        self.wait()  # for what an unexpected error left
        if guides:
            self._pool = self._pool or ThreadPoolExecutor(1, "masks")
            self._pending = self._pool.submit(_compute, guides)

    def wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        self.wait()
        if self._pool is not None:
            self._pool.shutdown()


def _compute(guides: Sequence[Guide]) -> None:
    for guide in guides:
        guide.compute_mask()
