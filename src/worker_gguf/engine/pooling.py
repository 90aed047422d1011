"""Decides which inputs a model that pools computes next. Knows nothing of llama.cpp, threads or time.

A step packs several inputs, each a sequence of its own. An input that arrives while a step computes is part of the next
one. Its result leaves nothing behind, so there is no memory to keep.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from math import inf
from operator import attrgetter
from typing import Final, Protocol

from msgspec import Struct

from worker_gguf.engine.request import PoolingRequest
from worker_gguf.engine.runner import Limits
from worker_gguf.engine.updates import FinishReason, timed_out
from worker_gguf.errors import EngineFailed, QueueFull, WorkerError

__all__ = ["Part", "PoolingBatch", "PoolingResult", "PoolingRunner", "PoolingScheduler", "Result"]

PLACES_PER_PRIORITY: Final = 64
"""A priority that is lower by one is worth so many places in the queue, as for a request that generates."""
MOST_PASSED_OVER: Final = 256
# So many inputs that are over, and as many as are open, may stay in the queue.
_MOST_OVER: Final = 64
"""A step looks at so many inputs that do not fit beside the others before it is computed."""
_turn = attrgetter("turn")


class Part(Struct, frozen=True):
    """Tokens of one input, from position `start` on. After the last part of an input, its slot is empty again."""

    slot: int
    start: int
    tokens: tuple[int, ...]
    is_last: bool


class PoolingBatch(Struct, frozen=True):
    """One step: the slots to empty first, because their inputs have ended early, and then the parts to compute."""

    emptied: tuple[int, ...]
    parts: tuple[Part, ...]

    @property
    def n_tokens(self) -> int:
        return sum(len(part.tokens) for part in self.parts)


class PoolingResult(Struct, frozen=True):
    """The result of a step. With `error`, nothing was computed, and the slots of the parts are empty.

    `values` has the numbers for the slot of each last part, as little-endian 32-bit floats. A slot whose numbers are
    not all finite is left out.
    """

    values: dict[int, bytes]
    error: WorkerError | None = None
    seconds: float = 0.0


class PoolingRunner(Protocol):
    """Carries out steps. Called only from the thread of the engine's loop."""

    @property
    def limits(self) -> Limits: ...

    def run(self, batch: PoolingBatch) -> PoolingResult:
        """Compute a step. A failed computation is part of the result and not raised."""
        ...


class Result(Struct, frozen=True):
    """The only ending of an input. It has its `values` if the reason is "stop", and an `error` if it is "error"."""

    request_id: str
    reason: FinishReason
    values: bytes | None = None
    error: WorkerError | None = None


class _Input(Struct, eq=False):
    """`place` is its place among all inputs, and `turn` the same with its priority: the lowest goes first.

    The first `n_computed` tokens are computed. `slot` is None before its first part, and it has ended when `is_over`.
    It `is_waiting` until it leaves the queue.
    """

    request: PoolingRequest
    place: int
    turn: int
    start_by_s: float | None
    n_computed: int = 0
    slot: int | None = None
    is_over: bool = False
    is_waiting: bool = True

    @property
    def n_left(self) -> int:
        return len(self.request.prompt) - self.n_computed


