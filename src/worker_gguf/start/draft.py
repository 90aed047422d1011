"""The draft model of a start: its files, and the messages that load it and open its context."""

from __future__ import annotations

from msgspec import Struct

from worker_gguf.errors import ModelInvalid
from worker_gguf.gguf import (
    ArrayInfo,
    ModelHeader,
    abilities_of,
    first_difference,
    read_headers,
    read_texts,
    special_ids,
)
from worker_gguf.link.messages import LoadDraft
from worker_gguf.plan import DraftPlan
from worker_gguf.settings import Settings
from worker_gguf.start.params import draft_params, vocabulary_size
from worker_gguf.start.read_ahead import ReadAhead
from worker_gguf.store import LocalModel

__all__ = ["DraftModel", "check_headers"]

# As in llama.cpp (common/speculative.cpp): later models of a family add a few tokens, and the first ones are special.
_MOST_DIFFERENT_TOKENS = 128
_FIRST_COMMON_TOKEN = 5


class DraftModel(Struct, frozen=True):
    """A draft model on disk. `ahead` reads it into the page cache, and has its files open."""

    local: LocalModel
    header: ModelHeader
    ahead: ReadAhead

    @classmethod
    def begin(
        cls,
        local: LocalModel,
        ahead: ReadAhead,
        target: LocalModel,
        target_header: ModelHeader,
        target_ahead: ReadAhead,
    ) -> DraftModel:
        """Begin to read the files. Raises ModelInvalid if the headers show that it cannot guess tokens for `target`.

        After the load, `llama.draft.check_pair` asks llama.cpp whether their memories can be cut.
        """
        ahead.follow(local)
        draft = cls(local, read_headers(local.paths, ahead.files()), ahead)
        draft._check(target, target_header, target_ahead)
        return draft

    def _check(self, target: LocalModel, header: ModelHeader, ahead: ReadAhead) -> None:
        name, target_name = self.local.path.name, target.path.name
        check_headers(self.header, name, header, target_name)
        texts, other_texts = _texts(target, header, ahead), _texts(self.local, self.header, self.ahead)
        if why := _why_texts_differ(texts, other_texts):
            raise _of_another_family(name, target_name, why)

    def fd(self) -> int | None:
        """Return the descriptor from which to load the model, or None if it must be loaded by its path."""
        return self.ahead.fd(self.header.data_offset)

    def command(self, settings: Settings, plan: DraftPlan, *, has_file: bool) -> LoadDraft:
        """Return the message that loads the model."""
        params = draft_params(settings, plan, vocabulary_size(self.header))
        return LoadDraft(path=str(self.local.path), params=params, has_file=has_file)


def check_headers(draft: ModelHeader, name: str, target: ModelHeader, target_name: str) -> None:
    """Raise ModelInvalid if the headers show that a draft model cannot guess tokens for a model.

    Does not compare the texts of the tokens, which a ModelHeader does not hold.
    """
    if not abilities_of(draft).generates:
        raise ModelInvalid(f"{name} cannot draft for {target_name}: it does not generate text. Unset DRAFT_MODEL.")
    if why := _why_headers_differ(target, draft):
        raise _of_another_family(name, target_name, why)


def _of_another_family(name: str, target_name: str, why: str) -> ModelInvalid:
    return ModelInvalid(f"{name} cannot draft for {target_name}: {why}. Set DRAFT_MODEL to a model of the same family.")


def _texts(local: LocalModel, header: ModelHeader, ahead: ReadAhead) -> bytes:
    """Return the texts of the tokens as they stand in the file."""
    tokens = header.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, ArrayInfo):
        return b""
    return read_texts(next(iter(ahead.files()), local.path), tokens, name=str(local.path))


def _why_headers_differ(target: ModelHeader, draft: ModelHeader) -> str | None:
    """Return why two vocabularies do not match by their kinds, sizes and special tokens.

    The rules are those of llama.cpp (common_speculative_are_compatible in common/speculative.cpp), which compares BOS
    and EOS only if the models add them.
    """
    ours, theirs = special_ids(target), special_ids(draft)
    if ours.kind != theirs.kind:
        return f"it has a {theirs.kind} vocabulary and the model a {ours.kind} one"
    for name, special, other in (("BOS", ours.bos, theirs.bos), ("EOS", ours.eos, theirs.eos)):
        if special != other:
            return f"{name} is {_named(other)} in the draft model and {_named(special)} in the model"
    if abs(target.n_vocab - draft.n_vocab) > _MOST_DIFFERENT_TOKENS:
        return f"the draft model has {draft.n_vocab} tokens and the model {target.n_vocab}"
    return None


def _why_texts_differ(texts: bytes, other_texts: bytes) -> str | None:
    if (difference := first_difference(texts, other_texts, _FIRST_COMMON_TOKEN)) is None:
        return None
    text, other_text = (text.decode("utf-8", "replace") for text in (difference.text, difference.other))
    return f"token {difference.at} is {other_text!r} in the draft model and {text!r} in the model"


def _named(token: int | None) -> str:
    return "no token" if token is None else f"token {token}"
