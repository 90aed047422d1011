"""Opens one model: its weights and context in the engine process, its vocabulary in this one."""

from __future__ import annotations

import logging
import os
from concurrent.futures import Future
from dataclasses import dataclass, replace
from threading import Thread
from typing import TYPE_CHECKING

from worker_gguf import environment
from worker_gguf.engine.params import ContextParams, ModelParams
from worker_gguf.errors import ModelInvalid
from worker_gguf.gguf import ModelHeader, abilities_of
from worker_gguf.link.messages import ContextOpened, LoadDraft, LoadModel, ModelLoaded, OpenContext
from worker_gguf.plan import MemoryPlan
from worker_gguf.plan.planning import repacks
from worker_gguf.settings import Settings
from worker_gguf.start.draft import DraftModel, draft_context
from worker_gguf.start.engine_start import EngineStart
from worker_gguf.start.read_ahead import ReadAhead
from worker_gguf.start.start import Start
from worker_gguf.store import LocalModel

if TYPE_CHECKING:
    from worker_gguf.generation.engine import Engine
    from worker_gguf.llama.vocabulary import Vocabulary
    from worker_gguf.store import OriginalTokenizer

__all__ = ["Opening", "Weights", "context_params", "model_params", "mtp_context"]

_MOST_SAMPLING_THREADS = 4


@dataclass(frozen=True, slots=True)
class Weights:
    """A model that the engine process has loaded."""

    report: ModelLoaded

    def close(self) -> None:
        """Do nothing: the process frees the model when it loads another one, or ends."""


class Opening:
    """The parts of one model while they are opened. Call `close` unless the engine took over."""

    def __init__(
        self,
        start: Start,
        local: LocalModel,
        header: ModelHeader,
        ahead: ReadAhead,
        engine_start: EngineStart,
        original: OriginalTokenizer | None,
        draft: DraftModel | None = None,
    ) -> None:
        """`original` has special tokens that replace those of the file. `draft` guesses for the model."""
        self._start, self._local, self._header = start, local, header
        self._ahead, self._engine_start, self._original = ahead, engine_start, original
        self._draft = draft
        self._vocabulary: Future[Vocabulary] | None = None

    def begin_vocabulary(self) -> None:
        """Load the vocabulary in another thread. Does nothing if that has begun. Call it before `ahead` is closed."""
        if self._vocabulary is None:
            self._vocabulary = Future()
            # Read now: some mounts drop a file's pages when it is opened once more.
            arguments = (self._vocabulary, self._header_bytes())
            Thread(target=self._load_vocabulary, args=arguments, name="vocabulary", daemon=True).start()

    def vocabulary(self) -> Vocabulary:
        """Return the vocabulary when it is loaded. Raises ModelInvalid."""
        assert self._vocabulary is not None, "begin_vocabulary was not called"
        return self._vocabulary.result()

    def load(self, plan: MemoryPlan) -> Weights:
        """Load the weights, and those of the draft model. Raises ModelInvalid, or NotEnoughMemory."""
        start, ahead = self._start, self._ahead
        with start.phase("load") as phase:
            phase.size_bytes = self._local.size_bytes
            progress = start.gate_of("load")
            progress(0.0)
            fd = ahead.fd(self._header.data_offset)
            command = self._load_command(plan, has_file=fd is not None)
            weights = Weights(self._engine_start.load(command, fd, progress, ahead.opened))
        if (draft := self._draft) is not None and plan.draft is not None:
            with start.phase("draft load") as phase:
                phase.size_bytes = draft.local.size_bytes
                fd = draft.fd()
                load = draft.command(start.settings, plan.draft, has_file=fd is not None)
                self._engine_start.load(load, fd, start.gate_of("draft load"), draft.ahead.opened)
        return weights

    def open(self, _: Weights, plan: MemoryPlan) -> ContextOpened:
        """Open the context and draw the first token. Raises NotEnoughMemory, or EngineDied."""
        timeline = self._start.timeline
        phase = timeline.begin("context")
        try:
            opened = self._engine_start.open(self._context_command(plan))
        except BaseException:
            phase.has_failed = True
            timeline.end(phase)
            raise
        timeline.end(phase, opened.opened_s)
        timeline.end(timeline.begin("first token", opened.opened_s))
        return opened

    def engine(self, plan: MemoryPlan, opened: ContextOpened) -> Engine:
        """Return the engine, which owns the process from now on."""
        from worker_gguf.generation.engine import Engine

        settings = self._start.settings
        commands: list[LoadModel | LoadDraft] = [self._load_command(plan, has_file=False)]
        if self._draft is not None and plan.draft is not None:
            commands.append(self._draft.command(settings, plan.draft, has_file=False))
        return Engine(
            self._engine_start.release(),
            opened.limits,
            self.vocabulary(),
            max_queue=settings.max_queue,
            queue_timeout_s=settings.queue_timeout_s,
            revive=self._engine_start.again(commands, self._context_command(plan)),
            deaths_within_s=settings.engine_deaths_within_s,
        )

    def close(self) -> None:
        """Free the vocabulary, if it was loaded."""
        if self._vocabulary is not None and self._vocabulary.exception() is None:
            self._vocabulary.result().close()

    def _header_bytes(self) -> bytes:
        size = self._header.data_offset
        if files := self._ahead.files():
            return os.pread(files[0].fileno(), size, 0)
        with self._local.path.open("rb") as file:
            return file.read(size)

    def _load_vocabulary(self, loaded: Future[Vocabulary], header: bytes) -> None:
        try:
            with self._start.phase("vocabulary"):
                loaded.set_result(self._read_vocabulary(header))
        except BaseException as error:  # noqa: BLE001 - `vocabulary` raises it
            loaded.set_exception(error)

    def _read_vocabulary(self, header: bytes) -> Vocabulary:
        from worker_gguf.llama.vocabulary_only import load_vocabulary

        environment.hide_gpus()
        path = self._local.path
        vocabulary = load_vocabulary(path, header, path.stat().st_size)
        try:
            if why := vocabulary.why_unusable():
                raise ModelInvalid(f"{path.name} cannot be served: it is {why}. Choose another model.")
            if (original := self._original) is not None:
                original.check(vocabulary.n_tokens, vocabulary.token_text)
                vocabulary.adopt(original.bos_id, original.eos_ids)
        except BaseException:
            vocabulary.close()
            raise
        return vocabulary

    def _load_command(self, plan: MemoryPlan, *, has_file: bool) -> LoadModel:
        params = model_params(self._start.settings, plan)
        level = logging.getLogger().getEffectiveLevel()
        return LoadModel(path=str(self._local.path), params=params, has_file=has_file, log_level=level)

    def _context_command(self, plan: MemoryPlan) -> OpenContext:
        settings = self._start.settings
        # Next to a GPU, one thread: others would wait for the interpreter lock more than they draw.
        n_sampling_threads = 1 if plan.n_gpu_layers else min(plan.n_threads, _MOST_SAMPLING_THREADS)
        return OpenContext(
            params=context_params(settings, plan),
            eog=tuple(self._original.eos_ids) if self._original else (),
            draws_first=abilities_of(self._header).generates,
            max_queue=settings.max_queue,
            n_sampling_threads=n_sampling_threads,
            cache_bytes=plan.cache_ram << 20,
            holds_reports=plan.n_gpu_layers == 0,
            draft=mtp_context(settings, plan) if plan.has_mtp else draft_context(settings, plan),
        )


