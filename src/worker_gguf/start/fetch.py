"""Finds or downloads the files of the model: its GGUF, and the tokenizer of the original repository."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from worker_gguf.engine.machine import Machine
from worker_gguf.errors import DownloadError, ModelNotFound, NotReady, WorkerError
from worker_gguf.plan import preference
from worker_gguf.settings import Settings
from worker_gguf.settings.adapters import AdapterEntry
from worker_gguf.start.progress_bar import ProgressBar
from worker_gguf.start.start import CANCELLED, Start
from worker_gguf.store import LocalModel, ModelRef, locate
from worker_gguf.store.beside import projector_beside
from worker_gguf.store.select import PREFERENCE, Kind, ModelFiles, Prefer, by_labels

if TYPE_CHECKING:
    from worker_gguf.store import OriginalTokenizer

__all__ = [
    "ReadMachine",
    "fetch",
    "fetch_adapter",
    "fetch_draft",
    "fetch_projector",
    "find",
    "find_adapter",
    "find_projector",
    "original_tokenizer",
]

logger = logging.getLogger(__name__)

ReadMachine = Callable[[], Machine]


def fetch(start: Start, machine: ReadMachine) -> LocalModel:
    """Find the model on this machine or download it. Raises NotReady if the gate cancels the start.

    `machine` reads the machine for which a quantisation is chosen, if the reference has none.
    """
    return _fetch(start, machine, ModelRef.parse(start.settings.model_reference), "fetch")


def fetch_draft(start: Start, machine: ReadMachine) -> LocalModel | None:
    """Find or download the draft model like the model. Returns None if DRAFT_MODEL is not set."""
    reference = start.settings.draft_model
    return None if reference is None else _fetch(start, machine, ModelRef.parse(reference), "fetch draft")


def fetch_adapter(start: Start, machine: ReadMachine, entry: AdapterEntry) -> LocalModel:
    """Find or download an adapter of LORA like the model."""
    try:
        return _fetch(start, machine, entry.ref, f"fetch adapter {entry.name}")
    except (ModelNotFound, DownloadError) as error:
        raise type(error)(f"The adapter {entry.name} of LORA: {error.message}") from None


def fetch_projector(start: Start, machine: ReadMachine, local: LocalModel) -> LocalModel | None:
    """Find or download the projector of a model. Returns None if there is none.

    Without a setting, it is looked for beside the model on disk. It is looked for on the Hub only if the model was
    fetched from there just now, so that a start whose model is here makes no request.
    """
    settings = start.settings
    if settings.mmproj == "none":
        return None
    if settings.names_projector:
        return _fetch(start, machine, ModelRef.parse(settings.mmproj), "fetch projector", "mmproj")
    if (found := projector_beside(local)) is not None or local.source != "download" or local.repo is None:
        return found
    try:
        beside = f"{local.repo}@{local.revision}" if local.revision else local.repo
        return _fetch(start, machine, ModelRef.parse(beside), "fetch projector", "mmproj")
    except ModelNotFound:
        return None  # the repository has no projector
    except WorkerError as error:
        logger.warning("projector could not be fetched", extra={"reason": error.message})
        return None


def find_adapter(settings: Settings, machine: ReadMachine, entry: AdapterEntry) -> LocalModel | None:
    """Find an adapter of LORA on this machine without a network request. Returns None if it is not there."""
    return _locate(settings, entry.ref, machine)


def find_projector(settings: Settings, machine: ReadMachine, local: LocalModel) -> LocalModel | None:
    """Find the projector of a model on this machine without a network request. Returns None if it is not there."""
    if settings.mmproj == "none":
        return None
    if settings.names_projector:
        return _locate(settings, ModelRef.parse(settings.mmproj), machine, "mmproj")
    return projector_beside(local)


def _fetch(start: Start, machine: ReadMachine, ref: ModelRef, phase_name: str, kind: Kind = "model") -> LocalModel:
    with start.phase(phase_name) as phase:
        local = _locate(start.settings, ref, machine, kind) or _download(start, ref, machine, kind)
        phase.size_bytes = local.size_bytes
    return local


def find(settings: Settings, machine: ReadMachine) -> LocalModel | None:
    """Find the model on this machine without a network request. Returns None if it is not there."""
    return _locate(settings, ModelRef.parse(settings.model_reference), machine)


def _locate(settings: Settings, ref: ModelRef, machine: ReadMachine, kind: Kind = "model") -> LocalModel | None:
    prefer = _prefer(machine, kind)
    return locate(ref, settings.cache_dirs(), baked_dir=settings.model_baked_dir, kind=kind, prefer=prefer)


def _prefer(machine: ReadMachine, kind: Kind) -> Prefer | None:
    """Projectors are small, so that the machine does not matter."""
    return prefer_on(machine) if kind == "model" else None


def _download(start: Start, ref: ModelRef, machine: ReadMachine, kind: Kind) -> LocalModel:
    from worker_gguf.store import download_model  # the import takes 15 ms and is only needed for a download

    settings = start.settings
    with ProgressBar(str(ref)) as bar:

        def fetched(done: int, total: int) -> None:
            bar.show(done, total)
            if not start.gate("fetch", done / total if total else 0.0):
                raise NotReady(CANCELLED)

        return download_model(
            ref,
            settings.cache_dir(),
            _token(settings),
            fetched,
            most_bytes=settings.model_cache_max_bytes,
            kind=kind,
            prefer=_prefer(machine, kind),
        )


def original_tokenizer(start: Start) -> OriginalTokenizer | None:
    """Read the tokenizer that TOKENIZER names. Returns None if it is not set."""
    settings = start.settings
    if not settings.tokenizer:
        return None
    with start.phase("tokenizer"):
        from worker_gguf.store import Hub, read_tokenizer

        return read_tokenizer(settings.tokenizer, settings.cache_dir(), Hub(_token(settings)))


def prefer_on(machine: ReadMachine) -> Callable[[Sequence[ModelFiles]], ModelFiles | None]:
    """Return a function that chooses the best quantisation that fits the machine, for a reference without one."""

    def prefer(models: Sequence[ModelFiles]) -> ModelFiles | None:
        return by_labels(partial(preference, order=PREFERENCE, machine=machine()))(models)

    return prefer


def _token(settings: Settings) -> str | None:
    return settings.hf_token.get_secret_value() if settings.hf_token else None
