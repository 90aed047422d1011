"""From a model's files to the service that answers with it: header, plan, load, context, first token, checks, service.

Heavy imports stand inside the phases that need them, so that each is timed and none delays the one before.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from worker_gguf.gguf import ModelHeader, read_headers
from worker_gguf.observe.timeline import Timeline
from worker_gguf.plan import Machine, MemoryPlan, Stage, lesser_plan
from worker_gguf.plan.planning import beyond_training, plan_for, repacks, shape_of, visible, wishes_of
from worker_gguf.settings import Settings
from worker_gguf.start.fetch import Progress, original_tokenizer
from worker_gguf.start.load import load_within_memory
from worker_gguf.start.loaded import LoadedModel
from worker_gguf.start.read_ahead import ReadAhead
from worker_gguf.store import LocalModel, UsageMark

if TYPE_CHECKING:
    from worker_gguf.engine.engine import Engine
    from worker_gguf.llama.model import Model
    from worker_gguf.observe.metrics import Metrics
    from worker_gguf.start.fitness import Check
    from worker_gguf.store import OriginalTokenizer

__all__ = ["Opening", "open_model"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opening:
    """What is to be opened, and who is told how it goes. `checked` are the checks of an earlier opening: those of the
    files and the cache hold still."""

    settings: Settings
    metrics: Callable[[], Metrics]
    timeline: Timeline
    progress: Progress
    checked: tuple[Check, ...] = ()


def open_model(
    opening: Opening,
    local: LocalModel,
    hold: UsageMark,
    ahead: ReadAhead,
    beside: Callable[[Machine], Machine] = lambda machine: machine,
) -> LoadedModel:
    """Bring the model up. Raises the WorkerError that stopped it; what was loaded by then is given back.

    `beside` cuts the machine to what other models leave of it. `hold` and `ahead` stay the caller's; `ahead` is closed.
    """
    settings, timeline = opening.settings, opening.timeline
    ahead.follow(local)
    with timeline.phase("header"):
        header = read_headers(local.paths, ahead.files())
    original = original_tokenizer(settings, timeline)
    with timeline.phase("backend"):
        whole = _machine(settings)
        machine = beside(whole)
    with timeline.phase("plan"):
        plan = plan_for(header, machine, settings)
        _log_plan(plan, header)

    def load(plan: MemoryPlan) -> Model:
        with timeline.phase("load") as phase:
            phase.size_bytes = local.size_bytes
            model = _load(settings, local, plan, ahead, header.data_offset, partial(opening.progress, "load"))
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
    with _closing_if_it_fails(engine):
        checks = _examine(opening, whole, plan, header, local, model, engine)
        with timeline.phase("service"):
            from worker_gguf.start.model_service import make_service

            service = make_service(settings, engine, model, header, local, plan, opening.metrics(), original)
    engine.start()
    return LoadedModel(service, engine, local, header, plan, machine, hold, checks)


@contextmanager
def _closing_if_it_fails(engine: Engine) -> Iterator[None]:
    try:
        yield
    except BaseException:
        engine.runner.close()
        raise


def _machine(settings: Settings) -> Machine:
    """Look, and refuse a machine without the GPUs it should have: it need not read the model."""
    from worker_gguf.llama.machine import read_machine
    from worker_gguf.llama.offload import gpu_backends

    machine = read_machine()
    backends = gpu_backends()
    if settings.n_gpu_layers or settings.runpod_gpu_count or backends:  # else no judge need be imported so early
        from worker_gguf.start.fitness import GpuFacts

        facts = GpuFacts(backends, len(machine.gpus), settings.runpod_gpu_count, settings.n_gpu_layers)
        if facts.devices().ok:
            return machine
        from worker_gguf.start.facts import examine_devices

        examine_devices(settings, machine)
    return machine


def _examine(
    opening: Opening,
    machine: Machine,
    plan: MemoryPlan,
    header: ModelHeader,
    local: LocalModel,
    model: Model,
    engine: Engine,
) -> tuple[Check, ...]:
    with opening.timeline.phase("first token"):
        from worker_gguf.start.first_token import first_token

        first = first_token(engine.runner, model.vocabulary.bos)
    with opening.timeline.phase("fitness"):
        from worker_gguf.start.facts import examine

        progress = partial(opening.progress, "verify")
        return examine(opening.settings, machine, plan, header, local, model, first, progress, opening.checked)


def _log_plan(plan: MemoryPlan, header: ModelHeader) -> None:
    for name, reason in plan.reasons.items():
        logger.info("planned", extra={"setting": name.upper(), "value": getattr(plan, name), "reason": reason})
    if warning := beyond_training(header, plan):
        logger.warning("the context is longer than the model was trained for", extra={"reason": warning})


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
    return Engine(
        runner,
        model.vocabulary.piece,
        max_queue=settings.max_queue,
        queue_timeout_s=settings.queue_timeout_s,
        prefill_chunk=plan.n_ubatch,
    )
