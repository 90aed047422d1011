"""`worker-gguf fetch` downloads a model before a worker needs it, for example to an image or a network volume."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from worker_gguf.errors import WorkerError

if TYPE_CHECKING:
    from worker_gguf.settings import Settings
    from worker_gguf.store import LocalModel, ModelRef
    from worker_gguf.store.select import Kind

__all__ = ["add_arguments", "fetch"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", help="org/repo:QUANT or a URL; default: MODEL, DRAFT_MODEL and LORA, or MODELS"
    )
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="a cache in the Hub's layout; default: the worker's")


def fetch(arguments: argparse.Namespace, *, endpoint: str | None = None) -> int:
    """Download the model, DRAFT_MODEL and LORA, or all of MODELS, and print the paths of the files.

    Returns the exit code. A projector comes along, as at a start. If the model is on disk, no request is made. Without
    a quant, the default order decides, because this may not be the machine that will run the model.
    """
    from worker_gguf.cli.named_model import settings_for
    from worker_gguf.errors import SettingsError
    from worker_gguf.store import UsageMark

    try:
        with ExitStack() as marks:
            for settings, ref, kind in _wanted(settings_for(arguments.model), has_name=arguments.model is not None):
                local = _ensure(settings, ref, arguments.to, endpoint)
                beside = _projector(settings, local, arguments.to, endpoint) if kind == "model" else None
                for found in (local, beside):
                    if found is None:
                        continue
                    # Making room for the next model must not delete this one.
                    marks.callback(UsageMark(found.paths, settings.cache_dir()).release)
                    print("\n".join(str(path) for path in found.paths), flush=True)
    except SettingsError as error:
        print(error.message, file=sys.stderr)
        return 2
    except WorkerError as error:
        print(f"worker-gguf: {error.message}", file=sys.stderr)
        return 1
    return 0


def _wanted(settings: Settings, *, has_name: bool) -> Iterator[tuple[Settings, ModelRef, str]]:
    """Yield what to fetch, with its settings and its kind. With `has_name`, only the named model is wanted."""
    from worker_gguf.store import ModelRef

    if settings.models is not None:
        from worker_gguf.fleet.roster import read_roster

        for entry in read_roster(settings):
            yield entry.settings, ModelRef.parse(entry.settings.model_reference), "model"
            if has_name:
                return
            yield from _adapters(entry.settings)
        return
    yield settings, ModelRef.parse(settings.model_reference), "model"
    if has_name:
        return
    if settings.draft_model is not None:
        yield settings, ModelRef.parse(settings.draft_model), "draft"
    yield from _adapters(settings)


def _adapters(settings: Settings) -> Iterator[tuple[Settings, ModelRef, str]]:
    return ((settings, adapter.ref, "adapter") for adapter in settings.adapters)


def _projector(settings: Settings, local: LocalModel, folder: Path | None, endpoint: str | None) -> LocalModel | None:
    """Fetch the projector that MMPROJ names, or the one of the repository from which the model was fetched just now."""
    from worker_gguf.errors import ModelNotFound
    from worker_gguf.store import ModelRef
    from worker_gguf.store.beside import projector_beside

    if settings.mmproj == "none":
        return None
    if settings.mmproj != "auto":
        return _ensure(settings, ModelRef.parse(settings.mmproj), folder, endpoint, "mmproj")
    if (beside := projector_beside(local)) is not None or local.source != "download" or local.repo is None:
        return beside
    repository = f"{local.repo}@{local.revision}" if local.revision else local.repo
    try:
        return _ensure(settings, ModelRef.parse(repository), folder, endpoint, "mmproj")
    except ModelNotFound:
        return None  # the repository has none


def _ensure(
    settings: Settings, ref: ModelRef, folder: Path | None, endpoint: str | None, kind: Kind = "model"
) -> LocalModel:
    from worker_gguf.start.progress_bar import ProgressBar
    from worker_gguf.store import ensure

    with ProgressBar(str(ref)) as bar:
        return ensure(
            ref,
            [folder] if folder else settings.cache_dirs(),
            settings.hf_token.get_secret_value() if settings.hf_token else None,
            bar.show,
            download_dir=folder or settings.cache_dir(),
            endpoint=endpoint,
            most_bytes=None if folder else settings.model_cache_max_bytes,
            kind=kind,
        )
