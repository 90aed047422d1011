"""Draws the tokens of a step from its logits: the sampling state of each request, and the rows it draws from."""

from __future__ import annotations

from collections.abc import Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from worker_gguf.constraints.guide import Guide
from worker_gguf.engine.batch import Chunk, Logprob, Sampled
from worker_gguf.engine.request import GenerationRequest
from worker_gguf.errors import EngineFailed, InvalidRequest, WorkerError
from worker_gguf.llama.candidates import Candidates, Floats, Largest, Level, Near, shortlists
from worker_gguf.llama.logprobs import log_softmax, logprob_of
from worker_gguf.llama.masks import MaskReader, MaskThread
from worker_gguf.llama.sampler import NOTHING_TO_DRAW, Scratch, SequenceSampler

__all__ = ["Drawing", "Refusal", "RowSampler", "Turn"]

# One search of many rows costs little more than one of a few, so each thread gets at least this many rows.
_MIN_ROWS_PER_THREAD = 16
# A guide refuses a token that would complete a trigger and go on wrongly, or a banned text. Where it refuses so many in
# a row, the samplers leave nothing else.
_MOST_REFUSED = 1000
_CONTRADICTED = (
    "The answer cannot go on: the biases, samplers and banned texts of the request exclude all tokens that its grammar "
    "or its other banned texts leave."
)

Refusal = tuple[int, WorkerError]


class Drawing(Struct):
    """The sampling state of a request. It stays while the request waits for another slot."""

    request: GenerationRequest
    sampler: SequenceSampler
    n_generated: int
    guide: Guide | None = None


class _Row(Struct):
    """A row of logits from which a token may be drawn.

    `log_probabilities` are those before biases, if the request wants them. `found` are the candidates that the sampler
    wants, or with `is_all` all tokens that may be drawn.
    """

    at: int
    log_probabilities: Floats | None = None
    found: Candidates | None = None
    is_all: bool = False


class Turn(Struct):
    """A chunk that draws now: from its first row, and from the next one as long as its guess was right."""

    chunk: Chunk
    drawing: Drawing
    rows: list[_Row]
    error: WorkerError | None = None


class Constrained(NamedTuple):
    """What holding answers to grammars took: tokens, and the seconds of their masks."""

    n_tokens: int = 0
    mask_seconds: float = 0.0


