"""Carries out the scheduler's batches on a llama.cpp context: memory operations, decode, draw."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from msgspec import Struct
from msgspec.structs import replace

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
from worker_gguf.engine.request import GenerationRequest
from worker_gguf.engine.runner import Limits, SpecialTokens
from worker_gguf.errors import EngineFailed, WorkerError
from worker_gguf.llama.candidates import Candidates, Floats, Largest, Level, Near, shortlists, worth_folding
from worker_gguf.llama.chain import ChainFactory
from worker_gguf.llama.context import Context, DecodeFailed, NoSpace, State
from worker_gguf.llama.logprobs import log_softmax, logprob_of
from worker_gguf.llama.model import Model
from worker_gguf.llama.passes import divide
from worker_gguf.llama.sampler import Scratch, SequenceSampler

__all__ = ["LlamaRunner"]

# One search of many rows costs little more than one of a few, so each thread gets at least this many rows.
_MIN_ROWS_PER_THREAD = 16


Refusal = tuple[int, WorkerError]


class _Drawing(Struct):
    """The sampling state of a request. It stays while the request waits for another slot."""

    request: GenerationRequest
    sampler: SequenceSampler
    n_generated: int


class _Row(Struct):
    """A row of logits from which a token may be drawn.

    `log_probabilities` are those before biases, if the request wants them. `found` are the candidates that the sampler
    wants.
    """

    at: int
    log_probabilities: Floats | None = None
    found: Candidates | None = None


class _Turn(Struct):
    """A chunk that draws now: from its first row, and from the next one as long as its guess was right."""

    chunk: Chunk
    drawing: _Drawing
    rows: list[_Row]


class LlamaRunner:
    """One model, one context and one sampler for each request. Owned by the thread of the engine's loop."""

    def __init__(
        self,
        model: Model,
        context: Context,
        special: SpecialTokens | None = None,
        *,
        n_sampling_threads: int = 1,
    ) -> None:
        self._model = model
        self._context = context
        self._factory = ChainFactory(model)
        self._drawings: dict[str, _Drawing] = {}
        self._slots: dict[int, _Drawing] = {}
        self._states: dict[int, State] = {}
        self._folds = worth_folding(model.n_vocab)
        self._scratch = [Scratch(model.n_vocab) for _ in range(n_sampling_threads)]
        self._pool = ThreadPoolExecutor(n_sampling_threads - 1, "sampling") if n_sampling_threads > 1 else None
        self._limits = _limits(model, context)
        self._cells_per_pass = model.cells_per_pass()
        self.on_decoded: Callable[[], None] = lambda: None
        self.adopt(special or SpecialTokens())

    @property
    def n_ubatch(self) -> int:
        return self._context.params.n_ubatch

    def adopt(self, special: SpecialTokens) -> None:
        """Use these special tokens for the requests that come from now on."""
        self._special, self._eog = special, tuple(special.eog)

    @property
    def limits(self) -> Limits:
        return self._limits

    def run(self, batch: Batch) -> StepResult:
        saved: list[Saved] = []
        refused, lost = self._operate(batch, saved)
        if not batch.chunks or lost:
            return StepResult(refused=refused, saved=tuple(saved), lost=lost)
        result = self._compute(batch, refused)
        return replace(result, saved=tuple(saved)) if saved else result

    def _compute(self, batch: Batch, refused: tuple[Refusal, ...]) -> StepResult:
        sampled: tuple[Sampled, ...] = ()
        decode_seconds = sample_seconds = 0.0
        parts = divide(batch.chunks, self._cells_per_pass) if self._limits.partitioned else (batch.chunks,)
        for chunks in parts:
            started = time.perf_counter()
            try:
                logits = self._context.decode(chunks)
            except NoSpace:
                if chunks is parts[0]:
                    return StepResult(no_space=True, refused=refused)
                return _failed("its memory had no room for the second part of a step", refused)
            except DecodeFailed as error:
                return _failed(str(error), refused)
            decoded = time.perf_counter()
            if chunks is parts[-1]:
                self.on_decoded()
            drawn, failed = self._draw_all(chunks, logits)
            sampled, refused = (*sampled, *drawn), (*refused, *failed)
            decode_seconds += decoded - started
            sample_seconds += time.perf_counter() - decoded
        return StepResult(sampled, refused=refused, decode_seconds=decode_seconds, sample_seconds=sample_seconds)

    def close(self) -> None:
        for drawing in self._drawings.values():
            drawing.sampler.close()
        self._drawings.clear()
        self._slots.clear()
        self._states.clear()
        self._factory.close()
        if self._pool is not None:
            self._pool.shutdown()
        self._context.close()
        self._model.close()

    # --- memory and samplers --------------------------------------------------------------------------------------

    def _operate(self, batch: Batch, saved: list[Saved]) -> tuple[tuple[Refusal, ...], tuple[int, ...]]:
        """Carry out the operations. Returns the refused requests, and the slots that lost their content.

        A lost slot stays empty until the scheduler knows of it.
        """
        refused: list[Refusal] = []
        lost: list[int] = []
        for operation in batch.operations:
            match operation:
                case Truncate(slot, _) | Load(slot, _) | Copy(_, slot, _):
                    if slot not in lost and not self._change(operation, lost):
                        self._context.truncate(slot, 0)
                        lost.append(slot)
                case Open(slot, request, history):
                    try:
                        self._open(slot, request, history)
                    except WorkerError as error:
                        refused.append((slot, error))
                case Close(request_id):
                    self._close(request_id)
                case Save(slot, key):
                    saved.append(self._save(slot, key) if slot not in lost else Saved(key, 0, 0.0))
                case Drop(key):
                    self._states.pop(key, None)
        return tuple(refused), tuple(lost)

    def _change(self, operation: Truncate | Load | Copy, lost: Sequence[int]) -> bool:
        """Change the content of a slot. Returns False if it is lost.

        Raises RuntimeError if a memory without a window refuses. The scheduler asks only for what `Limits` allows, so
        that is a bug and the content of the memory unknown.
        """
        match operation:
            case Load(slot, key):
                state = self._states.get(key)
                return state is not None and self._context.load(slot, state)
            case Copy(source, _, _) if source in lost:
                return False
            case Copy(source, target, n_tokens):
                was_done = self._context.copy(source, target, n_tokens)
            case Truncate(slot, n_tokens):
                was_done = self._context.truncate(slot, n_tokens)
        if not was_done and not self._model.window:
            raise RuntimeError(f"the model's memory refused {operation}")
        return was_done

    def _save(self, slot: int, key: int) -> Saved:
        started = time.perf_counter()
        state = self._context.save(slot)
        if state is None:
            return Saved(key, 0, 0.0)
        self._states[key] = state
        return Saved(key, state.size, time.perf_counter() - started)

    def _open(self, slot: int, request: GenerationRequest, history: Sequence[int]) -> None:
        drawing = self._drawings.get(request.id)
        if drawing is None:
            banned = self._special.suppressed
            if request.sampling.ignore_eos:
                banned = banned | self._special.eog
            sampler = SequenceSampler(request, self._factory, self._limits.n_ctx, banned, searches=self._folds)
            sampler.remember(history)
            drawing = self._drawings[request.id] = _Drawing(request, sampler, len(history) - len(request.prompt))
        self._slots[slot] = drawing

    def _close(self, request_id: str) -> None:
        drawing = self._drawings.pop(request_id, None)
        if drawing is not None:
            self._slots = {slot: other for slot, other in self._slots.items() if other is not drawing}
            drawing.sampler.close()

    # --- drawing --------------------------------------------------------------------------------------------------

    def _draw_all(self, chunks: Sequence[Chunk], logits: Floats) -> tuple[tuple[Sampled, ...], tuple[Refusal, ...]]:
        """Draw for every chunk, with the rows distributed over the sampling threads.

        Returns the drawn tokens, and the slots that could not draw with their errors.
        """
        turns: list[_Turn] = []
        at = 0
        for chunk in chunks:
            if chunk.n_outputs:
                if (drawing := self._slots.get(chunk.slot)) is not None:
                    turns.append(_Turn(chunk, drawing, [_Row(at + index) for index in range(chunk.n_outputs)]))
                at += chunk.n_outputs
        n_parts = min(len(self._scratch), max(1, at // _MIN_ROWS_PER_THREAD))
        cuts = [len(turns) * part // n_parts for part in range(n_parts + 1)]
        parts = [turns[start:end] for start, end in pairwise(cuts)]
        pool, rest = self._pool, range(1, n_parts)
        others = [pool.submit(self._draw_part, parts[i], logits, i) for i in rest] if pool else []
        outcomes = self._draw_part(parts[0], logits, 0)
        for other in others:
            outcomes += other.result()
        sampled = tuple(outcome for outcome in outcomes if isinstance(outcome, Sampled))
        return sampled, tuple(outcome for outcome in outcomes if not isinstance(outcome, Sampled))

    def _draw_part(self, turns: list[_Turn], logits: Floats, part: int) -> list[Sampled | Refusal]:
        self._prepare(turns, logits)
        outcomes: list[Sampled | Refusal] = []
        for turn in turns:
            try:
                outcomes.append(self._draw_turn(turn, logits, self._scratch[part]))
            except WorkerError as error:
                outcomes.append((turn.chunk.slot, error))
        return outcomes

    def _prepare(self, turns: list[_Turn], logits: Floats) -> None:
        """Keep the log-probabilities that are wanted, write biases and bans into the rows, and find the candidates.

        All rows that want candidates are searched together.
        """
        wanted: list[tuple[_Row, Largest | Near, Level]] = []
        n_vocab = logits.shape[1]
        for turn in turns:
            drawing = turn.drawing
            for ahead, row in enumerate(turn.rows):
                values = logits[row.at]
                if drawing.request.top_logprobs is not None:
                    row.log_probabilities = log_softmax(values)
                is_short = drawing.n_generated + ahead < drawing.request.min_tokens
                drawing.sampler.bias(values, self._eog if is_short else ())
                if (want := drawing.sampler.wants(n_vocab, ahead)) is not None:
                    wanted.append((row, want, drawing.sampler.level))
        if not wanted:
            return
        first, last = wanted[0][0].at, wanted[-1][0].at
        is_whole = last - first + 1 == len(wanted)
        rows, wants, levels = zip(*wanted, strict=True)
        block = logits[first : last + 1] if is_whole else logits[[row.at for row in rows]]
        for row, found in zip(rows, shortlists(block, wants, levels), strict=True):
            row.found = found

    def _draw_turn(self, turn: _Turn, logits: Floats, scratch: Scratch) -> Sampled:
        """Draw from each row of a chunk in turn, until a drawn token differs from the guess of the chunk."""
        chunk, drawing = turn.chunk, turn.drawing
        tokens: list[int] = []
        logprobs: list[Logprob] = []
        for index, row in enumerate(turn.rows):
            if index and tokens[-1] != chunk.tokens[len(chunk.tokens) - chunk.n_outputs + index]:
                break
            token = drawing.sampler.draw(logits[row.at], row.found, scratch)
            drawing.n_generated += 1
            tokens.append(token)
            if row.log_probabilities is not None:
                n_top = drawing.request.top_logprobs or 0
                logprobs.append(logprob_of(token, row.log_probabilities, n_top, folds=self._folds))
        return Sampled(chunk.slot, tuple(tokens), tuple(logprobs))


def _failed(why: str, refused: tuple[Refusal, ...]) -> StepResult:
    return StepResult(error=EngineFailed(f"The model could not be computed: {why}"), refused=refused)


def _limits(model: Model, context: Context) -> Limits:
    params = context.params
    # A recurrent memory keeps only its last state, and a sliding window that is not full only the window.
    is_whole = model.is_recurrent or (model.window > 0 and not params.swa_full)
    return Limits(
        n_slots=params.n_parallel,
        n_ctx=min(params.n_ctx, context.n_ctx_seq),
        n_cells=context.n_ctx_total,
        n_batch=params.n_batch,
        partitioned=not params.unified and params.n_parallel > 1,
        prefix="whole" if is_whole else "any",
        saved_prefix="whole" if is_whole or model.window else "any",
        n_rows=max(params.n_rows, params.n_parallel),
    )
