"""Finds a model that is already on this machine. Makes no network request and writes nothing."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from worker_gguf.errors import DownloadError, ModelNotFound
from worker_gguf.store import select
from worker_gguf.store.cache import Cache, is_inside
from worker_gguf.store.pieces import Piece, piece_of
from worker_gguf.store.ref import EmbeddedRef, HubRef, ModelRef, PathRef, UrlRef
from worker_gguf.store.select import Kind, Prefer

__all__ = ["LocalModel", "Source", "locate", "repo_folders"]

Source = Literal["embedded", "path", "image", "cache", "download"]

logger = logging.getLogger(__name__)

_EMBEDDED_FOLDER: Final = Path(__file__).parent.parent / "embedded"
_DEFAULT_REVISION: Final = "main"


class LocalModel(Struct, frozen=True):
    """A complete model on disk. `paths` are its files in order; llama.cpp gets the first one."""

    paths: tuple[Path, ...]
    size_bytes: int
    repo: str | None
    revision: str | None
    """The commit of the repository, or None."""
    source: Source

    @property
    def path(self) -> Path:
        return self.paths[0]

    @property
    def name(self) -> str:
        return f"{self.repo}/{self.path.name}" if self.repo else self.path.name


def locate(
    ref: ModelRef,
    cache_dirs: Sequence[Path],
    *,
    embedded_folder: Path = _EMBEDDED_FOLDER,
    baked_dir: Path | None = None,
    kind: Kind = "model",
    prefer: Prefer | None = None,
) -> LocalModel | None:
    """Return the model if all its files are on disk, or None if a download is necessary.

    Searches `baked_dir`, a folder of the image, and then `cache_dirs` in order, which have the Hub's layout
    (`models--org--name/…`). Raises ModelNotFound if a download would not help: if a path does not exist, or if a quant
    matches several files. Raises DownloadError if the disk cannot be read.
    """
    wanted = _Wanted(kind, prefer)
    try:
        match ref:
            case EmbeddedRef():
                return _embedded(embedded_folder)
            case PathRef(path):
                return _at_path(path, wanted)
            case HubRef():
                found = chain(_in_image(ref, baked_dir, wanted), _in_caches(ref, cache_dirs, wanted))
                return next(found, None)
            case UrlRef(url):
                return next(_fetched_url(url, baked_dir, cache_dirs), None)
    except PermissionError as error:
        raise DownloadError(f"{error.filename} cannot be read. Check the permissions of the volume.") from error
    except OSError as error:
        raise DownloadError(f"{error.filename or ref} cannot be read ({error.strerror}). Check the volume.") from error
    return None


class _Wanted(Struct, frozen=True):
    """The kind of file to find, and the preference among quants."""

    kind: Kind = "model"
    prefer: Prefer | None = None


def repo_folders(repo: str, cache_dir: Path) -> list[Path]:
    """Return the folders of a repository in a cache, ignoring case. An exact match comes first.

    RunPod's documentation shows the names of its cached models both in lower case and in their original case.
    """
    wanted = f"models--{repo.replace('/', '--')}"
    try:
        names = [path.name for path in cache_dir.iterdir() if path.name.lower() == wanted.lower()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [cache_dir / name for name in sorted(names, key=lambda name: (name != wanted, name))]


def _at_path(path: Path, wanted: _Wanted) -> LocalModel:
    if path.is_dir():
        return _in_folder(path, "path", wanted)
    if not path.is_file():
        raise ModelNotFound(
            f"No model file exists at {path}. Check the path, or write org/repo:QUANT to fetch a model."
        )
    if piece := piece_of(path.name):
        raise _not_joined(f"{path} is one of {piece.total} byte pieces", piece)
    neighbours = [file.name for file in path.parent.iterdir() if file.name.lower().endswith(".gguf")]
    if path.name not in neighbours:  # a GGUF file under another name
        return _local([path], "path")
    files = select.choose(neighbours, file=path.name, where=f"The folder {path.parent}").files
    return _local([path.parent / name for name in files], "path")


def _embedded(folder: Path) -> LocalModel:
    if not _gguf_names(folder):
        raise ModelNotFound(
            "The embedded model is missing from this installation. Install the package again or set MODEL."
        )
    return _in_folder(folder, "embedded", _Wanted())


def _in_folder(folder: Path, source: Source, wanted: _Wanted) -> LocalModel:
    names = _sizes(folder, _gguf_names(folder))
    pieces = {path.name: piece for path in sorted(folder.iterdir()) if (piece := piece_of(path.name))}
    if pieces and not names:
        shown = ", ".join(list(pieces)[:10])
        raise _not_joined(f"The folder {folder} has only byte pieces ({shown})", next(iter(pieces.values())))
    files = select.choose(names, kind=wanted.kind, prefer=wanted.prefer, where=f"The folder {folder}").files
    return _local([folder / name for name in files], source)


def _not_joined(what: str, piece: Piece) -> ModelNotFound:
    return ModelNotFound(
        f"{what} of a model, but llama.cpp reads only whole files. Join the pieces in order into {piece.joined}, or "
        "write org/repo:QUANT, so that a download joins them."
    )


def _in_image(ref: HubRef, folder: Path | None, wanted: _Wanted) -> Iterator[LocalModel]:
    """Search the folder of the image for a cache in the Hub's layout, a folder `org/repo`, or the named file."""
    if folder is None or not folder.is_dir():
        return
    for found in _in_caches(ref, [folder], wanted):
        yield replace(found, source="image")
    if ref.revision is not None:
        return  # the revision of a plain folder is unknown
    for plain in _folders_in_any_case(folder, ref.repo):
        if files := _choose_whole(ref, _sizes(plain, _gguf_names(plain, folder)), wanted):
            yield _local([plain / name for name in files], "image", ref.repo)
    if ref.file is not None and (files := _choose_whole(ref, _sizes(folder, _gguf_names(folder, folder)), wanted)):
        yield _local([folder / name for name in files], "image", ref.repo)


