"""Draws one token from a model that has just been loaded.

This builds graphs and reads pages of the file before the first request, and shows whether the model computes.
"""

from __future__ import annotations

from worker_gguf.engine.adapters import AdapterSet
from worker_gguf.engine.batch import Batch, Chunk, Close, Open, Sampled, Truncate
from worker_gguf.engine.request import GenerationRequest, SamplingParams
from worker_gguf.engine.runner import Runner
from worker_gguf.errors import WorkerError

__all__ = ["first_token"]

_ID = "first-token"


def first_token(runner: Runner, bos: int, adapters: AdapterSet = ()) -> Sampled | WorkerError | None:
    """Draw the token after `bos`, with its log-probability. Call it before the loop runs.

    Returns None if no token could be drawn, or the error if the decode failed. The KV memory is empty afterwards.
    """
    prompt = (bos,)
    sampling = SamplingParams(temperature=0.0)
    request = GenerationRequest(_ID, prompt, sampling, max_tokens=1, top_logprobs=0, adapters=adapters)
    result = runner.run(Batch((Open(0, request, prompt),), (Chunk(0, 0, list(prompt), n_outputs=1),), adapters))
    runner.run(Batch((Close(_ID), Truncate(0, 0)), ()))
    if result.error is not None:
        return result.error
    return next(iter(result.sampled), None)
