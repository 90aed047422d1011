"""Lists repositories of the Hugging Face Hub and opens their files. Turns failures into errors with a next step.

huggingface_hub is imported inside functions, because this takes 0.2 s and is not needed if the model is on disk.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from msgspec import Struct

from worker_gguf.errors import DownloadError, ModelNotFound, WorkerError
from worker_gguf.store.parallel_fetch import Digest
from worker_gguf.store.web import Interrupted, WebFile

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

__all__ = ["Hub", "Listing", "RemoteFile"]

logger = logging.getLogger(__name__)

_COMMIT: Final = re.compile(r"\w[\w.-]{0,99}", re.ASCII)


class RemoteFile(Struct, frozen=True):
    """The size and digest of one file in a repository."""

    size_bytes: int
    sha256: str | None
    """None for small files, which are not in large file storage."""
    git_sha1: str | None = None

    @property
    def digest(self) -> Digest | None:
        """The expected digest of the file, or None. Its hexadecimal form is the name of the blob in a cache."""
        if self.sha256:
            return Digest("sha256", self.sha256)
        return Digest("git", self.git_sha1) if self.git_sha1 else None


class Listing(Struct, frozen=True):
    """The content of one commit of a repository."""

    commit: str
    files: Mapping[str, RemoteFile]


class Hub(Struct, frozen=True):
    """The Hub, or a mirror of it at `endpoint`, with an access token or None.

    `retry_waits_s` are the pauses in seconds after failed attempts. A Retry-After over `most_wait_s` is an error.
    """

    token: str | None = None
    endpoint: str | None = None
    retry_waits_s: tuple[float, ...] = (1.0, 3.0)
    most_wait_s: float = 120.0

    def listing(self, repo: str, revision: str | None) -> Listing:
        """List the files of a repository in one request. Raises ModelNotFound or DownloadError."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import OfflineModeIsEnabled

        api = HfApi(endpoint=self.endpoint, token=self.token)
        for wait_s in (*self.retry_waits_s, None):
            try:
                with self._sentences(repo, revision):
                    info = api.model_info(repo, revision=revision, files_metadata=True, timeout=30.0)
                break
            except DownloadError as error:
                if wait_s is None or isinstance(error.__cause__, OfflineModeIsEnabled):
                    raise
                wait_s = max(wait_s, error.retry_after_s or 0)
                if wait_s > self.most_wait_s:
                    raise
                logger.warning(
                    "the Hub did not answer; trying again",
                    extra={"repo": repo, "wait_s": wait_s, "reason": error.message},
                )
                time.sleep(wait_s)
        if not info.sha or not _COMMIT.fullmatch(info.sha):
            raise DownloadError(f"{self._host} sent no valid commit for {repo}. Check HF_ENDPOINT.")
        files = {
            item.rfilename: RemoteFile(
                item.size or 0, _hexadecimal(item.lfs.sha256, 64) if item.lfs else None, _hexadecimal(item.blob_id, 40)
            )
            for item in info.siblings or ()
            if _stays_inside(item.rfilename)
        }
        return Listing(info.sha, files)

    def fetch_small(self, repo: str, file: str, commit: str, cache_dir: Path) -> Path:
        """Download one small file, for example of a tokenizer, into the cache."""
        from huggingface_hub import hf_hub_download

        with self._sentences(repo, commit, file):
            path = hf_hub_download(
                repo, file, revision=commit, cache_dir=cache_dir, token=self.token, endpoint=self.endpoint
            )
        return Path(path)

    def open(self, repo: str, file: str, commit: str, size_bytes: int) -> WebFile:
        """Return a file that can be read by ranges. Makes no request yet."""

        def address() -> str:
            from huggingface_hub import get_hf_file_metadata, hf_hub_url

            url = hf_hub_url(repo, file, revision=commit, endpoint=self.endpoint)
            try:
                with self._sentences(repo, commit, file):
                    metadata = get_hf_file_metadata(url, token=self.token, timeout=30.0, endpoint=self.endpoint)
            except DownloadError as error:
                raise Interrupted(error) from error
            return metadata.location

        def headers(url: str) -> Mapping[str, str]:
            from huggingface_hub import hf_hub_url
            from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

            # Send the token only to the Hub. If the file is on another host, its URL is signed.
            own = urlsplit(hf_hub_url(repo, file, endpoint=self.endpoint)).netloc
            return build_hf_headers(token=self.token if urlsplit(url).netloc == own else False)

        return WebFile(file, address, size_bytes, headers=headers)

    @property
    def _host(self) -> str:
        return self.endpoint or "huggingface.co"

    @contextmanager
    def _sentences(self, repo: str, revision: str | None, file: str | None = None) -> Iterator[None]:
        """Convert the errors that huggingface_hub raises into errors of this package."""
        from huggingface_hub.errors import HfHubHTTPError

        # The base error of the HTTP library under huggingface_hub, which changed twice (requests, httpx, httpx2).
        transport_error: type[Exception] = HfHubHTTPError.__mro__[1]
        try:
            yield
        except (OSError, RuntimeError, ValueError, transport_error) as error:  # hf_xet raises RuntimeError
            raise self._explain(error, repo, revision, file) from error

    def _explain(self, error: BaseException, repo: str, revision: str | None, file: str | None) -> WorkerError:
        from huggingface_hub import errors as hub

        if isinstance(error, hub.LocalEntryNotFoundError) and error.__cause__ is not None:
            return self._explain(error.__cause__, repo, revision, file)
        if isinstance(error, hub.OfflineModeIsEnabled):
            return DownloadError(f"{repo} is not in the cache, and HF_HUB_OFFLINE forbids fetching it. Unset it.")
        if isinstance(error, hub.HfHubHTTPError):
            return self._explain_status(error, repo, revision, file)
        what = str(error).strip().split("\n")[0] or type(error).__name__
        return DownloadError(
            f"{file or repo} could not be fetched from {self._host} ({what}). "
            "Check the network, or use a model that is on disk."
        )

    def _explain_status(
        self, error: HfHubHTTPError, repo: str, revision: str | None, file: str | None
    ) -> ModelNotFound | DownloadError:
        from huggingface_hub import errors as hub

        status = error.response.status_code
        if isinstance(error, hub.GatedRepoError):
            return ModelNotFound(
                f"{repo} is gated. Accept its terms at https://huggingface.co/{repo} and set HF_TOKEN to a token of "
                f"that account{' (the one that is set has no access)' if self.token else ''}."
            )
        if isinstance(error, hub.RevisionNotFoundError):
            return ModelNotFound(f"{repo} has no revision {revision or 'main'}. Name a branch, a tag or a commit.")
        if isinstance(error, hub.EntryNotFoundError):
            return ModelNotFound(f"{repo} has no file {file} at revision {revision or 'main'}.")
        if status in (401, 403):
            return ModelNotFound(
                f"{repo} does not exist, is private, or cannot be read "
                f"{'with this HF_TOKEN' if self.token else 'without HF_TOKEN'} ({status}). "
                "Check the name, and set HF_TOKEN to a token that may read it."
            )
        if isinstance(error, hub.RepositoryNotFoundError) or status == 404:
            return ModelNotFound(f"{self._host} has no repository {repo}. Check the name; if private, set HF_TOKEN.")
        if status == 429:
            after = error.response.headers.get("Retry-After", "")
            return DownloadError(
                f"{self._host} got too many requests (429). Wait, or set HF_TOKEN, which has higher limits.",
                retry_after_s=int(after) if after.isdecimal() else None,
            )
        return DownloadError(f"{self._host} answered {status} for {file or repo}. Try again later.")


def _hexadecimal(text: str | None, length: int) -> str | None:
    return text if text and re.fullmatch(rf"[0-9a-f]{{{length}}}", text) else None


def _stays_inside(name: str) -> bool:
    """Return whether the name of a file is safe as a path in the cache."""
    return not any(part in ("", ".", "..") for part in name.split("/")) and "\\" not in name and "\0" not in name
