"""Is the model really on the card? Asks an engine process, as the library reports, and the card itself."""

from __future__ import annotations

import logging

from bench.gpu_check.job import MIB, Job, within
from bench.gpu_check.outcome import Outcome
from worker_gguf.gguf import read_header
from worker_gguf.link.messages import Found, LoadModel, ModelLoaded
from worker_gguf.plan import MemoryPlan
from worker_gguf.plan.planning import plan_for
from worker_gguf.settings import Settings
from worker_gguf.start.engine_start import EngineStart
from worker_gguf.start.params import model_params

__all__ = ["measure"]


def measure(job: Job, outcome: Outcome) -> None:
    """Load the weights alone, as the worker's start does, and compare the memory with that of the idle process."""
    path = job.model("dense")
    settings = Settings.load({"MODEL": str(path), **job.profile.settings})
    with EngineStart() as engine:
        pid = engine.begin().pid
        found = engine.look()
        if job.on_card:
            _check_devices(found, outcome)
        plan = plan_for(read_header(path), found.machine, settings)
        idle_mib = job.used_mib(pid)
        command = LoadModel(
            path=str(path), params=model_params(settings, plan), has_file=False, log_level=logging.WARNING
        )
        loaded = engine.load(command, None, lambda _: True, lambda: None)
        risen_mib = job.used_mib(pid) - idle_mib
    _check_layers(job, loaded, outcome)
    _check_memory(job, plan, loaded, risen_mib, outcome)


def _check_devices(found: Found, outcome: Outcome) -> None:
    backends, gpus = ", ".join(found.gpu_backends) or "none", len(found.machine.gpus)
    outcome.check("devices", bool(found.gpu_backends and gpus), f"GPU backends of llama.cpp: {backends}; GPUs: {gpus}")


def _check_layers(job: Job, loaded: ModelLoaded, outcome: Outcome) -> None:
    n_offloaded, n_all = loaded.offloaded or (0, 0)
    outcome.add({"offload_layers": n_offloaded, "offload_layers_all": n_all})
    ok = 0 < n_offloaded == n_all if job.on_card else n_offloaded == 0
    outcome.check("layers", ok, f"llama.cpp put {n_offloaded} of {n_all or 'all'} layers on GPUs")


def _check_memory(job: Job, plan: MemoryPlan, loaded: ModelLoaded, risen_mib: float, outcome: Outcome) -> None:
    # In main memory, the load also brings the vocabulary.
    uses = [use for use in plan.devices if use.is_gpu == job.on_card]
    planned_mib = sum(use.weights_bytes + use.other_bytes for use in uses) / MIB
    taken_mib = loaded.taken_bytes / MIB
    outcome.add({"offload_weights_mib": planned_mib, "offload_risen_mib": risen_mib})
    where = "nvidia-smi" if job.on_card else "the process"
    found = f"the weights are {planned_mib:.0f} MiB, and the memory in use rose by {risen_mib:.0f} MiB ({where})"
    outcome.check("memory", planned_mib > 0 and within(planned_mib, risen_mib), found)
    if job.on_card:
        outcome.add({"offload_taken_mib": taken_mib})
        reported = f"the weights are {planned_mib:.0f} MiB, and ggml reports {taken_mib:.0f} MiB taken"
        outcome.check("memory by ggml", planned_mib > 0 and within(planned_mib, taken_mib), reported)
