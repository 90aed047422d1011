"""Opens a model in phases: header, plan, load, context, first token, checks, service.

Slow imports are inside the phases that need them, so that each phase includes its imports and does not delay others.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from worker_gguf.gguf import ModelHeader, abilities_of, read_headers
from worker_gguf.plan import Machine, MemoryPlan, Stage, smaller_plan
from worker_gguf.plan.planning import beyond_training, constraints_of, plan_for, repacks, shape_of, visible
from worker_gguf.settings import Settings
from worker_gguf.start.fetch import original_tokenizer
from worker_gguf.start.load import load_within_memory
from worker_gguf.start.loaded import LoadedModel
from worker_gguf.start.read_ahead import ReadAhead
from worker_gguf.start.start import Start
from worker_gguf.store import LocalModel, UsageMark

if TYPE_CHECKING:
    from worker_gguf.engine.engine import Engine
    from worker_gguf.llama.model import Model
    from worker_gguf.start.checks import Check, GpuFacts
    from worker_gguf.store import OriginalTokenizer

__all__ = ["LATE_IMPORTS", "open_model"]

logger = logging.getLogger(__name__)

# The modules that this module imports late. `worker-gguf serve` imports them while the model loads.
# tests/start/test_open_model.py compares the list with the imports below.
LATE_IMPORTS = (
    "worker_gguf.engine.engine",
    "worker_gguf.llama.context",
    "worker_gguf.llama.offload",
    "worker_gguf.llama.runner",
    "worker_gguf.start.checks",
    "worker_gguf.start.examine",
    "worker_gguf.start.first_token",
    "worker_gguf.start.model_service",
)


def open_model(
    start: Start,
    local: LocalModel,
    usage_mark: UsageMark,
    ahead: ReadAhead,
    *,
    checked: tuple[Check, ...] = (),
    left_of: Callable[[Machine], Machine] | None = None,
) -> LoadedModel:
    """Load the model and build its service. Raises the WorkerError of a failure, after which nothing stays loaded.

    Closes `ahead`. `checked` are checks of an earlier load. `left_of` returns a machine without other models' memory.
    """
    settings = start.settings
    ahead.follow(local)
    with start.phase("header"):
        header = read_headers(local.paths, ahead.files())
    original = original_tokenizer(start)
    with start.phase("backend"):
        machine, gpus = _machine(settings)
    room = left_of(machine) if left_of else machine
    with start.phase("plan"):
        plan = _plan(header, room, settings)

    def load(plan: MemoryPlan) -> Model:
        with start.phase("load") as phase:
            phase.size_bytes = local.size_bytes
            model = _load(start, local, plan, ahead, header.data_offset)
            if original:
                _adopt(original, model)
            return model

    def open_engine(model: Model, plan: MemoryPlan) -> Engine:
        with start.phase("context"):
            return _engine(settings, model, plan)

    def smaller(plan: MemoryPlan, stage: Stage) -> MemoryPlan | None:
        return smaller_plan(plan, stage, shape_of(header), visible(room, settings), constraints_of(settings))

    model, engine, plan = load_within_memory(plan, load, open_engine, smaller)
    ahead.close()  # not earlier: a second load with a smaller plan uses the same open file
    with _closing_on_error(engine):
        token = _first_token(start, header, model, engine)
        checks = _check(start, _offloaded(gpus, machine, plan, model), header, local, token, checked)
        with start.phase("service"):
            from worker_gguf.start.model_service import make_service

            service = make_service(settings, engine, model, header, local, plan, original)
    engine.start()
    return LoadedModel(service, engine, local, header, plan, machine, usage_mark, checks)


@contextmanager
def _closing_on_error(engine: Engine) -> Iterator[None]:
    try:
        yield
    except BaseException:
        engine.runner.close()
        raise


def _machine(settings: Settings) -> tuple[Machine, GpuFacts | None]:
    """Read the state of the machine and check its GPUs before the model is read. Raises Unfit if a GPU is missing.

    The facts about GPUs are None if neither the settings nor the build of llama.cpp refer to GPUs.
    """
    from worker_gguf.llama.machine import read_machine
    from worker_gguf.llama.offload import gpu_backends

    machine = read_machine()
    backends = gpu_backends()
    if not (settings.n_gpu_layers or settings.runpod_gpu_count or backends):
        return machine, None  # without GPUs, the import below is not needed
    from worker_gguf.start.checks import GpuFacts

    gpus = GpuFacts(backends, len(machine.gpus), settings.runpod_gpu_count, settings.n_gpu_layers)
    if not gpus.devices().ok:
        from worker_gguf.start.examine import check_devices

        check_devices(settings, gpus)
    return machine, gpus


def _offloaded(gpus: GpuFacts | None, machine: Machine, plan: MemoryPlan, model: Model) -> GpuFacts:
    """Add the result of the load to the facts about GPUs."""
    from worker_gguf.llama.machine import read_machine
    from worker_gguf.start.checks import GpuFacts

    taken_bytes = 0
    if machine.gpus and model.offloaded is None:
        taken_bytes = sum(gpu.free_bytes for gpu in machine.gpus) - sum(gpu.free_bytes for gpu in read_machine().gpus)
    return replace(
        gpus or GpuFacts((), 0),
        planned=plan.n_gpu_layers,
        offloaded=model.offloaded,
        taken_bytes=taken_bytes,
        planned_bytes=sum(use.weights_bytes for use in plan.devices if use.is_gpu),
    )


def _first_token(start: Start, header: ModelHeader, model: Model, engine: Engine) -> Check:
    from worker_gguf.start.checks import Check
    from worker_gguf.start.examine import check_token

    if not abilities_of(header).generates:
        return Check("token", True, "none drawn: the model does not generate text")
    with start.phase("first token"):
        from worker_gguf.start.first_token import first_token

        return check_token(first_token(engine.runner, model.vocabulary.bos))


def _check(
    start: Start, gpus: GpuFacts, header: ModelHeader, local: LocalModel, token: Check, checked: tuple[Check, ...]
) -> tuple[Check, ...]:
    with start.phase("fitness"):
        from worker_gguf.start.examine import examine

        return examine(start, gpus, header, local, token, checked)


def _plan(header: ModelHeader, room: Machine, settings: Settings) -> MemoryPlan:
    plan = plan_for(header, room, settings)
    for name, reason in plan.reasons.items():
        logger.info("planned", extra={"setting": name.upper(), "value": getattr(plan, name), "reason": reason})
    if warning := beyond_training(header, plan):
        logger.warning("the context is longer than the model was trained for", extra={"reason": warning})
    return plan


def _load(start: Start, local: LocalModel, plan: MemoryPlan, ahead: ReadAhead, data_offset: int) -> Model:
    from worker_gguf.llama.model import Model, ModelParams

    settings, progress = start.settings, start.gate_of("load")
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
    """Use the special tokens of the original repository. Closes the model and raises an error if they do not fit."""
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
    try:
        runner = LlamaRunner(model, context, n_sampling_threads=min(plan.n_threads, 4))
        return Engine(
            runner,
            model.vocabulary.piece,
            max_queue=settings.max_queue,
            queue_timeout_s=settings.queue_timeout_s,
            prefill_chunk=plan.n_ubatch,
        )
    except BaseException:
        context.close()
        raise
