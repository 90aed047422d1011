"""Makes one vector with a model that has just been loaded and pools, as `first_token` draws a token with another."""

from __future__ import annotations

from array import array
from math import hypot

from worker_gguf.engine.pooling import Part, PoolingBatch, PoolingRunner
from worker_gguf.errors import WorkerError

__all__ = ["first_vector"]


def first_vector(runner: PoolingRunner, bos: int) -> float | WorkerError:
    """Return the Euclidean length of the vector of `bos`, or of its scores. Call it before the loop runs.

    Returns the error if the computation failed or its numbers are not finite.
    """
    result = runner.run(PoolingBatch((), (Part(0, 0, (bos,), is_last=True),)))
    if result.error is not None:
        return result.error
    values = result.values.get(0)
    return float("nan") if values is None else hypot(*array("f", values))
