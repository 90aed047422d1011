"""Makes vectors and scores for requests: tokens, submission, and the numbers of each input."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence

from msgspec import Struct

from worker_gguf.engine.request import PoolingRequest
from worker_gguf.errors import EngineFailed, NotReady
from worker_gguf.generation.engine import Engine
from worker_gguf.generation.events import Event, Finished, Pooled
from worker_gguf.generation.stream import EventStream
from worker_gguf.observe.account import Account
from worker_gguf.protocol.models import ModelCard
from worker_gguf.protocol.pooling.calls import PooledAnswer, PoolingCall
from worker_gguf.protocol.rendering import Heading, JsonBody
from worker_gguf.protocol.route import Pooling
from worker_gguf.service.pooling_prompts import PoolingInput, PoolingPrompts
from worker_gguf.service.request import Request
from worker_gguf.service.threads import Threads
from worker_gguf.service.time_limit import deadline_s

__all__ = ["Poolings", "Submitted"]

# Rendering more numbers than this takes longer than an event loop should be blocked.
_INLINE_NUMBERS = 4096


class Submitted(Struct, frozen=True):
    """A request whose inputs the engine has."""

    events: EventStream
    inputs: Sequence[PoolingInput]
    heading: Heading
    account: Account


class Poolings:
    """The vectors and scores of one model. Its methods can be called on several event loops."""

    def __init__(
        self, engine: Engine, prompts: PoolingPrompts, card: ModelCard, threads: Threads, timeout_s: float | None
    ) -> None:
        self._engine = engine
        self._prompts = prompts
        self._card = card
        self._threads = threads
        self._timeout_s = timeout_s

    async def submit(
        self,
        task: Pooling,
        call: PoolingCall,
        request: Request,
        heading: Heading,
        on_ended: Callable[[], None] | None,
    ) -> Submitted:
        """Submit the inputs of a call. Nothing can fail after that: an error means that the engine never got them."""
        limits = self._engine.limits.pooling
        if task.check is not None and limits is not None:
            task.check(call, limits.n_values)
        account, prompts = request.account, self._prompts
        ranks = "rerank" in self._card.capabilities
        inputs = await self._threads.run_if_long(request.body, lambda: prompts.prepare(call, ranks=ranks))
        ends_s = deadline_s(account, call.timeout_s, self._timeout_s)
        requests = [
            PoolingRequest(f"{heading.id}.{index}", given.tokens, call.priority, ends_s)
            for index, given in enumerate(inputs)
        ]
        events = self._engine.submit(*requests, on_ended=on_ended)
        account.submitted(
            events.progress, model=heading.model, answer_id=heading.id, stream=False, n=1, ignored=call.ignored
        )
        return Submitted(events, inputs, heading, account)

    async def answer(self, task: Pooling, call: PoolingCall, submitted: Submitted) -> JsonBody:
        """Return the answer when all numbers are there. Raises the WorkerError that ends it.

        Cancelling it cancels all inputs.
        """
        values = await _values(submitted)
        now_s = time.monotonic()
        admitted = [progress.admitted_s for progress in submitted.events.progress if progress.admitted_s is not None]
        pooled = PooledAnswer(
            submitted.heading,
            self._card,
            values,
            [len(given.tokens) for given in submitted.inputs],
            seconds=now_s - submitted.account.started_s,
            load_seconds=submitted.account.model_wait_s or 0.0,
            engine_seconds=now_s - min(admitted, default=now_s),
        )
        if sum(map(len, values)) <= _INLINE_NUMBERS:
            return task.render(call, pooled)
        return await self._threads.run(lambda: task.render(call, pooled))


async def _values(submitted: Submitted) -> list[Sequence[float]]:
    """Return the numbers of all inputs. Raises the WorkerError of the first one that fails, and cancels the others."""
    values: list[Sequence[float]] = [()] * len(submitted.inputs)
    events = submitted.events
    try:
        async for items in events:
            for index, found in items.items():
                for event in found:
                    if isinstance(event, Pooled):
                        values[index] = struct.unpack(f"<{len(event.values) // 4}f", event.values)
                    _note(submitted.account, index, event)
    finally:
        events.cancel()
    return values


def _note(account: Account, index: int, event: Event) -> None:
    """Note the end of an input. Raises the error that ended it."""
    if not isinstance(event, Finished):
        return
    account.finished(index, event)
    if event.reason == "cancelled":
        raise event.error or NotReady("The request was cancelled before its end. Send it again.")
    if event.reason == "error":
        raise event.error or EngineFailed("The request failed before its end. Send it again.")
