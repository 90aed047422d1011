"""The cold start, read top to bottom: from settings to a service that answers.

Heavy imports stand inside the phases that need them, so that each is timed and none delays the one before.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from worker_gguf.engine.plan import Machine, MemoryPlan, Stage, lesser_plan, preference
from worker_gguf.errors import NotReady
from worker_gguf.gguf import ModelHeader, read_headers
from worker_gguf.loading import load_within_memory
from worker_gguf.log import get_logger
from worker_gguf.planning import plan_for, repacks, shape_of, visible, wishes_of
from worker_gguf.progress_bar import ProgressBar
from worker_gguf.read_ahead import ReadAhead
from worker_gguf.settings import Settings
from worker_gguf.store import Hold, Hub, LocalModel, ModelRef, OriginalTokenizer, ensure, read_tokenizer
from worker_gguf.store.select import PREFERENCE, ModelFiles, by_labels
from worker_gguf.timeline import Timeline

if TYPE_CHECKING:
    from worker_gguf.engine.engine import Engine
    from worker_gguf.llama.model import Model
    from worker_gguf.metrics import Metrics
    from worker_gguf.service import Service
    from worker_gguf.store.prefetch import Prefetch

__all__ = ["Booted", "Progress", "boot"]

logger = get_logger(__name__)

_SWITCH_S = 0.0001

Progress = Callable[[str, float], bool]
"""Is told a phase and the fraction done, 0 to 1, as it goes; False asks to give the start up."""


@dataclass(frozen=True, slots=True)
class Booted:
    """What a start brings forth."""

    service: Service
    engine: Engine
    local: LocalModel
    header: ModelHeader
    plan: MemoryPlan
    machine: Machine
    hold: Hold
    """Keeps other workers on the volume from pruning the model's files."""


def boot(
    settings: Settings, metrics: Callable[[], Metrics], timeline: Timeline, progress: Progress, begun: Prefetch | None
) -> Booted:
    """Bring the model up. Raises the WorkerError that stopped it; what was loaded by then is given back.

    `begun` is the prefetch that had a head start, if there is one. It is closed here.
    """
    with _eager_switching(), ReadAhead(settings, timeline, progress, begun) as ahead:
        local = _fetch(settings, timeline, progress)
        hold = Hold(local.paths, settings.cache_dir())
        try:
            return _boot(settings, metrics, timeline, progress, ahead, local, hold)
        except BaseException:
            hold.release()
            raise


def _boot(
    settings: Settings,
    metrics: Callable[[], Metrics],
    timeline: Timeline,
    progress: Progress,
    ahead: ReadAhead,
    local: LocalModel,
    hold: Hold,
) -> Booted:
    ahead.follow(local)
    with timeline.phase("header"):
        header = read_headers(local.paths, ahead.files())
    original = _original(settings, timeline)
    with timeline.phase("backend"):
        from worker_gguf.llama.machine import read_machine

        machine = read_machine()
    with timeline.phase("plan"):
        plan = plan_for(header, machine, settings)
        _log_plan(plan)

    def load(plan: MemoryPlan) -> Model:
        with timeline.phase("load") as phase:
            phase.size_bytes = local.size_bytes
            model = _load(settings, local, plan, ahead, header.data_offset, partial(progress, "load"))
            if original:
                _adopt(original, model)
            return model

    def open_engine(model: Model, plan: MemoryPlan) -> Engine:
        with timeline.phase("context"):
            return _engine(settings, model, plan)

    def lesser(plan: MemoryPlan, stage: Stage) -> MemoryPlan | None:
        return lesser_plan(plan, stage, shape_of(header), visible(machine, settings), wishes_of(settings))

    model, engine, plan = load_within_memory(plan, load, open_engine, lesser)
    ahead.close()  # only now: a load that is tried again goes through the same open file
    try:
        if machine.gpus and plan.n_gpu_layers:
            _warm(engine, model, timeline)
        with timeline.phase("service"):
            from worker_gguf.model_service import make_service

            service = make_service(settings, engine, model, header, local, plan, metrics(), original)
    except BaseException:
        engine.runner.close()
        raise
    engine.start()
    return Booted(service, engine, local, header, plan, machine, hold)