class RowSampler:
    """Draws from the rows of a step, with one or several threads. Used by one thread."""

    def __init__(self, n_vocab: int, n_threads: int, most_forced: int, *, folds: bool) -> None:
        """`most_forced` is the number of forced tokens that a sequence may add to a step.

        `folds` if a search for candidates pays off.
        """
        self._folds = folds
        self._most_forced = most_forced
        self._scratch = [Scratch(n_vocab) for _ in range(n_threads)]
        self._pool = ThreadPoolExecutor(n_threads - 1, "sampling") if n_threads > 1 else None
        self._masks = MaskThread()
        self._readers = [MaskReader(n_vocab) for _ in range(n_threads)]
        self._before = Constrained()
        self.constrained = Constrained()
        """Of the last `draw`."""
        self.eog: tuple[int, ...] = ()
        """The end-of-generation tokens, which are banned until an answer may end."""

    def begin(self, chunks: Sequence[Chunk], drawings: dict[int, Drawing]) -> list[Turn]:
        """Return the chunks that draw, and begin to compute their masks. Then `draw` or `give_up` must follow."""
        turns: list[Turn] = []
        at = 0
        for chunk in chunks:
            if chunk.n_outputs:
                if (drawing := drawings.get(chunk.slot)) is not None:
                    turns.append(Turn(chunk, drawing, [_Row(at + index) for index in range(chunk.n_outputs)]))
                at += chunk.n_outputs
        self._before = _constrained(turns)
        self._masks.begin([guide for turn in turns if (guide := turn.drawing.guide) is not None and guide.is_held])
        return turns

    def give_up(self) -> None:
        """Draw nothing after `begin`, because the computation failed."""
        self._masks.wait()

    def draw(self, turns: list[Turn], logits: Floats) -> tuple[tuple[Sampled, ...], tuple[Refusal, ...]]:
        """Draw for every turn, with the rows distributed over the threads.

        Returns the drawn tokens, and the slots that could not draw with their errors.
        """
        self._masks.wait()
        n_rows = sum(len(turn.rows) for turn in turns)
        n_parts = min(len(self._scratch), max(1, n_rows // _MIN_ROWS_PER_THREAD))
        cuts = [len(turns) * part // n_parts for part in range(n_parts + 1)]
        parts = [turns[start:end] for start, end in pairwise(cuts)]
        pool, rest = self._pool, range(1, n_parts)
        others = [pool.submit(self._draw_part, parts[i], logits, i) for i in rest] if pool else []
        outcomes = self._draw_part(parts[0], logits, 0)
        for other in others:
            outcomes += other.result()
        done = _constrained(turns)
        self.constrained = Constrained(
            done.n_tokens - self._before.n_tokens, done.mask_seconds - self._before.mask_seconds
        )
        sampled = tuple(outcome for outcome in outcomes if isinstance(outcome, Sampled))
        return sampled, tuple(outcome for outcome in outcomes if not isinstance(outcome, Sampled))

    def close(self) -> None:
        self._masks.close()
        if self._pool is not None:
            self._pool.shutdown()

    def _draw_part(self, turns: list[Turn], logits: Floats, part: int) -> list[Sampled | Refusal]:
        self._prepare(turns, logits, part)
        outcomes: list[Sampled | Refusal] = []
        for turn in turns:
            try:
                outcomes.append(self._draw_turn(turn, logits, part))
            except WorkerError as error:
                outcomes.append((turn.chunk.slot, error))
        return outcomes

    def _prepare(self, turns: list[Turn], logits: Floats, part: int) -> None:
        """Keep the log-probabilities that are wanted, write biases, bans and masks into the rows, find the candidates.

        All rows that want candidates are searched together.
        """
        wanted: list[tuple[_Row, Largest | Near, Level]] = []
        n_vocab = logits.shape[1]
        for turn in turns:
            drawing = turn.drawing
            if turn.chunk.scored:
                continue
            for ahead, row in enumerate(turn.rows):
                values = logits[row.at]
                if drawing.request.top_logprobs is not None:
                    row.log_probabilities = log_softmax(values)
                if drawing.guide is not None and ahead:
                    continue  # what a later row may draw depends on the tokens before it
                self._ban(turn, values, ahead)
                self._mask(turn, row, values, part)
                if not row.is_all and (want := drawing.sampler.wants(n_vocab, ahead)) is not None:
                    wanted.append((row, want, drawing.sampler.level))
        if not wanted:
            return
        first, last = wanted[0][0].at, wanted[-1][0].at
        is_whole = last - first + 1 == len(wanted)
        rows, wants, levels = zip(*wanted, strict=True)
        block = logits[first : last + 1] if is_whole else logits[[row.at for row in rows]]
        for row, found in zip(rows, shortlists(block, wants, levels), strict=True):
            row.found = found

    def _ban(self, turn: Turn, values: Floats, ahead: int) -> None:
        """Write biases and bans into a row."""
        drawing = turn.drawing
        is_short = drawing.n_generated + ahead < drawing.request.min_tokens
        must_go_on = drawing.guide is not None and drawing.guide.must_go_on
        ban = (*self.eog, *drawing.request.stop_tokens) if is_short or must_go_on else ()
        drawing.sampler.bias(values, ban)
        if drawing.guide is not None and drawing.guide.banned_tokens.size:
            values[drawing.guide.banned_tokens] = -np.inf

    def _mask(self, turn: Turn, row: _Row, values: Floats, part: int) -> None:
        """Apply the mask of the next token to a row, if the answer is held to a grammar now."""
        guide = turn.drawing.guide
        if guide is None or not guide.is_held:
            return
        try:
            found = self._readers[part].read(guide.mask()).apply(values)
        except WorkerError as error:
            turn.error = error
            return
        if found is not None and not np.isfinite(found.logits).any() and set(found.ids.tolist()) <= set(self.eog):
            values[found.ids] = 0.0  # only the end is left, so no ban of it counts
            found = Candidates(found.ids, values[found.ids])
        row.found, row.is_all = found, found is not None

    def _draw_turn(self, turn: Turn, logits: Floats, part: int) -> Sampled:
        """Draw from each row of a chunk in turn, until a drawn token differs from the guess of the chunk."""
        chunk, drawing = turn.chunk, turn.drawing
        if chunk.scored:
            return Sampled(chunk.slot, (), scored=self._score(turn, logits))
        guesses = chunk.tokens[len(chunk.tokens) - chunk.n_outputs + 1 :]
        tokens: list[int] = []
        logprobs: list[Logprob] = []
        places: list[int] = []
        n_before = drawing.n_generated
        # Forced tokens need no rows, so they may lead to a later row, if the guesses foretold them.
        while (at := len(tokens)) < len(turn.rows) and tokens == guesses[:at]:
            row = turn.rows[at]
            if at and drawing.guide is not None:
                self._ban(turn, logits[row.at], 0)
                self._mask(turn, row, logits[row.at], part)
            if turn.error is not None:
                raise turn.error
            token = self._draw_row(drawing, row, logits[row.at], part)
            tokens.append(token)
            if row.log_probabilities is not None:
                n_top = drawing.request.top_logprobs or 0
                logprobs.append(logprob_of(token, row.log_probabilities, n_top, folds=self._folds))
            if drawing.guide is not None:
                for forced in drawing.guide.accept(token, 0 if logprobs else self._most_forced):
                    drawing.sampler.take(forced)
                    places.append(len(tokens))
                    tokens.append(forced)
            drawing.n_generated = n_before + len(tokens)
        return Sampled(chunk.slot, tuple(tokens), tuple(logprobs), forced=tuple(places))

    def _score(self, turn: Turn, logits: Floats) -> tuple[Logprob, ...]:
        n_top = turn.drawing.request.prompt_logprobs or 0
        return tuple(
            logprob_of(token, log_softmax(logits[row.at]), n_top, folds=self._folds)
            for token, row in zip(turn.chunk.scored, turn.rows, strict=True)
        )

    def _draw_row(self, drawing: Drawing, row: _Row, values: Floats, part: int) -> int:
        guide, sampler = drawing.guide, drawing.sampler
        if guide is not None and (forced := guide.next_forced) is not None:
            sampler.take(forced)
            return forced
        if repeating := sampler.repeating():
            _exclude(row, values, repeating)
        for _ in range(_MOST_REFUSED):
            try:
                token = sampler.draw(values, row.found, self._scratch[part], is_all=row.is_all)
            except EngineFailed:
                if guide is not None and guide.is_held and np.isfinite(values).any():
                    raise InvalidRequest(_CONTRADICTED) from None
                raise
            if guide is None or guide.takes(token):
                sampler.take(token)
                return token
            _exclude(row, values, {token})
            if not row.is_all and (want := sampler.wants(values.shape[0])) is not None:
                (row.found,) = shortlists(values[None], [want])
        raise InvalidRequest(_CONTRADICTED) if guide is not None else EngineFailed(NOTHING_TO_DRAW)


def _exclude(row: _Row, values: Floats, tokens: Set[int]) -> None:
    """Ban tokens in a row whose candidates may have been found already."""
    values[list(tokens)] = -np.inf
    if row.is_all and row.found is not None:
        row.found = Candidates(row.found.ids, values[row.found.ids])
    elif row.found is not None and not tokens.isdisjoint(row.found.ids.tolist()):
        row.found = None


def _constrained(turns: list[Turn]) -> Constrained:
    guides = [guide for turn in turns if (guide := turn.drawing.guide) is not None]
    return Constrained(sum(guide.n_constrained for guide in guides), sum(guide.mask_seconds for guide in guides))
