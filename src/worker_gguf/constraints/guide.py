"""Guides the drawing of one answer: ends its thinking, and holds its text to a grammar."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from worker_gguf.constraints.matcher import Grammar, Grammars, Matcher
from worker_gguf.constraints.watch import Watch
from worker_gguf.engine.request import Constraint, GenerationRequest
from worker_gguf.errors import WorkerError

__all__ = ["Guide", "MaskWords"]

MaskWords = NDArray[np.uint32]
Phase = Literal["opening", "thinking", "free", "held", "over"]


class Guide:
    """The state of one answer. For one thread at a time.

    A token is drawn like this: `next_forced`, if it is not None; else a token that `mask` allows while `is_held`, that
    is none of the end-of-generation tokens while `must_go_on`, and that `takes` accepts. Then `accept`.
    """

    def __init__(self, grammars: Grammars, request: GenerationRequest, *, forces: bool = True) -> None:
        """Compile what the request needs. Without `forces`, only the end of the thinking and of the answer is forced.

        Raises InvalidRequest.
        """
        self.n_constrained = 0
        """Tokens that were held to the grammar."""
        self.mask_seconds = 0.0
        """Seconds in which masks were computed."""
        self._grammars = grammars
        self._eog = frozenset(grammars.table.eog)
        self._thinking = request.thinking
        self._constraint = request.constraint
        self._forces = forces
        self._queue: deque[int] = deque()
        self._matcher: Matcher | None = None
        self._written = b""
        self._n_thought = 0
        self._phase: Phase = "free"
        self._watch = Watch(())
        self._banned = Watch(request.banned_texts, ignores_case=True) if request.banned_texts else None
        self.banned_tokens = grammars.tokens_with(request.banned_texts)
        """The tokens that have a whole banned text in them."""
        self._grammar: Grammar | None = None  # of what is held
        self._opening: Grammar | None = None  # of that, or the beginning of the thinking
        self._compile()
        n_words = -(-len(grammars.table.pieces) // 32)
        self._words: MaskWords = np.zeros(n_words, np.uint32)
        self._has_mask = False
        self._mask_error: WorkerError | None = None
        self._begin()

    def _compile(self) -> None:
        thinking, constraint = self._thinking, self._constraint
        if constraint is None:
            return
        may_follow = thinking is not None and not constraint.triggers
        self._grammar = self._grammars.grammar(constraint, "" if may_follow else None)
        if may_follow and thinking is not None and thinking.start and not thinking.is_open:
            self._opening = self._grammars.grammar(constraint, thinking.start)

    def _begin(self) -> None:
        thinking = self._thinking
        if thinking is not None and thinking.is_open:
            self._think()
        elif thinking is not None and thinking.start:
            self._phase = "opening"
            self._matcher = None if self._opening is None else self._opening.matcher()
        else:
            self._answer(b"")

    # --- before a token is drawn ----------------------------------------------------------------------------------

    @property
    def is_held(self) -> bool:
        """The next token must be one that the mask allows."""
        return self._matcher is not None and not self._queue

    @property
    def must_go_on(self) -> bool:
        """The answer must not end here, because the text that must match has not begun."""
        return self._phase == "thinking" and self._constraint is not None and not self._constraint.triggers

    @property
    def next_forced(self) -> int | None:
        """The next token, if it must not be drawn."""
        return self._queue[0] if self._queue else None

    def compute_mask(self) -> None:
        """Compute the mask of the next token, in any thread; nothing else may be called meanwhile. Raises nothing."""
        if self._has_mask or self._matcher is None:
            return
        began = time.perf_counter()
        try:
            self._matcher.fill(self._words.ctypes.data, self._words.nbytes)
        except WorkerError as error:
            self._mask_error = error
        self._has_mask = True
        self.mask_seconds += time.perf_counter() - began

    def mask(self) -> MaskWords:
        """Return one bit for each token, the lowest first, of those that may be drawn. Raises InvalidRequest."""
        self.compute_mask()
        if self._mask_error is not None:
            raise self._mask_error
        return self._words

    def takes(self, token: int) -> bool:
        """Return whether the answer can go on with a token that the mask, if there is one, allows.

        It must not complete a banned text. It may both complete a trigger and begin the text after it, which then must
        match.
        """
        piece = self._grammars.table.pieces[token]
        if token in self._eog:
            return True
        if self._banned is not None and self._banned.peek(piece) is not None:
            return False
        constraint = self._constraint
        if constraint is None:
            return True
        if self._phase in ("free", "thinking"):
            rest = self._watch.peek(piece)
            if rest and self._phase == "thinking" and constraint.triggers:
                rest = _trigger_watch(constraint).peek(rest)
        elif self._phase == "opening" and self._matcher is None:
            rest = _trigger_watch(constraint).peek(self._written + piece)
        else:
            return True
        return not rest or self._held_from(rest) is not None

    # --- after a token was drawn ----------------------------------------------------------------------------------

    def accept(self, token: int, most: int = 0) -> Sequence[int]:
        """Add a drawn token. Returns the tokens that must follow it, already added, at most `most`.

        Raises InvalidRequest if the grammar cannot go on.
        """
        if self._queue:
            self._queue.popleft()
        self._add(token)
        added: list[int] = []
        while len(added) < most:
            if not self._queue and self._forces and self._matcher is not None:
                self._queue.extend(self._unbanned(self._matcher.forced()))
            if not self._queue:
                break
            added.append(self._queue.popleft())
            self._add(added[-1])
        return added

    def _unbanned(self, tokens: Sequence[int]) -> Sequence[int]:
        """Return the tokens before the first that completes a banned text. That one will be drawn, and refused."""
        if self._banned is None:
            return tokens
        n = 0
        written = b""
        while n < len(tokens):
            written += self._grammars.table.pieces[tokens[n]]
            if self._banned.peek(written) is not None:
                break
            n += 1
        return tokens[:n]

    def _add(self, token: int) -> None:
        self._has_mask = False
        if token in self._eog:
            self._phase, self._matcher = "over", None
            return
        piece = self._grammars.table.pieces[token]
        if self._banned is not None:
            self._banned.feed(piece)
        match self._phase:
            case "opening":
                self._add_opening(token, piece)
            case "thinking":
                self._add_thinking(piece)
            case "held":
                self._add_held(token)
            case "free":
                if (rest := self._watch.feed(piece)) is not None:
                    self._hold(rest)
            case "over":
                pass

    def _add_opening(self, token: int, piece: bytes) -> None:
        """Add a token while it is not clear whether the model thinks first."""
        assert self._thinking is not None
        start = self._thinking.start.encode()
        self._written += piece
        text = self._written.lstrip()
        if text.startswith(start):
            self._matcher = None
            self._think()
            self._add_thinking(text[len(start) :])
        elif not start.startswith(text):
            if self._matcher is None:
                self._answer(self._written)
            else:
                self._phase = "held"
                self._add_held(token)
        elif self._matcher is not None:
            self._add_held(token)

    def _think(self) -> None:
        assert self._thinking is not None
        self._phase = "thinking"
        self._watch = Watch(self._thinking.ends)
        if self._thinking.budget == 0:
            self._end_thinking()

    def _add_thinking(self, piece: bytes) -> None:
        assert self._thinking is not None
        self._n_thought += bool(piece)
        self._written = (self._written + piece)[-4:]
        rest = self._watch.feed(piece)
        budget = self._thinking.budget
        if rest is not None:
            self._queue.clear()
            self._answer(rest)
        elif budget is not None and self._n_thought >= budget and not self._queue and _is_whole(self._written):
            self._end_thinking()

    def _end_thinking(self) -> None:
        assert self._thinking is not None
        self._queue.extend(self._grammars.tokens_of_text(self._thinking.message + self._thinking.ends[0]))

    def _answer(self, text: bytes) -> None:
        """Begin the answer, of which this much is written."""
        constraint = self._constraint
        if constraint is None:
            self._phase = "over"  # nothing is left to do
        elif constraint.triggers:
            self._phase = "free"
            self._watch = _trigger_watch(constraint)
            if (rest := self._watch.feed(text)) is not None:
                self._hold(rest)
        else:
            self._hold(text)

    def _hold(self, text: bytes) -> None:
        """Hold what follows to the grammar, of which this much is written."""
        self._matcher = self._held_from(text)
        if self._matcher is None:
            return  # `takes` was not asked, so the text stays free
        self._phase = "held"
        if self._matcher.has_ended:
            self._end_match()

    def _held_from(self, text: bytes) -> Matcher | None:
        assert self._grammar is not None
        matcher = self._grammar.matcher()
        return matcher if matcher.takes_all(self._grammars.tokens_of(text)) else None

    def _add_held(self, token: int) -> None:
        assert self._matcher is not None
        self._matcher.take(token)
        self.n_constrained += 1
        if self._matcher.has_ended and self._phase == "held":
            self._end_match()

    def _end_match(self) -> None:
        constraint = self._constraint
        assert constraint is not None
        self._matcher = None
        if constraint.triggers and not constraint.is_last:
            self._phase = "free"
            self._watch = Watch(() if constraint.only_at_start else constraint.triggers)
        else:
            self._phase = "over"
            self._queue.append(self._grammars.table.eog[0])


def _trigger_watch(constraint: Constraint) -> Watch:
    """Return what looks for a trigger from the beginning of the answer on."""
    return Watch(constraint.triggers, only_at_start=constraint.only_at_start)


def _is_whole(text: bytes) -> bool:
    """Return whether the end of a text is not inside a character."""
    for n in range(1, min(4, len(text)) + 1):
        byte = text[-n]
        if byte & 0xC0 == 0x80:
            continue
        return n == 1 if byte < 0x80 else n == (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4)
    return True
