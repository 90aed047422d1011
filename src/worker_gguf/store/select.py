"""Chooses the files of a model from a list of file names, by quant or by name. Pure functions.

A quant is compared as whole words, ignoring case, with `-`, `.` or `_` between them: `Q4_K` does not match `Q4_K_M`. A
prefix (`UD-Q4_K_XL`, `D_AU-Q8_0`) must match if the reference has one, and is ignored otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Final, Literal, NoReturn, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from worker_gguf.errors import ModelNotFound
from worker_gguf.store.pieces import piece_of

__all__ = ["PREFERENCE", "Kind", "ModelFiles", "Prefer", "by_labels", "choose", "group", "matching", "words_of"]

Kind = Literal["model", "mmproj", "draft", "head", "imatrix"]
"""A `draft` is a small model for speculative decoding. A `head` has the same purpose but cannot be loaded alone."""

PREFERENCE: Final[tuple[str, ...]] = (
    *("Q4_K_M", "Q4_K_XL", "Q4_K_L", "Q5_K_M", "Q5_K_XL", "Q5_K_L"),
    *("Q4_K_S", "Q5_K_S", "IQ4_XS", "IQ4_NL", "MXFP4_MOE", "MXFP4", "NVFP4"),
    *("Q4_K", "Q4_0", "Q4_1", "Q5_K", "Q5_0", "Q5_1"),
    *("Q6_K", "Q6_K_XL", "Q6_K_L", "Q8_0", "Q8_K_XL"),
    *("Q3_K_XL", "Q3_K_L", "Q3_K_M", "IQ3_M", "IQ3_S", "Q3_K_S", "IQ3_XS", "Q2_K_XL", "Q2_K_L"),
    *("Q2_K", "IQ3_XXS", "IQ2_M", "BF16", "F16", "F32"),
)
"""The order of quants for a reference without one, if no plan decides: first the best ones that most machines can run.
"""

PROJECTORS: Final[tuple[str, ...]] = ("F16", "BF16", "Q8_0", "F32")
"""The order for projectors, which are small: the most common ones first."""

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


class ModelFiles(Struct, frozen=True):
    """One model of a repository: its files in order, and the parts of their name.

    `label` is the quant in the name, or None.
    """

    stem: str
    files: tuple[str, ...]
    n_parts: int
    label: str | None
    before: tuple[str, ...]
    """The words of the name before the label, in lower case."""
    after: tuple[str, ...]
    """The words of the name after the label, for example `imat`."""
    kind: Kind
    """Files of another kind than `model` are chosen only by file name, or if their kind is requested."""
    size_bytes: int = 0
    """The size of all its files, or 0 if unknown."""
    joined: str | None = None
    """The name of the joined file if `files` are byte pieces, else None."""

    @property
    def complete(self) -> bool:
        return len(self.files) == self.n_parts

    @property
    def names(self) -> tuple[str, ...]:
        """The file names by which the model can be chosen."""
        return (*self.files, self.joined) if self.joined else self.files

    @property
    def title(self) -> str:
        return self.files[0] if self.n_parts == 1 else f"{self.files[0]} ({self.n_parts} parts)"


Prefer: TypeAlias = Callable[[Sequence[ModelFiles]], ModelFiles | None]
"""Chooses one of several complete models if no quant is requested. Returns None to use PREFERENCE."""


def choose(
    names: Iterable[str] | Mapping[str, int],
    *,
    quant: str | None = None,
    file: str | None = None,
    kind: Kind = "model",
    prefer: Prefer | None = None,
    where: str = "The repository",
) -> ModelFiles:
    """Choose one model, by `file`, else by `quant`, else by `prefer`.

    A mapping of names has their sizes in bytes. Raises ModelNotFound, which lists the available models.
    """
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
    """Return the models that match equally well: one if the choice is clear, else none or several."""
    if file is not None:
        return _by_file(models, file)
    models = _of_kind(models, kind)
    if quant is not None:
        return _by_quant(models, quant)
    whole = [model for model in models if model.complete]
    whole.sort(key=_has_head)  # of two models with the same quant, the first one is used
    if prefer is not None and len(whole) > 1 and (picked := prefer(whole)) is not None:
        return [picked]
    return _by_preference(models, PROJECTORS if kind == "mmproj" else PREFERENCE)


def by_labels(order: Callable[[Mapping[str, int]], Sequence[str]]) -> Prefer:
    """Build a `Prefer` from `order`, which returns an order of quants from their sizes in bytes."""

    def prefer(models: Sequence[ModelFiles]) -> ModelFiles | None:
        sizes: dict[str, int] = {}
        for model in models:
            if model.label:
                sizes.setdefault(model.label, model.size_bytes)
        labels = order(sizes)
        return next((model for label in labels for model in models if model.label == label), None)

    return prefer


def group(names: Iterable[str] | Mapping[str, int]) -> list[ModelFiles]:
    """Group .gguf files into models. The parts of a split model are one model. A mapping has their sizes in bytes."""
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


def words_of(name: str) -> frozenset[str]:
    """Return the words of a name without its quant, in lower case."""
    return frozenset(_words(_LABEL.sub(" ", name.upper())))


def _with_heads(models: list[ModelFiles]) -> list[ModelFiles]:
    """Set the kind of heads. A head and a model that contains one both have MTP in their names.

    A head is less than half as large as the model without a head.
    """
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
    """Return the name without quant, variant and head, which is the same for a head and its model."""
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
    # All words of the folder's name must match: X-MTP-GGUF/ is the folder of a model.
    folders = [set(_words(folder)) for folder in path.parts[:-1]]
    draft_folders = [folder for folder in folders if folder and folder <= _DRAFT_WORDS]
    if _HEAD_WORDS & set(words[:1]).union(*draft_folders):
        return "head"
    return "draft" if draft_folders or "draft" in words else "model"


def _label(name: str) -> tuple[str | None, tuple[str, ...], tuple[str, ...]]:
    """Return the last quant in a name, in the spelling of llama.cpp, and the words before and after it."""
    upper = name.upper()
    matches = list(_LABEL.finditer(upper))
    if not matches:
        return None, (), ()
    label = re.sub(_SEP, "_", matches[-1][0]).replace("FP16", "F16").replace("FP32", "F32")
    # upper() can change the length of a text ("ß"), so the words come from the same text as the match.
    return label, tuple(_words(upper[: matches[-1].start()])), tuple(_words(upper[matches[-1].end() :]))


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[-._ /]+", text.lower()) if word]


def _of_kind(models: list[ModelFiles], kind: Kind) -> list[ModelFiles]:
    """Return the models of a kind, or of a similar kind if there are none.

    A repository of drafts need not call its files drafts, and a repository with files called drafts may have no others.
    """
    for other in (kind, *_INSTEAD.get(kind, ())):
        if found := [model for model in models if model.kind == other]:
            return found
    return []


def _by_file(models: list[ModelFiles], file: str) -> list[ModelFiles]:
    """Match a path exactly, then ignoring case, then as a name in any folder, then as a pattern."""
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
        # The quant is not known, so match its words anywhere in the name.
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
    """Choose among models with the same quant: first those that are not a dynamic (UD) variant, then those without a
    head, then those without words after the quant.
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
