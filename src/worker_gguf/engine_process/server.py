"""Carries out the commands of the worker process: looks at the machine, loads a model, opens its context, serves."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from worker_gguf import interpreter
from worker_gguf.engine.runner import Limits
from worker_gguf.engine_process.adapters import Loaded, try_adapters
from worker_gguf.engine_process.first_token import first_token
from worker_gguf.engine_process.log import LogSender, say_last
from worker_gguf.engine_process.loop import Loop
from worker_gguf.engine_process.preparation import run_beside
from worker_gguf.errors import ModelInvalid, WorkerError
from worker_gguf.link.channel import Channel
from worker_gguf.link.errors import report_of
from worker_gguf.link.messages import (
    AdapterLoaded,
    Command,
    ContextOpened,
    Failed,
    FilesOpened,
    Found,
    LoadAdapter,
    LoadDraft,
    LoadModel,
    LoadProjector,
    Look,
    ModelLoaded,
    OpenContext,
    Progress,
    Report,
    Serve,
    Stop,
)
from worker_gguf.llama import backend
from worker_gguf.llama.adapters import Adapter
from worker_gguf.llama.context import Context
from worker_gguf.llama.draft import LlamaDrafter, check_pair
from worker_gguf.llama.machine import n_cores, read_machine
from worker_gguf.llama.model import Model
from worker_gguf.llama.mtp import MtpDrafter
from worker_gguf.llama.offload import gpu_backends
from worker_gguf.llama.parent import continue_with_end_of_parent
from worker_gguf.llama.runner import LlamaRunner

if TYPE_CHECKING:
    from worker_gguf.llama.alternation import Alternation
    from worker_gguf.llama.images import Images
    from worker_gguf.llama.pooling import LlamaPooler
    from worker_gguf.llama.projector import Projector

__all__ = ["Server"]

# Progress is reported at most so often, in parts of the whole.
_STEP = 0.005
# While the first token is computed, the worker process loads the vocabulary and imports. A thread of ggml that lost its
# core would make all others spin at their next barrier, and take time from these.
_CORES_OF_THE_WORKER = 2


class Server:
    """Answers commands until it is told to serve, and then serves requests until it is told to stop."""

    def __init__(self, channel: Channel[Command], began_s: float) -> None:
        """`began_s` is the reading of `time.perf_counter` at which this process began to import."""
        self._channel = channel
        continue_with_end_of_parent()
        root = logging.getLogger()
        root.addHandler(LogSender(channel))
        root.setLevel(logging.WARNING)  # until LoadModel brings the level of the settings
        backend.start(lambda sentence: say_last(channel, sentence))
        self._began_s, self._imported_s = began_s, time.perf_counter()
        self._model: Model | None = None
        self._draft: Model | None = None
        self._adapters: list[Loaded] = []
        self._projector: Projector | None = None
        self._alternation: Alternation | None = None
        self._rows_bytes = 0
        self._name = ""
        self._runner: LlamaRunner | None = None
        self._drafter: LlamaDrafter | MtpDrafter | None = None
        self._pooler: LlamaPooler | None = None

    def run(self) -> None:
        """Return when the worker process sends Stop. Raises ChannelClosed if it ends."""
        while True:
            command = self._channel.receive()
            assert command is not None
            if isinstance(command, Stop):
                return
            if isinstance(command, Serve):
                self._serve(command)
                return
            try:
                report = self._answer(command)
            except WorkerError as error:
                report = Failed(error=report_of(error))
            self._channel.send(report)

    def _answer(self, command: Command) -> Report:
        match command:
            case Look():
                return Found(
                    machine=read_machine(),
                    gpu_backends=gpu_backends(),
                    began_s=self._began_s,
                    imported_s=self._imported_s,
                )
            case LoadModel() | LoadDraft() | LoadAdapter():
                fd = self._channel.take_fd() if command.has_file else None
                try:
                    return self._load(command, fd)
                finally:
                    if fd is not None:
                        os.close(fd)
            case LoadProjector():
                return self._load_projector(command)
            case OpenContext():
                return self._open(command)
            case _:
                raise RuntimeError(f"{type(command).__name__} came before Serve")

    def _load(self, command: LoadModel | LoadDraft | LoadAdapter, fd: int | None) -> Report:
        match command:
            case LoadModel():
                return self._load_model(command, fd)
            case LoadDraft():
                return self._load_draft(command, fd)
            case LoadAdapter():
                return self._load_adapter(command, fd)

    def _load_model(self, command: LoadModel, fd: int | None) -> ModelLoaded:
        logging.getLogger().setLevel(command.log_level)
        for loaded in (self._projector, self._draft, self._model):
            if loaded is not None:
                loaded.close()
        self._projector = self._draft = self._model = None
        self._alternation = None
        self._adapters = []  # the model has freed them
        self._name = Path(command.path).name
        self._model, report = self._open_model(command, fd)
        return report

    def _load_draft(self, command: LoadDraft, fd: int | None) -> ModelLoaded:
        assert self._model is not None, "no model is loaded"
        self._draft, report = self._open_model(command, fd)
        check_pair(self._model, self._name, self._draft, Path(command.path).name)
        return report

    def _load_adapter(self, command: LoadAdapter, fd: int | None) -> AdapterLoaded:
        assert self._model is not None, "no model is loaded"
        adapter = Adapter(self._model, self._name, command.name, Path(command.path), fd)
        self._adapters.append(Loaded(adapter, command.scale))
        return AdapterLoaded()

    def _load_projector(self, command: LoadProjector) -> ModelLoaded:
        # A model without one needs no library for images.
        from worker_gguf.llama.alternation import Alternation
        from worker_gguf.llama.projector import Projector

        assert self._model is not None, "no model is loaded"
        before = sum(gpu.free_bytes for gpu in read_machine().gpus)
        self._alternation = Alternation() if command.takes_turns else None
        self._projector = Projector(
            Path(command.path),
            self._model,
            n_threads=command.n_threads,
            gpu=command.gpu,
            alternation=self._alternation,
        )
        self._rows_bytes = command.rows_bytes
        taken = before - sum(gpu.free_bytes for gpu in read_machine().gpus)
        return ModelLoaded(n_ctx_train=0, n_params=0, offloaded=None, taken_bytes=taken)

    def _open_model(self, command: LoadModel | LoadDraft, fd: int | None) -> tuple[Model, ModelLoaded]:
        before = sum(gpu.free_bytes for gpu in read_machine().gpus)
        model = Model(
            Path(command.path),
            command.params,
            progress=self._report_progress(),
            fd=fd,
            opened=lambda: self._channel.send(FilesOpened()),
        )
        return model, ModelLoaded(
            n_ctx_train=model.n_ctx_train,
            n_params=model.n_params,
            offloaded=model.offloaded,
            taken_bytes=before - sum(gpu.free_bytes for gpu in read_machine().gpus),
        )

    def _report_progress(self) -> Callable[[float], bool]:
        last = -1.0

        def report(fraction: float) -> bool:
            nonlocal last
            if fraction - last >= _STEP or fraction >= 1.0:
                last = fraction
                self._channel.send(Progress(fraction=fraction))
            return True

        return report

    def _open(self, command: OpenContext) -> ContextOpened:
        model = self._model
        assert model is not None, "no model is loaded"
        if command.params.pooling is not None:
            return self._open_pooling(model, command)
        context = Context(model, command.params)
        opened_s = time.perf_counter()
        adapters = [loaded.adapter for loaded in self._adapters]
        images = self._images(context) if self._projector is not None else None
        n_threads = command.n_sampling_threads
        runner = LlamaRunner(
            model,
            context,
            n_sampling_threads=n_threads,
            adapters=adapters,
            images=images,
            alternation=self._alternation,
        )
        try:
            if images is not None:
                images.try_out(context)
            drafter = self._open_draft(command, runner.limits, context)
            logprob, error = self._draw_first(runner, context, command.bos) if command.draws_first else (None, None)
        except BaseException:
            context.close()  # a smaller plan opens another one
            raise
        self._runner, self._drafter = runner, drafter
        return ContextOpened(
            limits=runner.limits,
            opened_s=opened_s,
            first_logprob=logprob,
            first_error=error,
            gpu_free_bytes=tuple(gpu.free_bytes for gpu in read_machine().gpus),
        )

    def _open_pooling(self, model: Model, command: OpenContext) -> ContextOpened:
        from worker_gguf.engine_process.first_vector import first_vector
        from worker_gguf.llama.pooling import LlamaPooler, PoolingContext

        context = PoolingContext(model, command.params)
        opened_s = time.perf_counter()
        self._pooler = LlamaPooler(context)
        first: float | WorkerError | None = None
        if command.draws_first:
            with context.limiting_threads(max(1, n_cores() - _CORES_OF_THE_WORKER)):
                first = first_vector(self._pooler, command.bos)
        return ContextOpened(
            limits=self._pooler.limits,
            opened_s=opened_s,
            first_logprob=None,
            first_error=first.message if isinstance(first, WorkerError) else None,
            gpu_free_bytes=tuple(gpu.free_bytes for gpu in read_machine().gpus),
            first_length=None if isinstance(first, WorkerError) else first,
        )

    def _draw_first(self, runner: LlamaRunner, context: Context, bos: int) -> tuple[float | None, str | None]:
        """Return the log-probability of a first token, or the error of its computation. Raises ModelInvalid."""
        with context.limiting_threads(max(1, n_cores() - _CORES_OF_THE_WORKER)):
            if self._adapters:
                try_adapters(runner, bos, self._adapters)
            first = first_token(runner, bos)
        if isinstance(first, WorkerError):
            return None, first.message
        return (first.logprobs[0].logprob if first is not None and first.logprobs else None), None

    def _images(self, context: Context) -> Images:
        from worker_gguf.llama.images import Images

        assert self._projector is not None
        n_ctx, n_ubatch = min(context.params.n_ctx, context.n_ctx_seq), context.params.n_ubatch
        return Images(self._projector, n_ctx=n_ctx, n_ubatch=n_ubatch, limit_bytes=self._rows_bytes)

    def _open_draft(self, command: OpenContext, limits: Limits, context: Context) -> LlamaDrafter | MtpDrafter | None:
        """Open the context that guesses tokens, if the plan has one, and compute with it. Raises ModelInvalid."""
        if (params := command.draft) is None:
            return None
        assert self._model is not None
        if self._draft is None:
            return MtpDrafter.open(self._model, params, context, command.bos)
        if limits.prefix != "any":
            raise ModelInvalid(
                f"DRAFT_MODEL cannot be used with {self._name} and SWA_FULL=false: wrong guesses could not be removed "
                "from its memory. Unset one of them."
            )
        drafter = LlamaDrafter(self._draft, Context(self._draft, params), self._model.n_vocab)
        drafter.warm_up(command.bos)
        return drafter

    def _serve(self, command: Serve) -> None:
        interpreter.for_requests()
        if self._pooler is not None:
            from worker_gguf.engine_process.pooling_loop import PoolingLoop

            PoolingLoop(self._pooler, self._channel).run()
            return
        assert self._runner is not None, "no context is open"
        self._runner.adopt(command.special)
        if self._drafter is not None:
            self._drafter.adopt(command.special)
        if self._model is not None and self._model.offloaded is not None and self._model.offloaded[0]:
            # The processor is idle beside a GPU. Without one, only a request with a grammar takes this time.
            run_beside(self._runner.read_ahead, "vocabulary")
        Loop(
            self._runner,
            self._channel,
            eog=command.special.eog,
            max_queue=command.max_queue,
            prefill_chunk=self._runner.n_ubatch,
            cache_bytes=command.cache_bytes,
            holds_reports=command.holds_reports,
            drafter=self._drafter,
        ).run()
