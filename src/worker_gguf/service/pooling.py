"""Makes vectors and scores for one request: tokens, submission, and the numbers of each input."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence

from worker_gguf.engine.request import PoolingRequest
from worker_gguf.errors import EngineFailed, NotReady
from worker_gguf.generation.engine import Engine
from worker_gguf.generation.events import Finished, Pooled
from worker_gguf.generation.stream import EventStream
from worker_gguf.observe.account import Account
from worker_gguf.protocol.models import ModelCard
from worker_gguf.protocol.pooling.calls import PooledAnswer, PoolingCall
from worker_gguf.protocol.rendering import Heading
from worker_gguf.service.pooling_prompts import PoolingInput

__all__ = ["collect_values", "submit"]


def submit(
    engine: Engine,
    call: PoolingCall,
    inputs: Sequence[PoolingInput],
    heading: Heading,
    deadline_s: float | None,
    on_ended: Callable[[], None] | None,
) -> EventStream:
    """Submit the inputs of a call. Call it on the event loop that collects their values. Raises a WorkerError."""
    requests = (
        PoolingRequest(f"{heading.id}.{index}", given.tokens, call.priority, deadline_s)
        for index, given in enumerate(inputs)
    )
    return engine.submit(*requests, on_ended=on_ended)


async def collect_values(
    events: EventStream, inputs: Sequence[PoolingInput], heading: Heading, card: ModelCard, account: Account
) -> PooledAnswer:
    """Return the numbers of all inputs. Raises the WorkerError of the first one that fails, and cancels the others.

    Cancelling it cancels all inputs.
    """
    values: list[Sequence[float]] = [()] * len(inputs)
    try:
        async for items in events:
            for index, found in items.items():
                for event in found:
                    if isinstance(event, Pooled):
                        values[index] = struct.unpack(f"<{len(event.values) // 4}f", event.values)
                    elif isinstance(event, Finished):
                        account.finished(index, event)
                        if event.reason == "cancelled":
                            raise event.error or NotReady("The request was cancelled before its end. Send it again.")
                        if event.reason == "error":
                            raise event.error or EngineFailed("The request failed before its end. Send it again.")
    finally:
        events.cancel()
    now_s = time.monotonic()
    admitted = [progress.admitted_s for progress in events.progress if progress.admitted_s is not None]
    return PooledAnswer(
        heading,
        card,
        values,
        [len(given.tokens) for given in inputs],
        seconds=now_s - account.started_s,
        engine_seconds=now_s - min(admitted, default=now_s),
    )
