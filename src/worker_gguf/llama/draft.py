"""Guesses tokens with a draft model: a second context with a place for each slot of the served model."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np

from worker_gguf.engine.batch import Chunk
from worker_gguf.engine.drafter import DraftRequest, Drafts, DraftStep
from worker_gguf.engine.runner import SpecialTokens
from worker_gguf.engine.slots import common_prefix
from worker_gguf.errors import ModelInvalid
from worker_gguf.llama.candidates import Floats
from worker_gguf.llama.context import Context, DecodeFailed, NoSpace
from worker_gguf.llama.model import Model

__all__ = ["LlamaDrafter", "check_pair", "most_likely"]

logger = logging.getLogger(__name__)


class LlamaDrafter:
    """Draws the most likely token of the draft model again and again, for all slots together.

    The context has a sequence for each slot. Its tokens are a prefix of those of the slot, apart from wrong guesses,
    which are cut off with the next request.
    """

    def __init__(self, model: Model, context: Context, n_vocab: int) -> None:
        """`n_vocab` is the number of tokens of the served model."""
        self._eog: frozenset[int] = frozenset()
        self._context = context
        self._n_readable = model.n_vocab
        self._n_common = min(model.n_vocab, n_vocab)
        self._held: list[list[int]] = [[] for _ in range(context.params.n_parallel)]
        self._has_failed = False

    @property
    def n_ctx(self) -> int:
        return min(self._context.params.n_ctx, self._context.n_ctx_seq)

    @property
    def reads_along(self) -> bool:
        return False

    def adopt(self, special: SpecialTokens) -> None:
        self._eog = special.eog

    def draft(self, requests: Sequence[DraftRequest], most_read: int | None = None) -> Drafts:
        if self._has_failed:
            return Drafts()
        missing: dict[int, int] = {}
        steps: list[DraftStep] = []
        guesses: dict[int, list[int]] = {}
        wanted = {request.slot: request.n for request in requests}
        try:
            most = self._context.params.n_ubatch
            chunks = self._unread(requests, most if most_read is None else min(most, most_read), missing)
            while chunks:
                drawn = self._decode(chunks, steps)
                chunks = []
                for slot, token in drawn:
                    if slot in missing or token in self._eog:
                        continue  # the draw after the last guess gives the end of generation without a guess
                    guesses.setdefault(slot, []).append(token)
                    if len(guesses[slot]) < wanted[slot]:
                        chunks.append(Chunk(slot, len(self._held[slot]), [token], n_outputs=1))
        except (DecodeFailed, NoSpace) as error:
            self._has_failed = True
            logger.error("draft model failed", extra={"reason": f"{error} Answers go on without it."})
            return Drafts(steps=tuple(steps))
        return Drafts({slot: tuple(tokens) for slot, tokens in guesses.items()}, missing, tuple(steps))

    def warm_up(self, token: int) -> None:
        """Draw two tokens, so that graphs are built before the first request. Raises ModelInvalid if this fails."""
        self.draft([DraftRequest(0, [token], 2)])
        self._cut(0, 0)
        if self._has_failed:
            raise ModelInvalid("The draft model could not be computed; see the log. Unset DRAFT_MODEL.")

    def _unread(self, requests: Sequence[DraftRequest], left: int, missing: dict[int, int]) -> list[Chunk]:
        """Return the tokens that the draft model must read, at most `left`, the shortest rest first.

        Writes to `missing` how many tokens of each sequence will still be unread.
        """
        for request in requests:
            held = self._held[request.slot]
            # The last token is always read, for the logits.
            self._cut(request.slot, common_prefix(held, request.tokens[:-1]))
        chunks: list[Chunk] = []
        for request in sorted(requests, key=lambda request: len(request.tokens) - len(self._held[request.slot])):
            start = len(self._held[request.slot])
            tokens = list(request.tokens[start : start + left])
            if n_missing := len(request.tokens) - start - len(tokens):
                missing[request.slot] = n_missing
            # The vocabulary may lack some of the target's last tokens.
            if tokens and max(tokens) < self._n_readable:
                # Without a row of logits, a decode would return before a GPU has computed it, and its time be unknown.
                chunks.append(Chunk(request.slot, start, tokens, n_outputs=1))
                left -= len(tokens)
        return chunks

    def _decode(self, chunks: list[Chunk], steps: list[DraftStep]) -> list[tuple[int, int]]:
        """Compute the chunks and return the most likely next token of each slot."""
        chunks.sort(key=lambda chunk: chunk.slot)
        started = time.perf_counter()
        drawn = most_likely(self._context.decode(chunks), self._n_common)
        n_tokens = sum(len(chunk.tokens) for chunk in chunks)
        steps.append(DraftStep(len(chunks), n_tokens - len(chunks), time.perf_counter() - started))
        for chunk in chunks:
            self._held[chunk.slot] += chunk.tokens
        return [(chunk.slot, token) for chunk, token in zip(chunks, drawn, strict=True)]

    def _cut(self, slot: int, n_tokens: int) -> None:
        """Keep only the first tokens of a slot."""
        if n_tokens < len(self._held[slot]):
            if not self._context.truncate(slot, n_tokens):
                raise RuntimeError("the memory of the draft model cannot be cut")
            del self._held[slot][n_tokens:]


def check_pair(target: Model, target_name: str, draft: Model, draft_name: str) -> None:
    """Raise ModelInvalid if `draft` cannot guess tokens for `target`.

    Their vocabularies are compared before the load, by the headers of the files (`start/draft.py`).
    """
    for model, name in ((target, target_name), (draft, draft_name)):
        if model.is_recurrent:
            raise ModelInvalid(
                f"{draft_name} cannot draft for {target_name}: {name} has a recurrent memory, from which wrong guesses "
                "cannot be removed. Unset DRAFT_MODEL."
            )


def most_likely(logits: Floats, n_tokens: int) -> list[int]:
    """Return the index of the largest of the first `n_tokens` logits in each row."""
    best: list[int] = np.argmax(logits[:, :n_tokens], axis=1).tolist()
    return best