class PoolingScheduler:
    """Packs inputs into steps: by priority, and then by turns among the requests that have several inputs.

    So a request with one input does not wait for all those of a request with a thousand.
    """

    def __init__(self, limits: Limits) -> None:
        assert limits.pooling is not None, "the model generates text"
        self.limits = limits
        self._pooling = limits.pooling
        self._by_id: dict[str, _Input] = {}
        self._waiting: list[_Input] = []  # in the order of turns; those that are over leave it together
        self._n_over = 0
        self._begun: _Input | None = None
        self._running: dict[int, _Input] = {}
        self._emptied: list[int] = []
        self._place = 0
        self._next_places: dict[int, int] = {}
        self._look_s = inf

    @property
    def is_idle(self) -> bool:
        return not self._by_id

    @property
    def n_open(self) -> int:
        return len(self._by_id)

    @property
    def n_held(self) -> int:
        """The number of tokens in memory between two steps."""
        return 0 if self._begun is None else self._begun.n_computed

    # --- commands -------------------------------------------------------------------------------------------------

    def add(self, request: PoolingRequest, group: int, start_by_s: float | None = None) -> None:
        """Add an input of a group, which is a request of a client. It expires if it has not begun by `start_by_s`."""
        # The service refuses such inputs with a message for the client, so here they are a bug.
        assert request.id not in self._by_id, "two inputs have the same id"
        assert 0 < len(request.prompt) <= self.limits.n_ctx, "a step cannot hold the input"
        place = max(self._place, self._next_places.get(group, 0))
        self._next_places[group] = place + 1
        new = _Input(request, place, place + PLACES_PER_PRIORITY * request.priority, start_by_s)
        self._by_id[request.id] = new
        insort(self._waiting, new, key=_turn)
        self._look_s = min(self._look_s, _expires_s(new))

    def finish(self, request_id: str) -> None:
        """End an input now. Does nothing if it has ended."""
        if (ended := self._by_id.get(request_id)) is not None:
            self._end(ended)

    def reset(self, error: WorkerError) -> list[Result]:
        """End every input, and empty every slot before the next step: nobody knows what they hold."""
        failed = [self._failed(open_input, error) for open_input in list(self._by_id.values())]
        self._running.clear()
        self._emptied = list(range(self.limits.n_slots))
        return failed

    def expire(self, now_s: float, retry_after_s: int = 1) -> list[Result]:
        """End every input whose deadline has passed, or that has waited too long for its first step."""
        if now_s < self._look_s:
            return []
        expired: list[Result] = []
        for late in [late for late in self._by_id.values() if _expires_s(late) <= now_s]:
            deadline_s = late.request.deadline_s
            if deadline_s is not None and deadline_s <= now_s:
                error: WorkerError = timed_out("before its input was computed")
            else:
                error = QueueFull.waited(retry_after_s)
            expired.append(self._failed(late, error))
        self._look_s = min(map(_expires_s, self._by_id.values()), default=inf)
        return expired

    # --- a step ---------------------------------------------------------------------------------------------------

    def schedule(self) -> PoolingBatch | None:
        """Return the next step, or None if there is nothing to do."""
        taken = self._take()
        if not taken:
            return None
        used = {one.slot for one in taken}
        free = (slot for slot in range(self.limits.n_slots) if slot not in used)
        parts: list[Part] = []
        room = self.limits.n_batch
        for one in taken:
            if one.slot is None:
                one.slot = next(free)
                self._place = max(self._place, one.place)
            n = min(one.n_left, room)
            room -= n
            end = one.n_computed + n
            parts.append(Part(one.slot, one.n_computed, one.request.prompt[one.n_computed : end], n == one.n_left))
            self._running[one.slot] = one
        emptied, self._emptied = tuple(self._emptied), []
        self._drop_old_groups()
        return PoolingBatch(emptied, tuple(parts))

    def begun(self, batch: PoolingBatch) -> list[str]:
        """Return the ids of the inputs whose first tokens are in a step that was just scheduled."""
        return [self._running[part.slot].request.id for part in batch.parts if part.start == 0]

    def commit(self, batch: PoolingBatch, result: PoolingResult) -> list[Result]:
        """Apply the result of a step."""
        ended: list[Result] = []
        self._begun = None
        for part in batch.parts:
            one = self._running.pop(part.slot)
            if result.error is not None:
                one.slot = None  # it is empty already
                ended.append(self._failed(one, result.error))
            elif not part.is_last:
                one.n_computed += len(part.tokens)
                self._begun = one
            else:
                one.slot = None
                ended.append(self._pooled(one, result.values.get(part.slot)))
        return ended

    def _take(self) -> Sequence[_Input]:
        """Return the inputs of the next step and take them out of the queue. At most the last one is cut."""
        room = self._pooling.n_packed
        taken: list[_Input] = []
        if self._begun is not None:
            taken.append(self._begun)
            room -= min(room, self._begun.n_left)
        left: list[_Input] = []
        cuts = not self._pooling.is_whole and self._begun is None
        at = 0
        while at < len(self._waiting) and room and len(taken) < self.limits.n_slots and len(left) < MOST_PASSED_OVER:
            one = self._waiting[at]
            at += 1
            if one.is_over:
                self._n_over -= 1
                continue
            if one.n_left > room and taken and not cuts:
                left.append(one)
                continue
            taken.append(one)
            one.is_waiting = False
            room -= min(room, one.n_left)
        self._waiting[:at] = left
        return taken

    # --- endings --------------------------------------------------------------------------------------------------

    def _pooled(self, one: _Input, values: bytes | None) -> Result:
        if values is None:
            error = EngineFailed("The model computed numbers for an input that are not finite.")
            return self._failed(one, error)
        self._end(one)
        return Result(one.request.id, "stop", values)

    def _failed(self, one: _Input, error: WorkerError) -> Result:
        self._end(one)
        return Result(one.request.id, "error", error=error)

    def _end(self, one: _Input) -> None:
        del self._by_id[one.request.id]
        one.is_over = True
        if one is self._begun:
            self._begun = None
        if one.slot is not None:
            self._emptied.append(one.slot)
        if one.is_waiting:
            self._n_over += 1
        if self._n_over > _MOST_OVER + len(self._by_id):
            self._waiting = [waiting for waiting in self._waiting if not waiting.is_over]
            self._n_over = 0

    def _drop_old_groups(self) -> None:
        """Forget the places of groups that have no further input, or whose next place has been reached anyway."""
        if len(self._next_places) > 2 * self.limits.n_slots + len(self._by_id):
            self._next_places = {group: place for group, place in self._next_places.items() if place > self._place}


def _expires_s(one: _Input) -> float:
    """Return the time at which an input ends if it has not ended or begun before."""
    deadline_s = one.request.deadline_s
    start_by_s = None if one.slot is not None else one.start_by_s
    return min(inf if deadline_s is None else deadline_s, inf if start_by_s is None else start_by_s)
