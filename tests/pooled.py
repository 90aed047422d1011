"""Asks an engine that pools for the numbers of inputs."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worker_gguf.engine.request import PoolingRequest
from worker_gguf.generation.engine import Engine
from worker_gguf.generation.events import Finished, Pooled

__all__ = ["pooled"]


async def pooled(engine: Engine, inputs: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
    """Return the numbers of each input, all submitted as one group."""
    requests = [PoolingRequest(uuid.uuid4().hex, tuple(tokens)) for tokens in inputs]
    values: dict[int, bytes] = {}
    async for items in engine.submit(*requests):
        for index, events in items.items():
            for event in events:
                if isinstance(event, Pooled):
                    values[index] = event.values
                else:
                    assert isinstance(event, Finished)
                    assert (event.reason, event.error) == ("stop", None)
                    assert event.usage.prompt_tokens == len(inputs[index])
    return [np.frombuffer(values[index], "<f4") for index in range(len(inputs))]