def _folders_in_any_case(folder: Path, repo: str) -> list[Path]:
    found = [folder]
    for wanted in repo.lower().split("/"):
        found = [path for parent in found for path in sorted(parent.iterdir()) if path.name.lower() == wanted]
        found = [path for path in found if path.is_dir()]
    return found


def _in_caches(ref: HubRef, cache_dirs: Sequence[Path], wanted: _Wanted) -> Iterator[LocalModel]:
    for cache_dir in cache_dirs:
        for folder in repo_folders(ref.repo, cache_dir):
            for commit in _commits(folder, ref.revision):
                snapshot = folder / "snapshots" / commit
                if files := _choose_whole(ref, _sizes(snapshot, _gguf_names(snapshot, cache_dir)), wanted):
                    yield _local([snapshot / name for name in files], "cache", ref.repo, commit)


def _fetched_url(url: str, baked_dir: Path | None, cache_dirs: Sequence[Path]) -> Iterator[LocalModel]:
    name = Cache(Path()).url(url).name
    if baked_dir is not None and (baked_dir / name).is_file():
        yield _local([baked_dir / name], "image")
    for cache_dir in cache_dirs:
        path = Cache(cache_dir).url(url)
        if path.is_file() and is_inside(path, cache_dir):
            yield _local([path], "cache")


def _commits(folder: Path, revision: str | None) -> list[str]:
    """Return the names of the snapshots to use for a revision.

    For a branch, tag or commit, only its own snapshot is used. Without a revision, refs/main decides. If the cache has
    no refs, all snapshots are returned, the newest first.
    """
    snapshots = folder / "snapshots"
    if revision is not None and (snapshots / revision).is_dir():
        return [revision]
    ref = folder / "refs" / (revision or _DEFAULT_REVISION)
    if ref.is_file():
        commit = ref.read_text(encoding="utf-8", errors="replace").strip()
        return [commit] if commit and Path(commit).name == commit else []
    if revision not in (None, _DEFAULT_REVISION) or ref.parent.is_dir() or not snapshots.is_dir():
        return []
    found = [path for path in snapshots.iterdir() if path.is_dir()]
    return [path.name for path in sorted(found, key=lambda path: (-path.stat().st_mtime, path.name))]


def _choose_whole(ref: HubRef, sizes: Mapping[str, int], wanted: _Wanted) -> tuple[str, ...] | None:
    """Choose one of the complete models on disk and return its files, or None if no model matches."""
    whole = [model for model in select.group(sizes) if model.complete]
    is_named = ref.quant is not None or ref.file is not None
    if wanted.kind == "draft" and not is_named and not any(model.kind == "draft" for model in whole):
        # A cache has only some files of the repository, so the file that is here may not be a draft.
        return None
    found = select.matching(whole, quant=ref.quant, file=ref.file, kind=wanted.kind)
    if not found or (wanted.kind == "model" and ref.file is None and all(model.kind == "head" for model in found)):
        return None  # a head, which another tool may have fetched, is not the model
    here = {name: sizes[name] for model in whole for name in model.files}
    where = f"The cache of {ref.repo}"
    return select.choose(
        here, quant=ref.quant, file=ref.file, kind=wanted.kind, prefer=wanted.prefer, where=where
    ).files


def _gguf_names(folder: Path, root: Path | None = None) -> list[str]:
    """Return the paths of the .gguf files below a folder, relative to it.

    Links to missing files, and links that lead out of `root`, are left out.
    """
    names: list[str] = []
    for parent, _, files in os.walk(folder):
        paths = [Path(parent) / name for name in files if name.lower().endswith(".gguf")]
        for path in paths:
            if not path.is_file():
                continue
            if root is not None and not is_inside(path, root):
                logger.warning("symbolic link out of the cache refused", extra={"path": str(path), "cache": str(root)})
                continue
            names.append(path.relative_to(folder).as_posix())
    return names


def _sizes(folder: Path, names: Iterable[str]) -> dict[str, int]:
    return {name: (folder / name).stat().st_size for name in names}


def _local(paths: Sequence[Path], source: Source, repo: str | None = None, revision: str | None = None) -> LocalModel:
    return LocalModel(tuple(paths), sum(path.stat().st_size for path in paths), repo, revision, source)