def model_params(settings: Settings, plan: MemoryPlan) -> ModelParams:
    return ModelParams(
        n_gpu_layers=plan.n_gpu_layers,
        load_mode=settings.load_mode,
        split_mode=settings.split_mode,
        main_gpu=settings.main_gpu,
        tensor_split=plan.tensor_split,
        n_cpu_moe=plan.n_cpu_moe,
        repack=repacks(settings, os.uname().machine),
        has_mtp=plan.has_mtp,
    )


def context_params(settings: Settings, plan: MemoryPlan) -> ContextParams:
    return ContextParams(
        n_ctx=plan.n_ctx,
        n_parallel=plan.n_parallel,
        n_cells=plan.n_cells,
        n_batch=plan.n_batch,
        n_ubatch=plan.n_ubatch,
        n_threads=plan.n_threads,
        n_threads_batch=plan.n_threads_batch,
        unified=plan.kv_unified,
        flash_attn=settings.flash_attn if plan.flash_attn else "off",
        type_k=plan.type_k,
        type_v=plan.type_v,
        rope_freq_base=settings.rope_freq_base or 0.0,
        rope_freq_scale=settings.rope_freq_scale or 0.0,
        n_rows=plan.n_rows,
        swa_full=settings.swa_full,
    )


def mtp_context(settings: Settings, plan: MemoryPlan) -> ContextParams:
    """Return the parameters of the context of the MTP layer: that of the model, for smaller batches."""
    params = context_params(settings, plan)
    return replace(params, n_batch=max(plan.n_ubatch, plan.n_parallel), n_rows=plan.n_parallel)
