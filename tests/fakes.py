"""Stand-ins that keep the contracts of the real parts and check that their callers do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from msgspec.structs import replace

from worker_gguf.engine.adapters import AdapterSet
from worker_gguf.engine.batch import (
    Batch,
    Chunk,
    Close,
    Copy,
    Drop,
    Load,
    Logprob,
    Open,
    Sampled,
    Save,
    Saved,
    StepResult,
    Truncate,
)
from worker_gguf.engine.drafter import DraftRequest, Drafts, DraftStep
from worker_gguf.engine.image_runs import ImageWork, at_start_of_run, number_of
from worker_gguf.engine.request import GenerationRequest
from worker_gguf.engine.runner import Limits, SpecialTokens
from worker_gguf.engine.slots import common_prefix
from worker_gguf.link.messages import Step

EOG = 0


def limits(**changes: object) -> Limits:
    values: dict[str, object] = {"n_slots": 2, "n_ctx": 64, "n_cells": 128, "n_batch": 16}
    return Limits(**{**values, **changes})  # type: ignore[arg-type]


def request(request_id: str, prompt: Sequence[int] = (1, 2, 3), **changes: object) -> GenerationRequest:
    values: dict[str, object] = {"max_tokens": 4}
    return GenerationRequest(request_id, tuple(prompt), **{**values, **changes})  # type: ignore[arg-type]


def step(**changes: object) -> Step:
    values: dict[str, object] = {"time_s": 2.0, "admitted_s": 1.0, "busy_slots": 1, "waiting": 0, "held_tokens": 3}
    values |= {"numbers": [], "tokens": [], "logprobs": [], "admitted": [], "endings": [], "n_batch_tokens": 1}
    values |= {"schedule_seconds": 0.1, "decode_seconds": 0.2, "sample_seconds": 0.3}
    return Step(**{**values, **changes})  # type: ignore[arg-type]


def successor(history: Sequence[int]) -> int:
    """Return the next token of a model that depends on all earlier tokens, so that a wrong memory changes it."""
    return 1 + (sum((i + 1) * token for i, token in enumerate(history)) * 7919 + len(history)) % 97


def foretold(prompt: Sequence[int], n: int, draw: Callable[[Sequence[int]], int] = successor) -> list[int]:
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(draw(tokens))
    return tokens[len(prompt) :]


def with_adapters(draw: Callable[[Sequence[int]], int], adapters: AdapterSet) -> Callable[[Sequence[int]], int]:
    """Return what draws as the model does with these adapters."""
    marks = [1000 + 100 * number + round(10 * scale) for number, scale in adapters]
    return lambda history: draw([*marks, *history])


class FakeRunner:
    """Holds each slot's tokens, checks each batch against them, and draws `draw(history)`.

    A chunk that does not begin where its slot ends, a copy of tokens that are not there, two chunks for one slot or
    more tokens than the memory has cells are assertion errors: the real memory would be silently wrong. So are tokens
    after others that were computed with other adapters, and a request that is computed with others than its own. So are
    a chunk with both tokens and rows of an image, and a cut inside an image.
    """

    def __init__(
        self,
        limits: Limits,
        draw: Callable[[Sequence[int]], int] = successor,
        seconds: Callable[[int, int], float] = lambda n_rows, n_prompt: 0.0,
        forced: Callable[[Sequence[int]], int] = lambda history: 0,
        switch_seconds: float = 0.0,
    ) -> None:
        """`seconds` is what a step with so many rows and further tokens takes.

        `forced` is the number of tokens that follow without a row after a token was drawn. A change of adapters takes
        `switch_seconds`.
        """
        self._limits = limits
        self.forced = forced
        self.on_decoded: Callable[[], None] = lambda: None
        self.image_work = ImageWork()
        self.seconds = seconds
        self.states: dict[int, list[int]] = {}
        self.saves: list[Saved] = []
        self.lost: list[int] = []
        self.loses = False
        self.state_bytes = 1
        self.save_seconds = 0.0
        self.draw = draw
        self.memory: list[list[int]] = [[] for _ in range(limits.n_slots)]
        self.n_uncut = [0] * limits.n_slots
        self.adapters: AdapterSet = ()
        self.n_switches = 0
        self.switch_seconds = switch_seconds
        self.computed_with: list[AdapterSet] = [()] * limits.n_slots
        self.saved_with: dict[int, AdapterSet] = {}
        self.in_slot: dict[int, GenerationRequest] = {}
        self.open: dict[str, GenerationRequest] = {}
        self.opened: list[str] = []
        self.batches: list[Batch] = []
        self.next_results: list[StepResult] = []
        self.gate: threading.Event | None = None
        self.is_closed = False
        self.prepared: set[str] = set()
        self.preparing: Callable[[GenerationRequest], GenerationRequest | None] | None = None

    @property
    def limits(self) -> Limits:
        return self._limits

    def computing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def prepare(self, request: GenerationRequest, is_wanted: Callable[[], bool]) -> GenerationRequest:
        made = self.preparing(request) if self.preparing is not None else None
        self.prepared.add(request.id)
        return made or request

    def forget(self, request_id: str) -> None:
        self.prepared.discard(request_id)

    def run(self, batch: Batch) -> StepResult:
        if self.gate is not None:
            self.gate.wait()
        self.batches.append(batch)
        self.saves, self.lost = [], []
        for operation in batch.operations:
            self._operate(operation)
        if self.lost:
            return StepResult(saved=tuple(self.saves), lost=tuple(self.lost))
        images = [len(chunk.tokens) for chunk in batch.chunks if chunk.has_rows]
        assert max(batch.n_tokens - sum(images), *images, 0) <= self._limits.n_batch
        assert [chunk.slot for chunk in batch.chunks] == sorted({chunk.slot for chunk in batch.chunks})
        if self.next_results:
            return replace(self.next_results.pop(0), saved=tuple(self.saves))
        switch_seconds = self._switch(batch)
        for chunk in batch.chunks:
            self._append(chunk)
        self.on_decoded()
        assert self._limits.partitioned or sum(map(len, self.memory)) <= self._limits.n_cells
        n_rows = sum(chunk.n_outputs for chunk in batch.chunks)
        assert n_rows <= max(self._limits.n_rows, self._limits.n_slots)
        return StepResult(
            tuple(self._draw_chunk(chunk) for chunk in batch.chunks if chunk.n_outputs),
            saved=tuple(self.saves),
            decode_seconds=self.seconds(n_rows, batch.n_tokens - n_rows),
            switch_seconds=switch_seconds,
        )

    def _switch(self, batch: Batch) -> float:
        if not batch.chunks or batch.adapters == self.adapters:
            return 0.0
        self.adapters = batch.adapters
        self.n_switches += 1
        return self.switch_seconds

    def close(self) -> None:
        self.is_closed = True

    def _draw_chunk(self, chunk: Chunk) -> Sampled:
        """Draw row by row, as long as the guesses of the chunk are right."""
        held = self.memory[chunk.slot]
        if chunk.scored:
            assert chunk.n_outputs == len(chunk.scored) == len(chunk.tokens)
            assert tuple(chunk.tokens[1:]) == chunk.scored[:-1]
            return Sampled(chunk.slot, (), scored=tuple(Logprob(token, -float(token)) for token in chunk.scored))
        known, guesses = held[: len(held) - chunk.n_guesses], chunk.guesses
        draw = with_adapters(self.draw, self.adapters) if self.adapters else self.draw
        tokens: list[int] = []
        places: list[int] = []
        while (at := len(tokens)) < chunk.n_outputs and tokens == guesses[:at]:
            tokens.append(draw([*known, *tokens]))
            for _ in range(min(self.forced([*known, *tokens]), self._limits.n_batch // self._limits.n_slots - 1)):
                if tokens[-1] != EOG:
                    places.append(len(tokens))
                    tokens.append(draw([*known, *tokens]))
        return Sampled(chunk.slot, tuple(tokens), forced=tuple(places))

    def _operate(self, operation: object) -> None:
        match operation:
            case Truncate(slot, _) | Load(slot, _) | Copy(_, slot, _):
                if slot not in self.lost and not self._change(operation):
                    self.memory[slot], self.n_uncut[slot] = [], 0
                    self.lost.append(slot)
            case Open(slot, opened, history):
                self.in_slot[slot] = opened
                assert tuple(history[: len(opened.prompt)]) == opened.prompt
                assert not opened.is_guided or opened.id in self.prepared
                self.open[opened.id] = opened
                self.opened.append(opened.id)
            case Close(request_id):
                self.open.pop(request_id, None)
            case Save(slot, key) if slot in self.lost:
                self.saves.append(Saved(key, 0, 0.0))
            case Save(slot, key):
                assert key not in self.states
                self.states[key], self.saved_with[key] = list(self.memory[slot]), self.computed_with[slot]
                self.saves.append(Saved(key, self.state_bytes * len(self.memory[slot]), self.save_seconds))
            case Drop(key):
                self.states.pop(key, None)

    def _change(self, operation: Truncate | Load | Copy) -> bool:
        """Change the content of a slot. Returns False if it is lost."""
        match operation:
            case Load(slot, key):
                self.memory[slot], self.computed_with[slot] = list(self.states[key]), self.saved_with[key]
                self.n_uncut[slot] = len(self.memory[slot]) if self._limits.saved_prefix == "whole" else 0
            case Truncate(slot, 0):
                self.memory[slot], self.n_uncut[slot] = [], 0
                return True
            case Truncate(slot, n_tokens):
                assert n_tokens <= len(self.memory[slot])
                assert self._limits.prefix == "any" or n_tokens == len(self.memory[slot])
                assert n_tokens >= self.n_uncut[slot]
                assert at_start_of_run(self.memory[slot], n_tokens) == n_tokens
                del self.memory[slot][n_tokens:]
            case Copy(source, target, n_tokens):
                assert source != target
                if source in self.lost:
                    return False
                assert n_tokens <= len(self.memory[source])
                assert n_tokens == 0 or n_tokens >= self.n_uncut[source]
                assert at_start_of_run(self.memory[source], n_tokens) == n_tokens
                self.n_uncut[target] = self.n_uncut[source] if n_tokens else 0
                self.memory[target] = self.memory[source][:n_tokens]
                self.computed_with[target] = self.computed_with[source]
        return not self.loses

    def _append(self, chunk: Chunk) -> None:
        memory = self.memory[chunk.slot]
        assert chunk.tokens
        assert chunk.start == len(memory)
        assert self.in_slot[chunk.slot].adapters == self.adapters
        assert not memory or self.computed_with[chunk.slot] == self.adapters
        self.computed_with[chunk.slot] = self.adapters
        assert len({number_of(token) if token < 0 else None for token in chunk.tokens}) == 1
        memory += chunk.tokens
        assert len(memory) <= self._limits.n_ctx


class FakeDrafter:
    """A draft model that guesses `draw(history)` and reads at most `n_read` tokens in one call.

    A request for tokens beyond its context, or two requests for one slot, are assertion errors. So is a request for
    tokens that are not in `memory`, that of the model, if it reads along.
    """

    def __init__(
        self,
        draw: Callable[[Sequence[int]], int] = successor,
        seconds: Callable[[int, int], float] = lambda n_rows, n_prompt: 0.0,
        *,
        n_ctx: int = 10_000,
        n_read: int = 10_000,
        reads_along: bool = False,
    ) -> None:
        """`seconds` is what a step with so many rows and further tokens takes."""
        self.draw = draw
        self.seconds = seconds
        self.n_ctx = n_ctx
        self.n_read = n_read
        self.reads_along = reads_along
        self.memory: list[list[int]] | None = None
        self.held: dict[int, list[int]] = {}
        self.requests: list[DraftRequest] = []
        self.steps: list[DraftStep] = []

    def adopt(self, special: SpecialTokens) -> None: ...

    @property
    def total_seconds(self) -> float:
        return sum(step.seconds for step in self.steps)

    def draft(self, requests: Sequence[DraftRequest], most_read: int | None = None) -> Drafts:
        assert len({request.slot for request in requests}) == len(requests) > 0
        missing: dict[int, int] = {}
        left, n_new = min(self.n_read, self.n_read if most_read is None else most_read), 0
        for request in requests:
            assert 0 < request.n <= self.n_ctx - len(request.tokens)
            held = self.held.setdefault(request.slot, [])
            del held[common_prefix(held, request.tokens[:-1]) :]
            if self.reads_along:
                held[:] = request.tokens[:-1]
                assert self.memory is None or self.memory[request.slot][: len(held)] == held
            new = request.tokens[len(held) :][:left]
            held += new
            left, n_new = left - len(new), n_new + len(new)
            if n_missing := len(request.tokens) - len(held):
                missing[request.slot] = n_missing
        ready = [request for request in requests if request.slot not in missing]
        guesses: dict[int, tuple[int, ...]] = {}
        for request in ready:
            tokens = list(request.tokens)
            for _ in range(request.n):
                tokens.append(self.draw(tokens))
            guesses[request.slot] = tuple(tokens[len(request.tokens) :])
        steps = [self._step(len(requests), max(0, n_new - len(requests)))]
        further = range(1, max((request.n for request in ready), default=0))
        steps += [self._step(sum(request.n > i for request in ready), 0) for i in further]
        self.requests += requests
        self.steps += steps
        return Drafts(guesses, missing, tuple(steps))

    def _step(self, n_rows: int, n_prompt: int) -> DraftStep:
        return DraftStep(n_rows, n_prompt, self.seconds(n_rows, n_prompt))
