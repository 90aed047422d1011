"""Opens one model: its weights and context in the engine process, its vocabulary and its templates in this one."""

from __future__ import annotations

import logging
import os
from concurrent.futures import Future
from threading import Lock, Thread
from typing import TYPE_CHECKING

from msgspec import Struct

from worker_gguf.errors import WorkerError
from worker_gguf.gguf import ModelHeader, abilities_of, special_ids
from worker_gguf.link.messages import (
    ContextOpened,
    Load,
    LoadModel,
    ModelLoaded,
    OpenContext,
    Serve,
)
from worker_gguf.plan import MemoryPlan
from worker_gguf.start.companions import Companions
from worker_gguf.start.engine_start import EngineStart
from worker_gguf.start.first_look import load_into
from worker_gguf.start.params import context_params, draft_context, model_params, mtp_context, vocabulary_size
from worker_gguf.start.read_ahead import ReadAhead
from worker_gguf.start.start import Start
from worker_gguf.store import LocalModel

if TYPE_CHECKING:
    from worker_gguf.generation.engine import Engine
    from worker_gguf.llama.vocabulary import Vocabulary
    from worker_gguf.service.conversations import Conversations

__all__ = ["Opening", "Weights"]

_MOST_SAMPLING_THREADS = 4


class Weights(Struct, frozen=True):
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
        others: Companions | None = None,
        *,
        is_first: bool = True,
    ) -> None:
        """The engine process of the first model of a worker loads no vocabulary, because this process does. Those of
        other models load it, too, so that a damaged one ends them and not this process. A projector needs it there.
        """
        self._start, self._local, self._header = start, local, header
        self._ahead, self._engine_start = ahead, engine_start
        others = others or Companions()
        self._original, self._draft, self._projector = others.original, others.draft, others.projector
        self._adapters = others.adapters
        self._vocabulary_size = vocabulary_size(header) if is_first and others.projector is None else None
        self._vocabulary: Future[Vocabulary] | None = ahead.look.vocabulary if ahead.look is not None else None
        self._conversations: Future[Conversations] | None = None
        self._adopting = Lock()
        self._is_adopted = False

    def begin_vocabulary(self) -> None:
        """Load the vocabulary in another thread, and compile the chat templates after it.

        Does nothing if that has begun. Call it before `ahead` is closed.
        """
        if self._vocabulary is None:
            header = self._header_bytes()  # now, because some mounts drop a file's pages when it is opened once more
            loaded: Future[Vocabulary] = Future()
            arguments = (loaded, self._start.timeline, self._local.path, header)
            Thread(target=load_into, args=arguments, name="vocabulary", daemon=True).start()
            self._vocabulary = loaded
        if self._conversations is None:
            compiled: Future[Conversations] = Future()
            Thread(target=self._compile_into, args=(compiled,), name="chat templates", daemon=True).start()
            self._conversations = compiled

    def _compile_into(self, compiled: Future[Conversations]) -> None:
        try:
            vocabulary = self.vocabulary()
            from worker_gguf.start.chat_templates import conversations_of

            compiled.set_result(conversations_of(self._start.settings, self._header, vocabulary, self._original))
        except BaseException as error:  # noqa: BLE001 - `conversations` raises it
            compiled.set_exception(error)

    def vocabulary(self) -> Vocabulary:
        """Return the vocabulary when it is loaded, with the special tokens of the original. Raises ModelInvalid."""
        assert self._vocabulary is not None, "begin_vocabulary was not called"
        vocabulary = self._vocabulary.result()
        with self._adopting:
            if (original := self._original) is not None and not self._is_adopted:
                original.check(vocabulary.n_tokens, vocabulary.token_text)
                vocabulary.adopt(original.bos_id, original.eos_ids)
                self._is_adopted = True
        return vocabulary

    def conversations(self) -> Conversations:
        """Return what renders conversations when the templates are compiled. Raises ModelInvalid or TemplateError."""
        assert self._conversations is not None, "begin_vocabulary was not called"
        return self._conversations.result()

    @property
    def _has_failed(self) -> bool:
        """Whether the vocabulary could not be loaded."""
        loading = self._vocabulary
        return loading is not None and loading.done() and loading.exception() is not None

    def _raise_failure(self) -> None:
        """Raise ModelInvalid if the vocabulary could not be loaded."""
        if self._has_failed:
            self.vocabulary()

    def load(self, plan: MemoryPlan) -> Weights:
        """Load the weights, those of the draft model, and the adapters. Raises ModelInvalid, or NotEnoughMemory.

        A vocabulary that cannot be loaded ends the load.
        """
        start, ahead = self._start, self._ahead
        with start.phase("load") as phase:
            phase.size_bytes = self._local.size_bytes
            progress = start.gate_of("load")
            progress(0.0)
            fd = ahead.fd(self._header.data_offset)
            command = self._load_command(plan, has_file=fd is not None)

            def go_on(fraction: float) -> bool:
                return progress(fraction) and not self._has_failed

            try:
                weights = Weights(self._engine_start.load(command, fd, go_on, ahead.opened))
            except WorkerError:
                self._raise_failure()
                raise
        if (draft := self._draft) is not None and plan.draft is not None:
            with start.phase("draft load") as phase:
                phase.size_bytes = draft.local.size_bytes
                fd = draft.fd()
                load = draft.command(start.settings, plan.draft, has_file=fd is not None)
                self._engine_start.load(load, fd, start.gate_of("draft load"), draft.ahead.opened)
        self._load_adapters()
        if (projector := self._projector) is not None and plan.projector is not None:
            with start.phase("projector load") as phase:
                phase.size_bytes = projector.local.size_bytes
                load_projector = projector.command(start.settings, plan)
                self._engine_start.load(load_projector, None, start.gate_of("projector load"), lambda: None)
        return weights

    def _load_adapters(self) -> None:
        for adapter, fd in zip(self._adapters.all, self._adapters.fds(), strict=True):
            with self._start.phase(f"adapter {adapter.name}") as phase:
                phase.size_bytes = adapter.local.size_bytes
                self._engine_start.load_adapter(adapter.command(has_file=fd is not None), fd)

    def open(self, _: Weights, plan: MemoryPlan) -> ContextOpened:
        """Open the context and draw the first token, or make the first vector.

        Raises ModelInvalid, NotEnoughMemory, or EngineDied.
        """
        self._raise_failure()
        timeline = self._start.timeline
        phase = timeline.begin("context")
        try:
            opened = self._engine_start.open(self._context_command(plan))
        except BaseException:
            phase.has_failed = True
            timeline.end(phase)
            raise
        timeline.end(phase, opened.opened_s)
        timeline.end(timeline.begin("first vector" if plan.pools else "first token", opened.opened_s))
        return opened

    def engine(self, plan: MemoryPlan, opened: ContextOpened) -> Engine:
        """Wait for the vocabulary, let the process serve, and return the engine, which owns the process from now on.

        Raises ModelInvalid.
        """
        from worker_gguf.generation.engine import Engine

        settings = self._start.settings
        commands: list[Load] = [self._load_command(plan, has_file=False)]
        if self._draft is not None and plan.draft is not None:
            commands.append(self._draft.command(settings, plan.draft, has_file=False))
        if self._projector is not None and plan.projector is not None:
            commands.append(self._projector.command(settings, plan))
        commands += [adapter.command(has_file=False) for adapter in self._adapters.all]
        vocabulary = self.vocabulary()
        serve = self._serve_command(plan, vocabulary)
        process = self._engine_start.release()
        process.send(serve)
        return Engine(
            process,
            opened.limits,
            vocabulary,
            max_queue=settings.max_queue,
            queue_timeout_s=settings.queue_timeout_s,
            revive=self._engine_start.again(commands, self._context_command(plan), serve),
            deaths_within_s=settings.engine_deaths_within_s,
        )

    def close(self) -> None:
        """Free the vocabulary, if it was loaded."""
        if self._conversations is not None and self._conversations.exception() is None:
            self._conversations.result().settle()
        if self._vocabulary is not None and self._vocabulary.exception() is None:
            self._vocabulary.result().close()

    def _header_bytes(self) -> bytes:
        size = self._header.data_offset
        if files := self._ahead.files():
            return os.pread(files[0].fileno(), size, 0)
        with self._local.path.open("rb") as file:
            return file.read(size)

    def _load_command(self, plan: MemoryPlan, *, has_file: bool) -> LoadModel:
        params = model_params(self._start.settings, plan, self._vocabulary_size)
        level = logging.getLogger().getEffectiveLevel()
        return LoadModel(path=str(self._local.path), params=params, has_file=has_file, log_level=level)

    def _context_command(self, plan: MemoryPlan) -> OpenContext:
        settings = self._start.settings
        # Next to a GPU, one thread: others would wait for the interpreter lock more than they draw.
        n_sampling_threads = 1 if plan.n_gpu_layers else min(plan.n_threads, _MOST_SAMPLING_THREADS)
        return OpenContext(
            params=context_params(settings, plan),
            bos=self._bos(),
            draws_first=plan.pools is not None or abilities_of(self._header).generates,
            n_sampling_threads=n_sampling_threads,
            draft=mtp_context(settings, plan) if plan.has_mtp else draft_context(settings, plan),
        )

    def _serve_command(self, plan: MemoryPlan, vocabulary: Vocabulary) -> Serve:
        return Serve(
            special=vocabulary.special,
            max_queue=self._start.settings.max_queue,
            cache_bytes=plan.cache_ram << 20,
            holds_reports=plan.n_gpu_layers == 0,
        )

    def _bos(self) -> int:
        """Return the token before the first one, 0 if there is none.

        The vocabulary may not be loaded yet, so the header is asked.
        """
        if self._original is not None and self._original.bos_id is not None:
            return self._original.bos_id
        return special_ids(self._header).bos or 0
