"""The cache layout of the Hugging Face Hub, shared with other tools.

It has blobs named by digest, snapshots of links by commit, and refs by branch. The worker's other files are in
`.locks/worker-gguf`, which the Hub's tools ignore: leases, usage marks, partial downloads.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from worker_gguf.errors import DownloadError
from worker_gguf.store.web import stable_url

__all__ = ["Cache", "is_inside", "write_ref"]


class Cache(Struct, frozen=True):
    """The paths in a cache at `folder`."""

    folder: Path

    @property
    def work(self) -> Path:
        return self.folder / ".locks" / "worker-gguf"

    @property
    def partials(self) -> Path:
        return self.work / "partial"

    @property
    def marks(self) -> Path:
        return self.work / "in-use"

    @property
    def bin(self) -> Path:
        """The folder for files that are about to be deleted, where no tool finds them."""
        return self.work / "deleted"

    def lease(self, key: str) -> Path:
        return self.work / "lease" / key

    def repo(self, name: str) -> Path:
        return self.folder / f"models--{name.replace('/', '--')}"

    def blob(self, repo: str, digest: str) -> Path:
        return self.repo(repo) / "blobs" / digest

    def snapshot(self, repo: str, commit: str) -> Path:
        return self.repo(repo) / "snapshots" / commit

    def url(self, url: str) -> Path:
        """Return the path for the file of a URL. It does not depend on the URL's signature."""
        import hashlib  # imported here, as others below, because the cold start waits for this module

        name = unquote(urlsplit(url).path).rpartition("/")[2]
        return self.folder / "urls" / hashlib.sha256(stable_url(url).encode()).hexdigest()[:16] / name

    def check_inside(self, path: Path) -> None:
        """Raise DownloadError if a symbolic link leads from `path` to a place outside the cache."""
        if not is_inside(path, self.folder):
            raise DownloadError(
                f"{path} leads out of the cache {self.folder} by a symbolic link. Remove the link, "
                "or set MODEL_CACHE_DIR to its target."
            )

    def link(self, repo: str, commit: str, file: str, blob: Path) -> Path:
        """Link a blob to its name in a snapshot and return that path. If links are not supported, moves the blob."""
        path = self.snapshot(repo, commit) / file
        self.check_inside(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        target = os.path.relpath(blob, path.parent)
        if path.is_symlink() and str(path.readlink()) == target:
            return path
        import uuid

        fresh = path.with_name(f".{uuid.uuid4().hex}")
        try:
            fresh.symlink_to(target)
        except OSError:
            _move(blob, path)
        else:
            fresh.replace(path)
        return path


def _move(blob: Path, path: Path) -> None:
    try:
        blob.replace(path)
    except FileNotFoundError:
        if not path.is_file():  # otherwise another worker has already moved it
            raise


def write_ref(repo_folder: Path, revision: str, commit: str) -> None:
    """Write the commit of a branch or tag to refs/, atomically, in the format of the Hub's cache."""
    import tempfile

    path = repo_folder / "refs" / revision
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False, encoding="utf-8") as file:
        file.write(commit)
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether a path is in a folder after all links are resolved."""
    return path.resolve().is_relative_to(folder.resolve())