@contextmanager
def _eager_switching() -> Iterator[None]:
    """Let threads take turns faster than every 5 ms. llama.cpp's load calls back some hundred times to log, and each
    time it would wait so long for the thread that imports the HTTP stack meanwhile."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before_s)


def _token(settings: Settings) -> str | None:
    return settings.hf_token.get_secret_value() if settings.hf_token else None


def _fetch(settings: Settings, timeline: Timeline, progress: Progress) -> LocalModel:
    ref = ModelRef.parse(settings.model_reference)
    with timeline.phase("fetch") as phase, ProgressBar(str(ref)) as bar:

        def fetched(done: int, total: int) -> None:
            bar.show(done, total)
            if not progress("fetch", done / total if total else 0.0):
                raise NotReady("The start was given up.")

        local = ensure(
            ref,
            settings.cache_dirs(),
            _token(settings),
            fetched,
            download_dir=settings.cache_dir(),
            baked_dir=settings.model_baked_dir,
            most_bytes=settings.model_cache_max_bytes,
            prefer=_prefer,
        )
        phase.size_bytes = local.size_bytes
    return local


def _original(settings: Settings, timeline: Timeline) -> OriginalTokenizer | None:
    if not settings.tokenizer:
        return None
    with timeline.phase("tokenizer"):
        return read_tokenizer(settings.tokenizer, settings.cache_dir(), Hub(_token(settings)))


def _prefer(models: Sequence[ModelFiles]) -> ModelFiles | None:
    """Of several quants the best that fits this machine, when none is asked for."""
    from worker_gguf.llama.machine import read_machine

    return by_labels(partial(preference, order=PREFERENCE, machine=read_machine()))(models)


# --- the plan ---------------------------------------------------------------------------------------------------------


def _log_plan(plan: MemoryPlan) -> None:
    for name, reason in plan.reasons.items():
        logger.info("planned", name=name.upper(), value=getattr(plan, name), reason=reason)


# --- llama.cpp --------------------------------------------------------------------------------------------------------


def _load(
    settings: Settings,
    local: LocalModel,
    plan: MemoryPlan,
    ahead: ReadAhead,
    data_offset: int,
    progress: Callable[[float], bool],
) -> Model:
    from worker_gguf.llama.model import Model, ModelParams

    progress(0.0)
    params = ModelParams(
        n_gpu_layers=plan.n_gpu_layers,
        load_mode=settings.load_mode,
        split_mode=settings.split_mode,
        main_gpu=settings.main_gpu,
        tensor_split=plan.tensor_split,
        n_cpu_moe=plan.n_cpu_moe,
        repack=repacks(settings, os.uname().machine),
    )
    return Model(local.path, params, progress=progress, fd=ahead.fd(data_offset), opened=ahead.opened)


def _adopt(original: OriginalTokenizer, model: Model) -> None:
    """Take the original repository's special tokens, if they are this model's."""
    try:
        original.check(model.vocabulary.n_tokens, model.vocabulary.token_text)
    except BaseException:
        model.close()
        raise
    model.vocabulary.adopt(original.bos_id, original.eos_ids)


def _engine(settings: Settings, model: Model, plan: MemoryPlan) -> Engine:
    from worker_gguf.engine.engine import Engine
    from worker_gguf.llama.context import Context, ContextParams
    from worker_gguf.llama.runner import LlamaRunner

    context = Context(
        model,
        ContextParams(
            n_ctx=plan.n_ctx,
            n_parallel=plan.n_parallel,
            n_cells=plan.n_cells,
            n_batch=plan.n_batch,
            n_ubatch=plan.n_ubatch,
            n_threads=plan.n_threads,
            n_threads_batch=plan.n_threads_batch,
            unified=plan.kv_unified,
            flash_attn=settings.flash_attn,
            type_k=plan.type_k,
            type_v=plan.type_v,
            rope_freq_base=settings.rope_freq_base or 0.0,
            rope_freq_scale=settings.rope_freq_scale or 0.0,
        ),
    )
    runner = LlamaRunner(model, context, n_sampling_threads=min(plan.n_threads, 4))
    return Engine(runner, model.vocabulary.piece, max_queue=settings.max_queue, prefill_chunk=plan.n_ubatch)


def _warm(engine: Engine, model: Model, timeline: Timeline) -> None:
    """One decode before the engine's thread starts: what a GPU compiles and allocates at the first, it does now.

    The processor has nothing to compile: there a decode costs what it costs, and the request that woke the worker
    waits for it.
    """
    from worker_gguf.engine.batch import Batch, Chunk, Truncate

    token = model.vocabulary.bos if model.vocabulary.bos is not None else 0
    with timeline.phase("warm"):
        result = engine.runner.run(Batch((), (Chunk(0, 0, [token], False),)))
        engine.runner.run(Batch((Truncate(0, 0),), ()))
    if result.error is not None:
        raise result.error
