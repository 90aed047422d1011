"""Carries out the scheduler's batches on a llama.cpp context: memory operations, decode, draw."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace

from worker_gguf.engine.adapters import AdapterSet
from worker_gguf.engine.batch import (
    Batch,
    Close,
    Copy,
    Drop,
    Load,
    Open,
    Sampled,
    Save,
    Saved,
    StepResult,
    Truncate,
)
from worker_gguf.engine.image_runs import ImageWork, row_of
from worker_gguf.engine.request import GenerationRequest
from worker_gguf.engine.runner import Limits, SpecialTokens
from worker_gguf.errors import EngineFailed, InvalidRequest, WorkerError
from worker_gguf.llama.adapters import Adapter, ContextAdapters
from worker_gguf.llama.candidates import Floats, worth_folding
from worker_gguf.llama.chain import ChainFactory
from worker_gguf.llama.context import Context, DecodeFailed, NoSpace, State
from worker_gguf.llama.drawing import Drawing, Refusal, RowSampler
from worker_gguf.llama.guides import Guides
from worker_gguf.llama.model import Model
from worker_gguf.llama.passes import Chunks, divide
from worker_gguf.llama.sampler import SequenceSampler

if TYPE_CHECKING:
    from worker_gguf.llama.alternation import Alternation
    from worker_gguf.llama.images import Images

__all__ = ["LlamaRunner"]

# A sequence adds at most so many tokens to a step that its grammar forces.
_MOST_FORCED = 64
_NO_WORK = ImageWork()


class LlamaRunner:
    """One model, one context and one sampler for each request. Owned by the thread of the engine's loop."""

    def __init__(
        self,
        model: Model,
        context: Context,
        special: SpecialTokens | None = None,
        *,
        n_sampling_threads: int = 1,
        adapters: Sequence[Adapter] = (),
        images: Images | None = None,
        alternation: Alternation | None = None,
    ) -> None:
        """`images` encodes the images of requests, if the model has a projector. With an `alternation`, a step waits
        until the turn of an encoding is over.
        """
        self._model = model
        self._context = context
        self._factory = ChainFactory(model)
        self._guides = Guides(model)
        self._images = images
        self._alternation = alternation
        self._drawings: dict[str, Drawing] = {}
        self._slots: dict[int, Drawing] = {}
        self._states: dict[int, State] = {}
        self._folds = worth_folding(model.n_vocab)
        self._adapters = ContextAdapters(context, adapters)
        self._limits = replace(
            _limits(model, context), n_adapters=len(adapters), divides_images=alternation is not None
        )
        most_forced = min(_MOST_FORCED, self._limits.n_batch // self._limits.n_slots - 1)
        self._rows = RowSampler(model.n_vocab, n_sampling_threads, max(0, most_forced), folds=self._folds)
        self._cells_per_pass = model.cells_per_pass()
        self.on_decoded: Callable[[], None] = lambda: None
        self.adopt(special or SpecialTokens())

    @property
    def n_ubatch(self) -> int:
        return self._context.params.n_ubatch

    def adopt(self, special: SpecialTokens) -> None:
        """Use these special tokens for the requests that come from now on."""
        self._special = special
        self._rows.eog = tuple(special.eog)
        self._guides.adopt(special)

    def prepare(self, request: GenerationRequest, is_wanted: Callable[[], bool] = lambda: True) -> GenerationRequest:
        """Compile what holds the answer of a request, and encode its images, which one thread at a time may do.

        Returns the request to run. Raises InvalidRequest, or EngineFailed.
        """
        self._guides.prepare(request)
        if not request.images:
            return request
        if self._images is None:
            raise InvalidRequest("This model cannot see images: no projector is loaded.", param="messages")
        return self._images.prepare(request, is_wanted)

    @property
    def image_work(self) -> ImageWork:
        return _NO_WORK if self._images is None else self._images.work

    def forget(self, request_id: str) -> None:
        """Drop what `prepare` made for a request that will not run."""
        self._guides.forget(request_id)
        if self._images is not None:
            self._images.forget(request_id)

    def read_ahead(self) -> None:
        """Read the vocabulary now, so that the first request with a grammar need not. In any thread."""
        with suppress(WorkerError):  # which that request gets
            self._guides.read()

    @property
    def n_nodes(self) -> int:
        """The nodes of the graph that llama.cpp planned when the adapters changed last; 0 if it did not log them."""
        return self._adapters.n_nodes

    @property
    def limits(self) -> Limits:
        return self._limits

    def computing(self) -> AbstractContextManager[None]:
        return nullcontext() if self._alternation is None else self._alternation.step()

    def run(self, batch: Batch) -> StepResult:
        saved: list[Saved] = []
        refused, lost = self._operate(batch, saved)
        if not batch.chunks or lost:
            return StepResult(refused=refused, saved=tuple(saved), lost=lost)
        result = self._compute(batch, refused)
        return replace(result, saved=tuple(saved)) if saved else result

    def _compute(self, batch: Batch, refused: tuple[Refusal, ...]) -> StepResult:
        sampled: tuple[Sampled, ...] = ()
        decode_seconds = sample_seconds = mask_seconds = switch_seconds = 0.0
        n_constrained = 0
        parts = self._parts(batch.chunks)
        for chunks in parts:
            turns = self._rows.begin(chunks, self._slots)
            started = time.perf_counter()
            try:
                logits, switched = self._decode(chunks, batch.adapters)
            except NoSpace:
                self._rows.give_up()
                if chunks is parts[0]:
                    return StepResult(no_space=True, refused=refused)
                return _failed("its memory had no room for the second part of a step", refused)
            except DecodeFailed as error:
                self._rows.give_up()
                return _failed(str(error), refused)
            decoded = time.perf_counter()
            if chunks is parts[-1]:
                self.on_decoded()
            drawn, failed = self._rows.draw(turns, logits)
            sampled, refused = (*sampled, *drawn), (*refused, *failed)
            decode_seconds += decoded - started - switched
            switch_seconds += switched
            sample_seconds += time.perf_counter() - decoded
            n_constrained += self._rows.constrained.n_tokens
            mask_seconds += self._rows.constrained.mask_seconds
        return StepResult(
            sampled,
            refused=refused,
            decode_seconds=decode_seconds,
            sample_seconds=sample_seconds,
            n_constrained=n_constrained,
            mask_seconds=mask_seconds,
            switch_seconds=switch_seconds,
        )

    def _parts(self, chunks: Chunks) -> tuple[Chunks, ...]:
        """Divide the chunks of a step into those of each call of llama.cpp: each image alone, then the tokens."""
        images = tuple((chunk,) for chunk in chunks if chunk.has_rows) if self._images is not None else ()
        if images and not (chunks := tuple(chunk for chunk in chunks if not chunk.has_rows)):
            return images
        parts = divide(chunks, self._cells_per_pass) if self._limits.partitioned else (chunks,)
        return (*images, *parts)

    def _decode(self, chunks: Chunks, adapters: AdapterSet) -> tuple[Floats, float]:
        """Compute chunks, and return their rows of logits and the seconds that a change of the adapters took."""
        if adapters == self._adapters.current:
            return self._logits(chunks), 0.0
        with self._adapters.switching(adapters):
            logits = self._logits(chunks)
        return logits, self._adapters.last_switch_seconds

    def _logits(self, chunks: Chunks) -> Floats:
        if not chunks[0].has_rows:
            return self._context.decode(chunks)
        assert self._images is not None
        token = chunks[0].tokens[0]
        rows, is_causal = self._images.rows(token), self._images.is_causal
        return self._context.decode_rows(chunks[0], rows, row_of(token), is_causal=is_causal)

    def close(self) -> None:
        for drawing in self._drawings.values():
            drawing.sampler.close()
        self._drawings.clear()
        self._slots.clear()
        self._states.clear()
        self._factory.close()
        self._rows.close()
        self._context.close()
        if self._images is not None:
            self._images.close()
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
            guide = self._guides.guide(request, history)
            sampler = SequenceSampler(request, self._factory, self._limits.n_ctx, banned, searches=self._folds)
            sampler.remember([token for token in history if token >= 0] if request.runs else history)
            drawing = Drawing(request, sampler, len(history) - len(request.prompt), guide)
            self._drawings[request.id] = drawing
        self._slots[slot] = drawing

    def _close(self, request_id: str) -> None:
        self.forget(request_id)
        drawing = self._drawings.pop(request_id, None)
        if drawing is not None:
            self._slots = {slot: other for slot, other in self._slots.items() if other is not drawing}
            drawing.sampler.close()


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
