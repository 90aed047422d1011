"""Reads the chat template and special tokens of the original repository, if those of a GGUF file are missing or wrong.

Reads the files that Transformers writes. Transformers is imported only if there is no tokenizer.json. Call `check`
before using the result, to verify that the GGUF file has the same tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from worker_gguf.errors import ModelInvalid, ModelNotFound
from worker_gguf.store.download import write_ref
from worker_gguf.store.hub import Hub
from worker_gguf.store.resolve import repo_folders

__all__ = ["OriginalTokenizer", "read_tokenizer"]

CONFIG: Final = "tokenizer_config.json"
TEXTS: Final = (CONFIG, "tokenizer.json", "chat_template.jinja", "chat_template.json", "generation_config.json")
SLOW: Final = ("tokenizer.model", "spiece.model", "vocab.json", "merges.txt")
"""The files from which Transformers builds a tokenizer if there is no tokenizer.json."""
NAMED_TEMPLATE: Final = re.compile(r"additional_chat_templates/([\w-]+)\.jinja")
SAMPLE: Final = 512
MAX_FILE_BYTES: Final = 128 << 20
_REPO: Final = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)


class OriginalTokenizer(Struct, frozen=True):
    """The tokenizer of the original repository.

    `special` has all special tokens by id, and `sample` some of the other tokens.
    """

    name: str
    chat_templates: Mapping[str, str]
    bos_token: str | None
    eos_tokens: tuple[str, ...]
    """The EOS token of the tokenizer first, then others from generation_config.json."""
    special: Mapping[int, str]
    sample: Mapping[int, str]

    @property
    def bos_id(self) -> int | None:
        return self._id(self.bos_token)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        return tuple(found for token in self.eos_tokens if (found := self._id(token)) is not None)

    def check(self, n_tokens: int, token_text: Callable[[int], str]) -> None:
        """Raise ModelInvalid unless the GGUF file has the same tokens with the same ids."""
        for kind, tokens in (("special token", self.special), ("token", self.sample)):
            for token, text in tokens.items():
                if token >= n_tokens:
                    self._refuse(f"its {kind} {text!r} has the id {token}, but the model has {n_tokens} tokens")
                if token_text(token) != text:
                    self._refuse(f"its {kind} {token} is {text!r}, but the model's is {token_text(token)!r}")

    def _id(self, text: str | None) -> int | None:
        return next((token for token, known in self.special.items() if known == text), None)

    def _refuse(self, why: str) -> None:
        raise ModelInvalid(
            f"TOKENIZER={self.name} does not belong to this model: {why}. Name the repository that the GGUF file was "
            "made from, or unset TOKENIZER."
        )


def read_tokenizer(reference: str, cache_dir: Path, hub: Hub) -> OriginalTokenizer:
    """Read the tokenizer from a folder or from `org/repo[@revision]`, which is fetched if it is not in the cache.

    Raises ModelNotFound, ModelInvalid or DownloadError.
    """
    folder = Path(reference).expanduser()
    if reference.startswith(("/", ".", "~")) or folder.is_dir():
        if not folder.is_dir():
            raise ModelNotFound(f"TOKENIZER={reference} is not a folder. Write a folder or org/repo.")
    else:
        found = _REPO.fullmatch(reference)
        if not found:
            raise ModelNotFound(
                f"TOKENIZER={reference} is not a repository. Write org/repo, org/repo@revision or a folder."
            )
        folder = _cached(found[1], found[2], cache_dir) or _fetched(found[1], found[2], cache_dir, hub)
    try:
        return _read(reference, folder)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelInvalid(
            f"TOKENIZER={reference} has files in a different format than Transformers writes ({type(error).__name__}: "
            f"{str(error)[:80]}). Name another repository."
        ) from error


def _cached(repo: str, revision: str | None, cache_dir: Path) -> Path | None:
    """Return the cached snapshot of the revision if it has a tokenizer, else None."""
    for folder in repo_folders(repo, cache_dir):
        ref = folder / "refs" / (revision or "main")
        commit = ref.read_text("utf-8").strip() if ref.is_file() else (revision or "")
        snapshot = folder / "snapshots" / commit
        if commit and Path(commit).name == commit and (snapshot / CONFIG).is_file():
            return snapshot
    return None


def _fetched(repo: str, revision: str | None, cache_dir: Path, hub: Hub) -> Path:
    listing = hub.listing(repo, revision)
    names = [name for name in listing.files if name in TEXTS or NAMED_TEMPLATE.fullmatch(name)]
    if CONFIG not in names:
        raise ModelNotFound(f"TOKENIZER={repo} has no {CONFIG}. Name the repository that the GGUF file was made from.")
    if "tokenizer.json" not in names:
        names += [name for name in SLOW if name in listing.files]
    # The configuration is fetched last, so that a snapshot that has it is complete.
    for name in sorted(names, key=lambda name: name == CONFIG):
        path = hub.fetch_small(repo, name, listing.commit, cache_dir)
    if revision != listing.commit:
        write_ref(cache_dir / f"models--{repo.replace('/', '--')}", revision or "main", listing.commit)
    return path.parent


def _read(name: str, folder: Path) -> OriginalTokenizer:
    config = _json(folder / CONFIG, name)
    if not config:
        raise ModelNotFound(f"TOKENIZER={name} has no {CONFIG}. Name the repository that the GGUF file was made from.")
    tokenizer = _json(folder / "tokenizer.json", name)
    special = {int(token): _text(entry) or "" for token, entry in _object(config, "added_tokens_decoder").items()}
    for entry in tokenizer.get("added_tokens") or ():
        special[int(entry["id"])] = str(entry["content"])
    vocabulary = _vocabulary(tokenizer) if tokenizer else _vocabulary_of_transformers(name, folder)
    for token in ("bos_token", "eos_token"):
        text = _text(config.get(token))
        if text and text not in special.values() and text in vocabulary:
            special[vocabulary[text]] = text
    by_id = sorted((token, text) for text, token in vocabulary.items() if token not in special)
    return OriginalTokenizer(
        name=name,
        chat_templates=_templates(name, folder, config),
        bos_token=_text(config.get("bos_token")),
        eos_tokens=_eos_tokens(name, folder, config, special),
        special=special,
        sample=dict(by_id[:: max(1, len(by_id) // SAMPLE)]),
    )


def _templates(name: str, folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the chat templates by name. As in Transformers, template files have priority over the configuration."""
    source = config.get("chat_template") or _json(folder / "chat_template.json", name).get("chat_template")
    templates: dict[str, str] = {}
    if isinstance(source, str):
        templates["default"] = source
    elif isinstance(source, list):
        templates = {str(entry["name"]): str(entry["template"]) for entry in source}
    if (folder / "chat_template.jinja").is_file():
        templates["default"] = (folder / "chat_template.jinja").read_text("utf-8")
    for path in sorted(folder.glob("additional_chat_templates/*.jinja")):
        templates[path.stem] = path.read_text("utf-8")
    return templates


