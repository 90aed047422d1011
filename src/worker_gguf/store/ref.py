"""Parses model references, the texts in MODEL, into typed values, without network requests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from worker_gguf.errors import ModelNotFound
from worker_gguf.store.pieces import piece_of

__all__ = ["EmbeddedRef", "HubRef", "ModelRef", "PathRef", "UrlRef"]

# The rule of the Hub for names. "--" and ".." are also refused.
_NAME: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REPO: Final = re.compile(rf"{_NAME}/{_NAME}")
_REVISION: Final = re.compile(r"\w[\w./-]{0,199}", re.ASCII)
_HUB_HOSTS: Final = ("huggingface.co", "www.huggingface.co", "hf.co")
_HUB_PREFIX: Final = re.compile(r"(?:hf://|hf:|(?:https?://)?(?:www\.)?(?:huggingface|hf)\.co/)", re.IGNORECASE)
_FORMS: Final = "Write org/repo:QUANT, org/repo/file.gguf, a path to a .gguf file, or 'embedded'."


class ModelRef(Struct, frozen=True):
    """A reference to a model: EmbeddedRef, PathRef, HubRef or UrlRef. Parsing its `str()` returns an equal value."""

    @staticmethod
    def parse(text: str) -> ModelRef:
        """Parse a reference. Raises ModelNotFound if it is malformed.

        Reads the disk only to distinguish `folder/model.gguf` from `org/repo`.
        """
        text = text.strip()
        if not text or "\0" in text:
            raise ModelNotFound(f"The model reference is empty. {_FORMS}")
        if text.lower() == "embedded":
            return EmbeddedRef()
        if text.startswith(("/", ".", "~")) or Path(text).is_file():
            return PathRef(Path(text).expanduser())
        if re.match(r"https?://", text, re.IGNORECASE):
            return _parse_url(text)
        if prefix := _HUB_PREFIX.match(text):
            return _parse_hub(text[prefix.end() :], text)
        if text.lower().endswith(".gguf") and text.count("/") < 2 and ":" not in text:
            return PathRef(Path(text))
        return _parse_hub(text, text)

    @staticmethod
    def from_pair(model_repository_id: str, model_filename: str = "") -> HubRef:
        """Parse the older variables MODEL_REPOSITORY_ID and MODEL_FILENAME (a file, a pattern with `*`, or a quant).

        Raises ModelNotFound if they are malformed.
        """
        ref = _parse_hub(_HUB_PREFIX.sub("", model_repository_id.strip(), count=1), model_repository_id)
        filename = model_filename.strip().lstrip("/")
        if ref.quant or ref.file:
            raise ModelNotFound(
                f"MODEL_REPOSITORY_ID='{model_repository_id}' names more than a repository. "
                "Write only org/repo there and the file in MODEL_FILENAME, or all of it in MODEL."
            )
        if piece := piece_of(filename):
            filename = piece.joined
        if filename.lower().endswith(".gguf") or "*" in filename:
            return HubRef(ref.repo, file=_checked_file(filename, model_filename), revision=ref.revision)
        return HubRef(ref.repo, quant=filename or None, revision=ref.revision)


class EmbeddedRef(ModelRef, frozen=True):
    """The tiny model in this package."""

    def __str__(self) -> str:
        return "embedded"


class PathRef(ModelRef, frozen=True):
    """A file on this machine, or a folder with a model."""

    path: Path

    def __str__(self) -> str:
        text = str(self.path)
        return text if text.startswith(("/", ".", "~")) else f"./{text}"


class HubRef(ModelRef, frozen=True):
    """A model in a Hugging Face repository, chosen by quant, by file (exact or with `*`), or by preference."""

    repo: str
    quant: str | None = None
    file: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        text = f"{self.repo}/{self.file}" if self.file else self.repo
        text = f"{text}:{self.quant}" if self.quant else text
        return f"{text}@{self.revision}" if self.revision else text


class UrlRef(ModelRef, frozen=True):
    """A file on a plain web server."""

    url: str

    def __str__(self) -> str:
        return self.url


def _parse_hub(text: str, whole: str) -> HubRef:
    body, at, revision = text.partition("@")
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise ModelNotFound(f"'{whole}' has no revision after its '@'. Write org/repo:QUANT@branch, a tag or a commit.")
    path, colon, quant = body.partition(":")
    org, _, rest = path.strip("/").partition("/")
    name, _, file = rest.partition("/")
    repo = f"{org}/{name}"
    if not _REPO.fullmatch(repo) or "--" in repo or ".." in repo:
        raise ModelNotFound(f"'{whole}' is not a model reference. {_FORMS}")
    quant = quant.strip()
    if colon and not quant:
        raise ModelNotFound(f"'{whole}' has no quant after its ':'. Write for example {repo}:Q4_K_M.")
    if file and quant:
        raise ModelNotFound(f"'{whole}' names both a file and a quant. Write {repo}/{file} or {repo}:{quant}.")
    if quant.lower().endswith(".gguf"):
        file, quant = quant, ""
    if piece := piece_of(file):
        file = piece.joined
    if file and not file.lower().endswith(".gguf") and "*" not in file:
        raise ModelNotFound(f"'{whole}' names the file {file}, which is not a .gguf file. {_FORMS}")
    file = _checked_file(file, whole)
    return HubRef(repo, quant=quant or None, file=file or None, revision=revision or None)


def _checked_file(file: str, whole: str) -> str:
    if any(part in ("", ".", "..") for part in file.split("/")) and file:
        raise ModelNotFound(
            f"'{whole}' names the file '{file}', which leaves its repository. Write a path without '..'."
        )
    return file


def _parse_url(text: str) -> ModelRef:
    """Parse a URL. A URL of the Hub becomes a reference to a repository."""
    shown = text.partition("?")[0]  # the rest may be a signature
    try:
        url = urlsplit(text)
        path, _ = unquote(url.path), url.port  # a port that is not a number raises
    except ValueError:
        raise ModelNotFound(f"'{shown}' is not a URL. {_FORMS}") from None
    if (url.hostname or "").lower() not in _HUB_HOSTS:
        if not url.hostname or not path.lower().endswith(".gguf") or "\0" in path:
            raise ModelNotFound(f"'{shown}' is not the URL of a .gguf file. {_FORMS}")
        return UrlRef(text)
    parts = path.strip("/").split("/")
    if len(parts) > 4 and parts[2] in ("resolve", "blob", "raw"):
        return _parse_hub(f"{parts[0]}/{parts[1]}/{'/'.join(parts[4:])}@{parts[3]}", text)
    if len(parts) > 3 and parts[2] == "tree":
        return _parse_hub(f"{parts[0]}/{parts[1]}@{parts[3]}", text)
    return _parse_hub("/".join(parts), text)
