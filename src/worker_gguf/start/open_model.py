"""Opens a model in phases: header, plan, load, context, first token, checks, service.

The engine process loads the model. This process loads the vocabulary, beside all of that. Slow imports are inside the
phases that need them, so that each phase includes its imports and does not delay others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from worker_gguf.engine.machine import Machine
from worker_gguf.gguf import ModelHeader, abilities_of, read_headers
from worker_gguf.gguf.mtp import has_mtp_layer
from worker_gguf.gguf.pooling import why_other_scores
from worker_gguf.plan import MemoryPlan, Stage, left_by, left_by_projector, size_text, smaller_plan
from worker_gguf.plan.planning import beyond_training, constraints_of, plan_for, shape_of, visible, with_adapters
from worker_gguf.settings import Settings
from worker_gguf.start.adapters import Adapters, find_adapters
from worker_gguf.start.companions import Companions
from worker_gguf.start.draft import DraftModel
from worker_gguf.start.engine_start import EngineStart
from worker_gguf.start.fetch import original_tokenizer
from worker_gguf.start.gpu_memory import compare_gpu_memory
from worker_gguf.start.load import load_within_memory
from worker_gguf.start.loaded import LoadedModel
from worker_gguf.start.opening import Opening
from worker_gguf.start.read_ahead import ReadAhead
from worker_gguf.start.start import Start
from worker_gguf.store import LocalModel, UsageMark

if TYPE_CHECKING:
    from worker_gguf.generation.engine import Engine
    from worker_gguf.link.messages import ContextOpened, ModelLoaded
    from worker_gguf.service.service import Service
    from worker_gguf.start.checks import Check, GpuFacts
    from worker_gguf.start.projector import ProjectorModel

__all__ = ["LATE_IMPORTS", "open_model"]

logger = logging.getLogger(__name__)

# The modules that this module imports late. `worker-gguf serve` imports them while the model loads.
# tests/start/test_open_model.py compares the list with the imports below.
LATE_IMPORTS = (
    "worker_gguf.generation.engine",
    "worker_gguf.llama.backend",
    "worker_gguf.llama.vocabulary_only",
    "worker_gguf.start.chat_templates",
    "worker_gguf.start.checks",
    "worker_gguf.start.examine",
    "worker_gguf.start.model_service",
    "worker_gguf.start.projector",
)


def open_model(
    start: Start,
    local: LocalModel,
    usage_mark: UsageMark,
    ahead: ReadAhead,
    engine_start: EngineStart,
    *,
    checked: tuple[Check, ...] = (),
    left_of: Callable[[Machine], Machine] | None = None,
    drafting: tuple[LocalModel, ReadAhead] | None = None,
    projector: LocalModel | None = None,
) -> LoadedModel:
    """Load the model and build its service. Raises the WorkerError of a failure, after which nothing stays loaded.

    Closes `ahead` and ends `engine_start`. `checked` are checks of an earlier load. `left_of` returns a machine without
    other models' memory; with it, the vocabulary is loaded here only after the engine process has loaded it, because a
    damaged one could end this process, which serves other models. `drafting` is a draft model and its read-ahead.
    """
    settings = start.settings
    with ExitStack() as undo:
        undo.enter_context(engine_start).begin()
        ahead.follow(local)
        header = _header(start, local, ahead)
        others = _companions(start, engine_start, local, header, ahead, drafting, projector)
        undo.callback(others.adapters.release)
        is_first = left_of is None
        opening = Opening(start, local, header, ahead, engine_start, others, is_first=is_first)
        undo.callback(opening.close)
        if is_first:
            opening.begin_vocabulary()  # now, because the engine process may need seconds for its first look at a GPU
        machine, gpus = _machine(start, engine_start)
        room = left_of(machine) if left_of else machine
        planned = with_adapters(header, others.adapters.headers)
        plan = _plan(planned, room, start, others)
        smaller = partial(_smaller, header=planned, room=room, settings=settings)
        weights, opened, plan = load_within_memory(plan, opening.load, opening.open, smaller)
        gpu_memory = compare_gpu_memory(plan, machine, opened.gpu_free_bytes, settings)
        opening.begin_vocabulary()
        for files in (ahead, others.adapters):
            files.close()  # not earlier: a second load with a smaller plan uses the same open files
        facts, first = _offloaded(gpus, plan, weights.report), _first(plan, header, opened)
        checks = _check(start, facts, header, local, first, checked, others, plan)
        engine = opening.engine(plan, opened)
        undo.callback(engine.stop)
        service = _service(start, opening, engine, weights.report, header, local, plan, others.adapters)
        engine.start()
        undo.pop_all()
    measured = machine, usage_mark, checks, gpu_memory
    beside = others.adapters, others.projector
    return LoadedModel(service, engine, opening.vocabulary(), local, header, plan, *measured, *beside)


def _header(start: Start, local: LocalModel, ahead: ReadAhead) -> ModelHeader:
    if ahead.look is not None:
        return ahead.look.header()
    with start.phase("header"):
        return read_headers(local.paths, ahead.files())


def _draft(
    start: Start, drafting: tuple[LocalModel, ReadAhead], target: LocalModel, header: ModelHeader, ahead: ReadAhead
) -> DraftModel:
    with start.phase("draft header"):
        return DraftModel.begin(*drafting, target, header, ahead)


def _companions(
    start: Start,
    engine_start: EngineStart,
    local: LocalModel,
    header: ModelHeader,
    ahead: ReadAhead,
    drafting: tuple[LocalModel, ReadAhead] | None,
    projector: LocalModel | None,
) -> Companions:
    draft = _draft(start, drafting, local, header, ahead) if drafting else None
    seeing, original = _seeing(start, projector, header), original_tokenizer(start)
    return Companions(original, draft, find_adapters(start, engine_start.machine, local, header), seeing)


def _seeing(start: Start, local: LocalModel | None, header: ModelHeader) -> ProjectorModel | None:
    if local is None:
        return None
    with start.phase("projector header"):
        from worker_gguf.start.projector import ProjectorModel

        return ProjectorModel.of(local, header, is_required=start.settings.names_projector)


def _smaller(
    plan: MemoryPlan, stage: Stage, *, header: ModelHeader, room: Machine, settings: Settings
) -> MemoryPlan | None:
    room = left_by_projector(plan.projector, left_by(plan.draft, visible(room, settings)))
    return smaller_plan(
        plan, stage, shape_of(header, has_mtp=plan.has_mtp), room, constraints_of(settings, pools=plan.pools)
    )


def _machine(start: Start, engine_start: EngineStart) -> tuple[Machine, GpuFacts | None]:
    """Wait for the engine process, learn the state of the machine from it, and check its GPUs before the load.

    Raises Unfit if a GPU is missing. The facts about GPUs are None if neither the settings nor the build of llama.cpp
    refer to GPUs.
    """
    settings, timeline = start.settings, start.timeline
    with start.phase("backend"):
        found = engine_start.look()
    timeline.end(timeline.begin("engine process", found.began_s), found.imported_s)
    if not (settings.n_gpu_layers or settings.runpod_gpu_count or found.gpu_backends):
        return found.machine, None  # without GPUs, the import below is not needed
    from worker_gguf.start.checks import GpuFacts

    n_seen = len(found.machine.gpus)
    gpus = GpuFacts(found.gpu_backends, n_seen, settings.runpod_gpu_count, settings.n_gpu_layers)
    if not gpus.devices().ok:
        from worker_gguf.start.examine import check_devices

        check_devices(settings, gpus)
    return found.machine, gpus


def _offloaded(gpus: GpuFacts | None, plan: MemoryPlan, loaded: ModelLoaded) -> GpuFacts:
    """Add the result of the load to the facts about GPUs."""
    from worker_gguf.start.checks import GpuFacts

    return replace(
        gpus or GpuFacts((), 0),
        planned=plan.n_gpu_layers,
        offloaded=loaded.offloaded,
        taken_bytes=loaded.taken_bytes,
        planned_bytes=sum(use.weights_bytes for use in plan.devices if use.is_gpu),
    )


def _first(plan: MemoryPlan, header: ModelHeader, opened: ContextOpened) -> Check:
    """Check the first computation."""
    from worker_gguf.start.checks import Check, TokenFacts, VectorFacts

    if plan.pools is not None:
        return VectorFacts(opened.first_length, opened.first_error, ranks=plan.pools.ranks).check()
    if not abilities_of(header).generates:
        return Check("token", True, "none drawn: the model does not generate text")
    return TokenFacts(opened.first_logprob, opened.first_error).check()


def _check(
    start: Start,
    gpus: GpuFacts,
    header: ModelHeader,
    local: LocalModel,
    first: Check,
    checked: tuple[Check, ...],
    others: Companions,
    plan: MemoryPlan,
) -> tuple[Check, ...]:
    with start.phase("fitness"):
        from worker_gguf.start.examine import examine

        projector = others.projector if plan.projector is not None else None
        return examine(start, gpus, header, local, first, checked, others.draft, others.adapters, projector)


def _service(
    start: Start,
    opening: Opening,
    engine: Engine,
    loaded: ModelLoaded,
    header: ModelHeader,
    local: LocalModel,
    plan: MemoryPlan,
    adapters: Adapters,
) -> Service:
    with start.phase("service"):
        from worker_gguf.start.model_service import make_service

        vocabulary, conversations = opening.vocabulary(), opening.conversations()
        files = [adapter.local for adapter in adapters.all]
        return make_service(start.settings, engine, vocabulary, loaded, header, local, plan, conversations, files)


def _plan(header: ModelHeader, room: Machine, start: Start, others: Companions) -> MemoryPlan:
    draft_header = others.draft.header if others.draft is not None else None
    wanted = others.projector.wanted(header) if others.projector is not None else None
    settings, shares_memory = start.settings, start.shares_memory
    with start.phase("plan"):
        plan = plan_for(header, room, settings, shares_memory=shares_memory, draft=draft_header, projector=wanted)
    if plan.projector is not None:
        logger.info("projector planned", extra=plan.projector.summary())
    if plan.blind:
        logger.warning("projector left out", extra={"reason": plan.blind})
    if plan.draft is not None:
        logger.info("draft model planned", extra=plan.draft.summary())
    if plan.has_mtp:
        logger.info("MTP layer planned", extra={"memory": size_text(plan.mtp_bytes)})
    elif settings.speculation == "mtp":
        logger.warning("MTP layer left out", extra={"reason": _why_no_mtp(header, plan)})
    logger.info("memory weighed", extra={"reason": plan.weighed})
    for name, reason in plan.reasons.items():
        logger.info("planned", extra={"setting": name.upper(), "value": getattr(plan, name), "reason": reason})
    if warning := beyond_training(header, plan):
        logger.warning("the context is longer than the model was trained for", extra={"reason": warning})
    if plan.pools is not None and plan.pools.pooling == "rank" and (why := why_other_scores(header)):
        logger.warning("the scores differ from those of the published model", extra={"reason": why})
    return plan


def _why_no_mtp(header: ModelHeader, plan: MemoryPlan) -> str:
    if plan.pools is not None:
        return "a model that pools draws no tokens"
    if not has_mtp_layer(header):
        return "the file has no MTP layer, or none that this worker can use (docs/speculation.md)"
    return "it does not fit into the memory, or so many requests run at once that no tokens are guessed"