def _eos_tokens(name: str, folder: Path, config: Mapping[str, Any], special: Mapping[int, str]) -> tuple[str, ...]:
    tokens = [text] if (text := _text(config.get("eos_token"))) else []
    ids = _json(folder / "generation_config.json", name).get("eos_token_id")
    for token in ids if isinstance(ids, list) else [ids]:
        if isinstance(token, int) and token in special and special[token] not in tokens:
            tokens.append(special[token])
    return tuple(tokens)


def _vocabulary(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Return the ids of tokens by their texts. A Unigram model has a list of pairs of text and score instead."""
    vocabulary = _object(tokenizer, "model").get("vocab") or {}
    if isinstance(vocabulary, list):
        return {str(pair[0]): token for token, pair in enumerate(vocabulary)}
    return {str(text): int(token) for text, token in vocabulary.items()}


def _vocabulary_of_transformers(name: str, folder: Path) -> dict[str, int]:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ModelInvalid(
            f"TOKENIZER={name} has no tokenizer.json, so Transformers must read it: pip install "
            "'worker-gguf[transformers]', or name a repository that has one."
        ) from None
    try:
        vocabulary: dict[str, int] = AutoTokenizer.from_pretrained(str(folder), local_files_only=True).get_vocab()
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelInvalid(f"TOKENIZER={name} cannot be read by Transformers ({reason}). Name another one.") from error
    return vocabulary


def _json(path: Path, name: str) -> dict[str, Any]:
    """Read the JSON object in a file. Returns an empty one if the file does not exist. Raises ModelInvalid."""
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ModelInvalid(f"TOKENIZER={name}: its {path.name} is larger than any tokenizer. Name another repository.")
    try:
        value = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelInvalid(f"TOKENIZER={name}: its {path.name} is not JSON ({error}). Fetch it again.") from error
    if not isinstance(value, dict):
        raise ModelInvalid(f"TOKENIZER={name}: its {path.name} is not a JSON object. Name another repository.")
    return value


def _object(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _text(token: object) -> str | None:
    """Return the text of a token, which is written as a string or as an object with `content`, or None."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None
