"""Gathers the facts that a worker's fitness is judged by. All looking is here, all judging in `fitness`."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from worker_gguf.engine.batch import Sampled
from worker_gguf.errors import NotReady, WorkerError
from worker_gguf.gguf import ModelHeader
from worker_gguf.plan import Machine, MemoryPlan
from worker_gguf.settings import RUNPOD_VOLUME, Settings
from worker_gguf.start import fitness
from worker_gguf.start.fitness import Check, FileFacts, GpuFacts, TokenFacts, VolumeFacts
from worker_gguf.store import LocalModel
from worker_gguf.store.cache import Cache
from worker_gguf.store.verify import matches_record, why_not_writable

if TYPE_CHECKING:
    from worker_gguf.llama.model import Model

__all__ = ["examine", "examine_devices"]

logger = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DIGEST: Mapping[bool | None, Literal["unknown", "right", "wrong"]] = {None: "unknown", True: "right", False: "wrong"}


def examine_devices(settings: Settings, machine: Machine) -> None:
    """Before the load: a machine that is not what was asked for need not read the model. Raises Unfit."""
    _judge(settings, (_gpus(settings, machine).devices(),))


def examine(
    settings: Settings,
    machine: Machine,
    plan: MemoryPlan,
    header: ModelHeader,
    local: LocalModel,
    model: Model,
    first: Sampled | WorkerError | None,
    progress: Callable[[float], bool] = lambda fraction: True,
    checked: tuple[Check, ...] = (),
) -> tuple[Check, ...]:
    """After the first token. `progress` is told how much of the model's digest is computed; False gives up. What an
    earlier load of the same files has `checked` of them and of the cache is not looked at again.

    Raises Unfit when a check failed, unless FITNESS_CHECKS=report.
    """
    gpus = _gpus(settings, machine, plan, model)
    known = {check.name: check for check in checked}
    checks = (
        gpus.devices(),
        gpus.offload(),
        known.get("model") or _files(settings, header, local, progress),
        known.get("volume") or _volume(settings, local),
        _token(first).check(),
    )
    _judge(settings, checks)
    return checks


def _judge(settings: Settings, checks: tuple[Check, ...]) -> None:
    for check in checks:
        log = logger.info if check.ok else logger.error
        log("fitness", extra={"check": check.name, "ok": check.ok, "reason": check.reason})
    refusal = fitness.refusal(checks)
    if refusal is not None and settings.fitness_checks == "enforce":
        raise refusal


def _gpus(settings: Settings, machine: Machine, plan: MemoryPlan | None = None, model: Model | None = None) -> GpuFacts:
    from worker_gguf.llama.machine import read_machine
    from worker_gguf.llama.offload import gpu_backends

    offloaded = model.offloaded if model else None
    taken_bytes = 0
    if model is not None and machine.gpus and offloaded is None:
        taken_bytes = _free_bytes(machine) - _free_bytes(read_machine())
    return GpuFacts(
        backends=gpu_backends(),
        n_seen=len(machine.gpus),
        n_promised=settings.runpod_gpu_count,
        wanted=settings.n_gpu_layers,
        planned=plan.n_gpu_layers if plan else 0,
        offloaded=offloaded,
        taken_bytes=taken_bytes,
        planned_bytes=sum(use.weights_bytes for use in plan.devices if use.is_gpu) if plan else 0,
    )


def _free_bytes(machine: Machine) -> int:
    return sum(gpu.free_bytes for gpu in machine.gpus)


def _files(settings: Settings, header: ModelHeader, local: LocalModel, progress: Callable[[float], bool]) -> Check:
    return fitness.model([_file(settings, header, local, part, progress) for part in range(len(local.paths))])


def _file(
    settings: Settings, header: ModelHeader, local: LocalModel, part: int, progress: Callable[[float], bool]
) -> FileFacts:
    path = local.paths[part]
    needed_bytes = max((t.offset + t.size_bytes for t in header.tensors if t.part == part), default=0)
    facts = FileFacts(path.name, path.stat().st_size, needed_bytes)
    if settings.verify_model != "sha256":
        return facts
    if local.source == "download":
        return replace(facts, digest="right")  # computed while it came in
    n_parts, is_wanted = len(local.paths), True

    def goes_on(fraction: float) -> bool:
        nonlocal is_wanted
        is_wanted = progress((part + fraction) / n_parts)
        return is_wanted

    matches = matches_record(path, goes_on)
    if not is_wanted:
        raise NotReady("The start was given up.")
    return replace(facts, digest=_DIGEST[matches])


def _volume(settings: Settings, local: LocalModel) -> Check:
    folder = settings.cache_dir()
    is_configured = settings.model_cache_dir is not None or folder.is_relative_to(RUNPOD_VOLUME)
    if not is_configured:
        return Check("volume", True, "none is configured as the cache")
    if local.source not in ("cache", "download"):
        return Check("volume", True, "not needed: the model is in the image or given by its path")
    place = "the cache (MODEL_CACHE_DIR)" if settings.model_cache_dir is not None else "the network volume"
    error = why_not_writable(Cache(folder).work)
    if error is None:
        return VolumeFacts(place).check()
    logger.warning("cache cannot be written", extra={"folder": str(folder), "error": str(error)})
    return VolumeFacts(place, error.strerror or type(error).__name__, error.errno in _FULL).check()


def _token(first: Sampled | WorkerError | None) -> TokenFacts:
    if isinstance(first, WorkerError):
        return TokenFacts(error=first.message)
    return TokenFacts(first.logprobs[0].logprob if first and first.logprobs else None)
