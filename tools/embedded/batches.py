"""Turns conversations into token rows with loss weights, and rows into batches of like length."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tools.embedded import template
from tools.embedded.conversation import Conversation
from tools.embedded.vocabulary import EOT, token_id

OTHER_WEIGHT = 0.05
# Rows of like length share a batch; a batch is this many conversations' worth of shuffling.
POOL = 512

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Row:
    tokens: Ints
    weights: Floats


@dataclass(frozen=True, slots=True)
class Batch:
    tokens: Ints
    targets: Ints
    weights: Floats


def rows(tokenizer: Tokenizer, conversations: Iterable[Conversation]) -> list[Row]:
    texts = [template.render(c.messages, c.tools, add_generation_prompt=False) for c in conversations]
    marks = _Marks.of(tokenizer)
    encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
    return [_row(np.array(e.ids, dtype=np.int64), marks) for e in encoded]


@dataclass(frozen=True, slots=True)
class _Marks:
    """The tokens that open and close what the assistant says."""

    opening: tuple[int, ...]
    closing: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "_Marks":
        header = "<|start_header_id|>assistant<|end_header_id|>\n\n"
        opening = tuple(tokenizer.encode(header, add_special_tokens=False).ids)
        return cls(opening, token_id(tokenizer, EOT))


def _row(tokens: Ints, marks: _Marks) -> Row:
    weights = np.full(len(tokens), OTHER_WEIGHT, dtype=np.float32)
    width = len(marks.opening)
    for start in np.flatnonzero(tokens == marks.opening[0]):
        if tuple(tokens[start : start + width]) == marks.opening:
            end = start + int(np.argmax(tokens[start:] == marks.closing))
            weights[start + width : end + 1] = 1.0
    return Row(tokens, weights)


def batches(rng: random.Random, all_rows: list[Row], n_tokens: int, n_ctx: int) -> Iterator[Batch]:
    """Yield each row once; every batch holds at most `n_tokens` places."""
    usable = [row for row in all_rows if len(row.tokens) <= n_ctx]
    rng.shuffle(usable)
    for first in range(0, len(usable), POOL):
        pool = sorted(usable[first : first + POOL], key=lambda row: len(row.tokens))
        groups = _groups(pool, n_tokens)
        rng.shuffle(groups)
        yield from (_batch(group) for group in groups)


def _groups(pool: list[Row], n_tokens: int) -> list[list[Row]]:
    groups: list[list[Row]] = []
    for row in pool:
        if groups and (len(groups[-1]) + 1) * len(row.tokens) <= n_tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _batch(group: list[Row]) -> Batch:
    # Padding stands right of the text, where causal attention never looks; its weight is 0.
    length = max(len(row.tokens) for row in group) - 1
    tokens = np.zeros((len(group), length), dtype=np.int64)
    targets = np.zeros_like(tokens)
    weights = np.zeros(tokens.shape, dtype=np.float32)
    for place, row in enumerate(group):
        n = len(row.tokens) - 1
        tokens[place, :n] = row.tokens[:-1]
        targets[place, :n] = row.tokens[1:]
        weights[place, :n] = row.weights[1:]
    return Batch(tokens, targets, weights)
