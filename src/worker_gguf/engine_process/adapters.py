"""Tries the LoRA adapters of a model that has just been loaded: whether it computes with them, and applies all of them.

With adapters, llama.cpp needs larger buffers, for which there may be no memory later.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from msgspec import Struct

from worker_gguf.engine.adapters import AdapterSet, adapter_set
from worker_gguf.engine_process.first_token import first_token
from worker_gguf.errors import ModelInvalid, WorkerError
from worker_gguf.llama.adapters import Adapter
from worker_gguf.llama.runner import LlamaRunner

__all__ = ["Loaded", "try_adapters"]

logger = logging.getLogger(__name__)

# llama-graph.cpp: two products, a scale and a sum for each matrix that an adapter changes
_NODES_OF_A_MATRIX = 4


class Loaded(Struct, frozen=True):
    """A loaded adapter, and the scale of requests that name none."""

    adapter: Adapter
    scale: float


def try_adapters(runner: LlamaRunner, bos: int, adapters: Sequence[Loaded]) -> None:
    """Draw a token with all adapters at once, and then one without. The memory is empty afterwards.

    Raises ModelInvalid, which names an adapter with which the model computes no finite numbers, or the error of the
    computation. Warns of an adapter that llama.cpp does not apply in full.
    """
    sets = [adapter_set([(number, loaded.scale)]) for number, loaded in enumerate(adapters)]
    if not _computes(runner, bos, adapter_set(pair for own in sets for pair in own)):
        for own, loaded in zip(sets, adapters, strict=True):
            if not _computes(runner, bos, own):
                raise ModelInvalid(
                    f"The model computes no finite numbers with the adapter {loaded.adapter.name} of LORA in the scale "
                    f"{loaded.scale:g}. Take another scale or another file, or remove it from LORA."
                )
    with_all = runner.n_nodes
    _computes(runner, bos, ())
    alone = runner.n_nodes
    if with_all - alone < _NODES_OF_A_MATRIX * sum(loaded.adapter.n_matrices for loaded in adapters):
        for own, loaded in zip(sets, adapters, strict=True):
            _computes(runner, bos, own)
            _warn(loaded.adapter, (runner.n_nodes - alone) // _NODES_OF_A_MATRIX)
        _computes(runner, bos, ())


def _warn(adapter: Adapter, n_applied: int) -> None:
    if n_applied < adapter.n_matrices:
        reason = f"llama.cpp applies {n_applied} of the {adapter.n_matrices} matrices that it changes in this model"
        logger.warning("adapter not applied in full", extra={"adapter": adapter.name, "reason": reason})


def _computes(runner: LlamaRunner, bos: int, adapters: AdapterSet) -> bool:
    drawn = first_token(runner, bos, adapters)
    if isinstance(drawn, WorkerError):
        raise drawn
    return drawn is not None and all(math.isfinite(found.logprob) for found in drawn.logprobs)
