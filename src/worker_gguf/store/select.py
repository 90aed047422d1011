"""Chooses a model's files from a list of file names, by quant or by name. Touches neither disk nor network.

A quant is compared as whole words, in any case and with any of `-`, `.` and `_` between: `Q4_K` is not `Q4_K_M`. A
prefix (`UD-Q4_K_XL`, `D_AU-Q8_0`) counts when a reference names it, and is free otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Final, Literal, NoReturn, TypeAlias

from worker_gguf.errors import ModelNotFound
from worker_gguf.store.pieces import piece_of

__all__ = ["PREFERENCE", "Kind", "ModelFiles", "Prefer", "by_labels", "choose", "group", "matching"]

Kind = Literal["model", "mmproj", "draft", "head", "imatrix"]
"""A `draft` is a small model that drafts for a larger one; a `head` drafts too and cannot be loaded alone."""

PREFERENCE: Final[tuple[str, ...]] = (
    *("Q4_K_M", "Q4_K_XL", "Q4_K_L", "Q5_K_M", "Q5_K_XL", "Q5_K_L"),
    *("Q4_K_S", "Q5_K_S", "IQ4_XS", "IQ4_NL", "MXFP4_MOE", "MXFP4", "NVFP4"),
    *("Q4_K", "Q4_0", "Q4_1", "Q5_K", "Q5_0", "Q5_1"),
    *("Q6_K", "Q6_K_XL", "Q6_K_L", "Q8_0", "Q8_K_XL"),
    *("Q3_K_XL", "Q3_K_L", "Q3_K_M", "IQ3_M", "IQ3_S", "Q3_K_S", "IQ3_XS", "Q2_K_XL", "Q2_K_L"),
    *("Q2_K", "IQ3_XXS", "IQ2_M", "BF16", "F16", "F32"),
)
"""Which quant is taken when none is asked for and no plan decides: the best that most machines can run first."""

PROJECTORS: Final[tuple[str, ...]] = ("F16", "BF16", "Q8_0", "F32")
"""The same for projectors, which are small: the usual one first."""

_SEP: Final = r"[-._]"
_LABEL: Final = re.compile(
    rf"(?<![A-Z0-9])(?:"
    rf"I?Q[1-8]{_SEP}[01](?:{_SEP}[48]{_SEP}[48])?"  # Q8_0, Q4_0_4_8
    rf"|I?Q[1-8]{_SEP}K(?:{_SEP}(?:XXS|XS|XXL|XL|[SMLP]))?"  # Q4_K_M, IQ4_K
    rf"|IQ[1-8]{_SEP}(?:XXS|XS|NL|XL|[SML]|KSS|KS|KT|KL)(?:{_SEP}[48]{_SEP}[48])?"  # IQ4_XS
    rf"|TQ[12]{_SEP}0|MXFP4(?:{_SEP}MOE)?|NVFP4|BF16|FP?16|FP?32|Q[1-8]"
    rf")(?![A-Z0-9])"
)
_SPLIT: Final = re.compile(r"(?P<stem>.*)-(?P<part>\d{5})-of-(?P<count>\d{5})", re.IGNORECASE)
_MOST_SHOWN: Final = 40
_HEAD_WORDS: Final = frozenset({"mtp", "nextn", "eagle3", "dflash"})
_DRAFT_WORDS: Final = frozenset({*_HEAD_WORDS, "draft", "drafts", "drafter", "drafters", "head", "heads"})
_INSTEAD: Final[Mapping[Kind, tuple[Kind, ...]]] = {"model": ("draft", "head"), "draft": ("head", "model")}


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """One model of a repository: its files in order, and the quant in their name."""

    stem: str
    files: tuple[str, ...]
    n_parts: int
    label: str | None
    before: tuple[str, ...]
    """The words of the name before the label, in lower case."""
    after: tuple[str, ...]
    """The words behind the label (`imat`)."""
    kind: Kind
    """All but `model` are chosen only by file name, or when their kind is asked for."""
    size_bytes: int = 0
    """The size of all its files; 0 where sizes are unknown."""
    joined: str | None = None
    """The name of the one file that `files` make, where they are byte pieces of it."""

    @property
    def complete(self) -> bool:
        return len(self.files) == self.n_parts

    @property
    def names(self) -> tuple[str, ...]:
        """The names by which the model can be requested."""
        return (*self.files, self.joined) if self.joined else self.files

    @property
    def title(self) -> str:
        return self.files[0] if self.n_parts == 1 else f"{self.files[0]} ({self.n_parts} parts)"


Prefer: TypeAlias = Callable[[Sequence[ModelFiles]], ModelFiles | None]
"""Picks one of several whole models when no quant is asked for; None leaves it to PREFERENCE."""


def choose(
    names: Iterable[str] | Mapping[str, int],
    *,
    quant: str | None = None,
    file: str | None = None,
    kind: Kind = "model",
    prefer: Prefer | None = None,
    where: str = "The repository",
) -> ModelFiles:
    """Choose one model, by `file`, else by `quant`, else by `prefer`. Raises ModelNotFound, which lists the models."""
    models = group(names)
    found = matching(models, quant=quant, file=file, kind=kind, prefer=prefer)
    if len(found) != 1:
        _refuse(where, _wanted(quant, file, kind), found, models)
    if not found[0].complete:
        raise ModelNotFound(
            f"{where} has {len(found[0].files)} of the {found[0].n_parts} parts of {found[0].stem}. "
            "Choose another quant, or ask the author for the missing parts."
        )
    return found[0]


def matching(
    models: list[ModelFiles],
    *,
    quant: str | None,
    file: str | None,
    kind: Kind = "model",
    prefer: Prefer | None = None,
) -> list[ModelFiles]:
    """Return the models that match equally well: one if the choice is clear, none, or several."""
    if file is not None:
        return _by_file(models, file)
    models = _of_kind(models, kind)
    if quant is not None:
        return _by_quant(models, quant)
    whole = [model for model in models if model.complete]
    whole.sort(key=_has_head)  # of two models with one quant, the first is taken
    if prefer is not None and len(whole) > 1 and (picked := prefer(whole)) is not None:
        return [picked]
    return _by_preference(models, PROJECTORS if kind == "mmproj" else PREFERENCE)


def by_labels(order: Callable[[Mapping[str, int]], Sequence[str]]) -> Prefer:
    """Return a preference by an order of quants, which `order` makes from their sizes in bytes."""

    def prefer(models: Sequence[ModelFiles]) -> ModelFiles | None:
        sizes: dict[str, int] = {}
        for model in models:
            if model.label:
                sizes.setdefault(model.label, model.size_bytes)
        labels = order(sizes)
        return next((model for label in labels for model in models if model.label == label), None)

    return prefer


def group(names: Iterable[str] | Mapping[str, int]) -> list[ModelFiles]:
    """Group the .gguf files into models. The parts of a split model are one model, in order. A mapping has their
    sizes.
    """
    sizes = names if isinstance(names, Mapping) else {}
    all_names = set(names)
    parts: dict[tuple[str, int, str | None], dict[int, str]] = {}
    for name in sorted(all_names):
        piece = piece_of(name)
        if piece and piece.joined not in all_names and 1 <= piece.number <= piece.total:
            parts.setdefault((piece.joined[: -len(".gguf")], piece.total, piece.joined), {})[piece.number] = name
        if not name.lower().endswith(".gguf"):
            continue
        stem = name[: -len(".gguf")]
        split = _SPLIT.fullmatch(stem)
        count = int(split["count"]) if split else 1
        number = int(split["part"]) if split else 1
        if 1 <= number <= count:
            parts.setdefault((split["stem"] if split else stem, count, None), {})[number] = name
    models = []
    for (stem, count, joined), files in parts.items():
        in_order = tuple(files[number] for number in sorted(files))
        model = _describe(stem, in_order, count, sum(sizes.get(name, 0) for name in in_order))
        models.append(replace(model, joined=joined))
    return _with_heads(models)


def _with_heads(models: list[ModelFiles]) -> list[ModelFiles]:
    """Distinguish heads from models that contain one. Both have MTP in their names, and a head is much smaller."""
    sizes: dict[str, list[int]] = {}
    for model in models:
        if model.kind == "model" and not _has_head(model):
            sizes.setdefault(_base(model), []).append(model.size_bytes)

    def is_head(model: ModelFiles) -> bool:
        twins = sizes.get(_base(model)) if model.kind == "model" and _has_head(model) else None
        return twins is not None and (not model.size_bytes or model.size_bytes * 2 < min(twins))

    return [replace(model, kind="head") if is_head(model) else model for model in models]


def _has_head(model: ModelFiles) -> bool:
    return not _HEAD_WORDS.isdisjoint(_words(PurePosixPath(model.stem).name))


def _base(model: ModelFiles) -> str:
    """Return the name without its quant, variant and head, which shows the model that a head belongs to."""
    name = _LABEL.sub(" ", PurePosixPath(model.stem).name.upper())
    return "".join(word for word in _words(name) if word != "ud" and word not in _HEAD_WORDS)


def _describe(stem: str, files: tuple[str, ...], n_parts: int, size_bytes: int) -> ModelFiles:
    path = PurePosixPath(stem)
    label, before, after = _label(path.name)
    if label is None and len(path.parts) > 1:
        label, before, after = _label(path.parent.name)
    return ModelFiles(stem, files, n_parts, label, before, after, _kind(path, label), size_bytes)


def _kind(path: PurePosixPath, label: str | None) -> Kind:
    words = _words(path.name)
    if any(word.startswith("mmproj") for word in words):
        return "mmproj"
    if "imatrix" in words and label is None:
        return "imatrix"
    # Only folders with exactly such a name, because X-MTP-GGUF/ is the folder of a model.
    folders = [set(_words(folder)) for folder in path.parts[:-1]]
    telling = [folder for folder in folders if folder and folder <= _DRAFT_WORDS]
    if _HEAD_WORDS & set(words[:1]).union(*telling):
        return "head"
    return "draft" if telling or "draft" in words else "model"


def _label(name: str) -> tuple[str | None, tuple[str, ...], tuple[str, ...]]:
    """Return the last quant in a name, spelled as llama.cpp spells it, and the words before and after it."""
    upper = name.upper()
    matches = list(_LABEL.finditer(upper))
    if not matches:
        return None, (), ()
    label = re.sub(_SEP, "_", matches[-1][0]).replace("FP16", "F16").replace("FP32", "F32")
    # Case folding may change a text's length ("ß"), so the words come from the same text as the match.
    return label, tuple(_words(upper[: matches[-1].start()])), tuple(_words(upper[matches[-1].end() :]))


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[-._ /]+", text.lower()) if word]


def _of_kind(models: list[ModelFiles], kind: Kind) -> list[ModelFiles]:
    """Leave out projectors, drafts and heads, unless there is nothing else.

    A repository of drafts need not name any file a draft, and one that does may have no other model.
    """
    for other in (kind, *_INSTEAD.get(kind, ())):
        if found := [model for model in models if model.kind == other]:
            return found
    return []


def _by_file(models: list[ModelFiles], file: str) -> list[ModelFiles]:
    """Match a path exactly, then in any case, then as a bare name in any folder, then as a pattern."""
    lower = file.lower()
    matchers = (
        lambda name: name == file,
        lambda name: name.lower() == lower,
        lambda name: PurePosixPath(name).name.lower() == lower,
        lambda name: "*" in lower and fnmatchcase(name.lower(), lower.replace("[", "[[]")),
    )
    for matches in matchers:
        if found := [model for model in models if any(matches(name) for name in model.names)]:
            return found
    return []


def _by_quant(models: list[ModelFiles], quant: str) -> list[ModelFiles]:
    label, before, after = _label(quant)
    if label is None:
        # The quant is unknown: look for its words anywhere in the name.
        words = _words(quant)
        return [model for model in models if words and _contains(_words(model.stem), words)]
    same = [model for model in models if model.label == label and model.after[: len(after)] == after]
    if before:
        same = [model for model in same if model.before[-len(before) :] == before]
    return _plainest(same, any_variant=bool(before))


def _by_preference(models: list[ModelFiles], preference: Sequence[str]) -> list[ModelFiles]:
    if len(models) == 1:
        return models
    whole = [model for model in models if model.complete]
    for label in preference:
        if found := _plainest([model for model in whole if model.label == label]):
            return found
    return whole


def _plainest(models: list[ModelFiles], *, any_variant: bool = False) -> list[ModelFiles]:
    """Among models with one quant, prefer those that are not a dynamic (UD) variant and hold no head, then the shortest
    name.
    """
    plain = [model for model in models if any_variant or model.before[-1:] != ("ud",)] or models
    plain = [model for model in plain if any_variant or not _has_head(model)] or plain
    return [model for model in plain if not model.after] or plain


def _contains(words: list[str], wanted: list[str]) -> bool:
    return any(words[i : i + len(wanted)] == wanted for i in range(len(words) - len(wanted) + 1))


def _wanted(quant: str | None, file: str | None, kind: Kind) -> str:
    what = f"file {file}" if file else f"quant {quant}" if quant else "reference without a quant"
    return what if kind == "model" else f"{what} ({kind})"


def _refuse(where: str, wanted: str, found: list[ModelFiles], models: list[ModelFiles]) -> NoReturn:
    if found:
        raise ModelNotFound(
            f"{where} has several models for the {wanted}: {_listing(found)}. Name one file: org/repo/path/file.gguf."
        )
    if not models:
        raise ModelNotFound(f"{where} has no .gguf file. Name another one; on the Hub they are often called ...-GGUF.")
    raise ModelNotFound(f"{where} has no model for the {wanted}. It has: {_listing(models)}.")


def _listing(models: list[ModelFiles]) -> str:
    titles = [model.title for model in models]
    more = f" and {len(titles) - _MOST_SHOWN} more" if len(titles) > _MOST_SHOWN else ""
    return ", ".join(titles[:_MOST_SHOWN]) + more
