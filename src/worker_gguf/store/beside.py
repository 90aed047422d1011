"""Finds the projector (mmproj file) beside a model on disk. Reads one folder, and makes no network request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from worker_gguf.store import select
from worker_gguf.store.resolve import LocalModel
from worker_gguf.store.select import ModelFiles

__all__ = ["projector_beside"]

_NO_NAME = frozenset({"mmproj", "model"})


def projector_beside(local: LocalModel) -> LocalModel | None:
    """Return the projector in the folder of a model, or in the one above it for a folder of a repository.

    Outside of a repository, its name must have no words but those of the model's name, unless there is no other model.
    Returns None if there is none, or if it is not clear which one it is.
    """
    if local.source == "embedded":
        return None
    for folder in _folders(local):
        models = select.group(_names(folder))
        projectors = [model for model in models if model.kind == "mmproj" and model.complete]
        if not projectors:
            continue
        if local.repo is None:
            is_only_model = sum(model.kind == "model" for model in models) == 1
            projectors = _of_model(projectors, local.path.stem, is_only_model=is_only_model)
        found = select.matching(projectors, quant=None, file=None, kind="mmproj")
        if len(found) != 1 or len(found[0].files) != 1:
            return None
        path = folder / found[0].files[0]
        return LocalModel((path,), path.stat().st_size, local.repo, local.revision, local.source)
    return None


def _folders(local: LocalModel) -> Iterator[Path]:
    """Yield the folder of a model, and the one above it if that is of the same repository."""
    folder = local.path.parent
    yield folder
    if local.repo is not None and local.revision is not None and folder.name != local.revision:
        yield folder.parent


def _names(folder: Path) -> list[str]:
    try:
        names = [path.name for path in folder.iterdir() if path.name.lower().endswith(".gguf")]
    except OSError:
        return []
    return names if any("mmproj" in name.lower() for name in names) else []


def _of_model(projectors: list[ModelFiles], name: str, *, is_only_model: bool) -> list[ModelFiles]:
    """Return the projectors that may belong to a model, by their names without quants.

    A projector without words of its own, such as `mmproj-model-f16.gguf`, belongs to whatever lies beside it.
    """
    words = select.words_of(name)
    own = [(projector, select.words_of(projector.stem) - _NO_NAME) for projector in projectors]
    named = [projector for projector, of_it in own if of_it and of_it <= words]
    plain = [projector for projector, of_it in own if not of_it]
    return named or plain or (projectors if is_only_model else [])
