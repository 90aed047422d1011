"""Collects the facts for the fitness checks: devices, files, cache, first token or vector.

The module `checks` evaluates them.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from typing import Literal

from msgspec.structs import replace

from worker_gguf.errors import NotReady
from worker_gguf.gguf import ModelHeader
from worker_gguf.settings import RUNPOD_VOLUME, Settings
from worker_gguf.start.adapters import Adapter, Adapters
from worker_gguf.start.checks import Check, FileFacts, GpuFacts, VolumeFacts, model, refusal
from worker_gguf.start.draft import DraftModel
from worker_gguf.start.projector import ProjectorModel
from worker_gguf.start.start import CANCELLED, Start
from worker_gguf.store import LocalModel
from worker_gguf.store.cache import Cache
from worker_gguf.store.verify import matches_record, why_not_writable

__all__ = ["check_devices", "examine"]

logger = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DIGEST: Mapping[bool | None, Literal["unknown", "right", "wrong"]] = {None: "unknown", True: "right", False: "wrong"}


def check_devices(settings: Settings, gpus: GpuFacts) -> None:
    """Check the devices before the load, so that a machine without its GPUs fails early. Raises Unfit."""
    _judge(settings, (gpus.devices(),))


def examine(
    start: Start,
    gpus: GpuFacts,
    header: ModelHeader,
    local: LocalModel,
    first: Check,
    checked: tuple[Check, ...] = (),
    draft: DraftModel | None = None,
    adapters: Adapters | None = None,
    projector: ProjectorModel | None = None,
) -> tuple[Check, ...]:
    """Check the worker after its model is loaded. Computing the SHA-256 of the files reports its progress to the gate.

    `first` is the check of the first computation. The files of `draft`, the draft model, of `adapters` and of the
    `projector` are checked, too. `checked` are the checks of an earlier load of this model. Its checks of the files and
    the cache are reused. Raises Unfit if a check failed, unless FITNESS_CHECKS=report, and NotReady if the gate cancels
    the start.
    """
    settings = start.settings
    known = {check.name: check for check in checked}
    checks = (
        gpus.devices(),
        gpus.offload(),
        known.get("model") or model(_files(start, header, local, "verify")),
        *([model(_files(start, draft.header, draft.local, "draft verify"), "draft model")] if draft else []),
        *(_adapter(start, adapter) for adapter in (adapters or Adapters()).all),
        *([known.get("projector") or _projector(start, projector)] if projector else []),
        known.get("volume") or _volume(settings, local),
        first,
    )
    _judge(settings, checks)
    return checks


def _judge(settings: Settings, checks: tuple[Check, ...]) -> None:
    for check in checks:
        log = logger.info if check.ok else logger.error
        log("fitness", extra={"check": check.name, "ok": check.ok, "reason": check.reason})
    if (error := refusal(checks)) is not None and settings.fitness_checks == "enforce":
        raise error


def _adapter(start: Start, adapter: Adapter) -> Check:
    which = f"adapter {adapter.name}"
    return model(_files(start, adapter.header, adapter.local, f"{which} verify"), which)


def _projector(start: Start, projector: ProjectorModel) -> Check:
    return model(_files(start, projector.header, projector.local, "projector verify"), "projector")


def _files(start: Start, header: ModelHeader, local: LocalModel, phase: str) -> list[FileFacts]:
    return [_file(start, header, local, part, phase) for part in range(len(local.paths))]


def _file(start: Start, header: ModelHeader, local: LocalModel, part: int, phase: str) -> FileFacts:
    path = local.paths[part]
    needed_bytes = max((t.offset + t.size_bytes for t in header.tensors if t.part == part), default=0)
    facts = FileFacts(path.name, path.stat().st_size, needed_bytes)
    if start.settings.verify_model != "sha256":
        return facts
    if local.source == "download" and local.repo is not None:  # a plain URL has no digest to verify
        return replace(facts, digest="right")  # verified during the download
    n_parts, is_cancelled = len(local.paths), False

    def goes_on(fraction: float) -> bool:
        nonlocal is_cancelled
        is_cancelled = not start.gate(phase, (part + fraction) / n_parts)
        return not is_cancelled

    matches = matches_record(path, goes_on)
    if is_cancelled:
        raise NotReady(CANCELLED)
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
