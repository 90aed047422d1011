"""The LoRA adapters of a start: their files, the checks of their headers, and the messages that load them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from msgspec import Struct

from worker_gguf.errors import ModelInvalid
from worker_gguf.gguf import ModelHeader, changed_matrix, read_header, why_no_adapter_of
from worker_gguf.link.messages import LoadAdapter
from worker_gguf.plan.planning import pools_for
from worker_gguf.settings import Settings
from worker_gguf.settings.adapters import AdapterEntry
from worker_gguf.start.fetch import ReadMachine, fetch_adapter
from worker_gguf.start.read_ahead import ReadAhead
from worker_gguf.start.start import Start
from worker_gguf.store import LocalModel, UsageMark

__all__ = ["Adapter", "Adapters", "adapter_headers", "check_adapter", "find_adapters"]

logger = logging.getLogger(__name__)


class Adapter(Struct, frozen=True):
    """One adapter on disk. `scale` is that of requests which name it without a scale."""

    name: str
    scale: float
    local: LocalModel
    header: ModelHeader

    def command(self, *, has_file: bool) -> LoadAdapter:
        """Return the message that loads the adapter."""
        return LoadAdapter(name=self.name, path=str(self.local.path), scale=self.scale, has_file=has_file)

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "scale": self.scale, "size_bytes": self.local.size_bytes}


class Adapters(Struct, frozen=True):
    """The adapters of one model, in the order of LORA. Their files are protected from pruning until `release`."""

    all: tuple[Adapter, ...] = ()
    ahead: ReadAhead | None = None
    usage_mark: UsageMark | None = None

    @property
    def headers(self) -> list[ModelHeader]:
        return [adapter.header for adapter in self.all]

    def fds(self) -> list[int | None]:
        """Return the descriptors from which to load, or None for those that must be loaded by their paths."""
        files = self.ahead.files() if self.ahead is not None else []
        return [file.fileno() for file in files] or [None] * len(self.all)

    def close(self) -> None:
        """Close the files, when the adapters are loaded."""
        if self.ahead is not None:
            self.ahead.close()

    def release(self) -> None:
        """Close the files and end their protection."""
        self.close()
        if self.usage_mark is not None:
            self.usage_mark.release()


def find_adapters(start: Start, machine: ReadMachine, model: LocalModel, header: ModelHeader) -> Adapters:
    """Find or download the adapters of LORA, begin to read them, and check their headers.

    Raises ModelInvalid if the headers show that one is not an adapter for the model, or the error of a download.
    """
    if not start.settings.lora:
        return Adapters()
    _check_generates(start.settings, model, header)
    entries = start.settings.adapters
    found = [fetch_adapter(start, machine, entry) for entry in entries]
    _check_files(entries, found)
    paths = tuple(local.path for local in found)
    size_bytes = sum(local.size_bytes for local in found)
    ahead = ReadAhead(start, phase="adapter prefetch")
    ahead.follow(LocalModel(paths, size_bytes, None, None, "path"))
    ahead.opened()  # none is opened by its name after this, unless there is no prefetch
    adapters = Adapters(ahead=ahead, usage_mark=UsageMark(paths, start.settings.cache_dir()))
    try:
        with start.phase("adapter headers"):
            files: Sequence[BinaryIO | Path] = ahead.files() or paths
            headers = [read_header(file, name=str(path)) for file, path in zip(files, paths, strict=True)]
        all_ = [Adapter(e.name, e.scale, local, h) for e, local, h in zip(entries, found, headers, strict=True)]
        _check(all_, model, header)
    except BaseException:
        adapters.release()
        raise
    return Adapters(tuple(all_), ahead, adapters.usage_mark)


def adapter_headers(
    settings: Settings, found: Sequence[LocalModel], model: LocalModel, header: ModelHeader
) -> list[ModelHeader]:
    """Read and check the headers of the adapters of LORA, which are `found` on disk, for a model that is not loaded.

    Raises ModelInvalid if they show that one is not an adapter for the model.
    """
    if not found:
        return []
    _check_generates(settings, model, header)
    _check_files(settings.adapters, found)
    headers = [read_header(local.path) for local in found]
    for entry, local, adapter in zip(settings.adapters, found, headers, strict=True):
        check_adapter(entry.name, adapter, local.path.name, header, model.path.name)
    return headers


def check_adapter(name: str, adapter: ModelHeader, file: str, model: ModelHeader, model_name: str) -> None:
    """Raise ModelInvalid if the headers show that a file is not a LoRA adapter for a model."""
    if why := why_no_adapter_of(model, adapter):
        raise ModelInvalid(
            f"The adapter {name} of LORA cannot be used with {model_name}: {file} {why}. Take an adapter that was "
            "trained for this model, or remove it from LORA."
        )


def _check_generates(settings: Settings, model: LocalModel, header: ModelHeader) -> None:
    if pools_for(header, settings) is not None:
        raise ModelInvalid(f"LORA cannot be used with {model.path.name}, which generates no text here. Unset LORA.")


def _check_files(entries: Sequence[AdapterEntry], found: Sequence[LocalModel]) -> None:
    for entry, local in zip(entries, found, strict=True):
        if len(local.paths) > 1:
            raise ModelInvalid(f"The adapter {entry.name} of LORA has several files, and llama.cpp reads only one.")


def _check(adapters: Sequence[Adapter], model: LocalModel, header: ModelHeader) -> None:
    for adapter in adapters:
        file = adapter.local.path.name
        check_adapter(adapter.name, adapter.header, file, header, model.path.name)
        # llama.cpp leaves them out.
        if n_norms := sum(changed_matrix(tensor) is None for tensor in adapter.header.tensors):
            reason = f"{file} has {n_norms} vectors of norms, which llama.cpp leaves out"
            logger.warning("adapter not applied in full", extra={"adapter": adapter.name, "reason": reason})
