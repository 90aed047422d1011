"""Does the memory plan state what a worker then uses? Compares it with the card's own figures, under load."""

from __future__ import annotations

import os
import secrets
from typing import Any

from bench.gpu_check.job import MIB, Job, Served, engine_of, within
from bench.gpu_check.outcome import Outcome
from bench.load import Load, run, run_loop
from worker_gguf.start.engine_start import EngineStart

__all__ = ["measure"]

_PROMPT_TOKENS, _MAX_TOKENS = 120, 16


def measure(job: Job, outcome: Outcome) -> None:
    before_mib = job.used_mib(os.getpid()) if job.on_card else 0.0
    with EngineStart() as engine:
        engine.look()
        idle_mib = job.used_mib(engine.begin().pid) - before_mib
    # On a card, an idle engine process has the context of CUDA. On the processor, it is what Python and the libraries
    # take, which the plan has in its reserve.
    outcome.add({"plan_idle_engine_mib": idle_mib})
    for kind, name in job.profile.models.items():
        with job.worker(MODEL=str(job.model(kind))) as worker:
            planned_mib = _planned_mib(worker.health()["plan"]["devices"], on_card=job.on_card)
            used_mib = _used_under_load_mib(job, worker) - (before_mib if job.on_card else idle_mib)
        _compare(name, planned_mib, used_mib, outcome)


def _planned_mib(devices: list[dict[str, Any]], *, on_card: bool) -> float:
    """Return the planned memory of all cards, or of main memory."""
    uses = [use for use in devices if use["is_gpu"] == on_card]
    counted: list[int] = [
        value for use in uses for name, value in use.items() if name.endswith("_bytes") and name != "room_bytes"
    ]
    return sum(counted) / MIB


def _used_under_load_mib(job: Job, worker: Served) -> float:
    """Fill the slots with requests once, so that everything that is allocated late is there."""
    n_parallel = worker.health()["plan"]["n_parallel"]
    model = worker.health()["model"]["id"]
    seed = secrets.token_hex(8)
    load = Load(f"{worker.url}/v1", model, n_parallel, n_parallel, _PROMPT_TOKENS, _MAX_TOKENS, seed)
    if errors := run_loop(run(load)).errors:
        raise RuntimeError(f"{len(errors)} of {n_parallel} requests failed, the first with: {errors[0]}")
    pid = engine_of(worker.pid)
    if pid is None:
        raise RuntimeError("the worker has no engine process")
    return job.used_mib(pid)


def _compare(name: str, planned_mib: float, used_mib: float, outcome: Outcome) -> None:
    error_mib = planned_mib - used_mib
    share = error_mib / used_mib if used_mib else 0.0
    outcome.add(
        {
            f"plan_{name}_planned_mib": planned_mib,
            f"plan_{name}_used_mib": used_mib,
            f"plan_{name}_error_mib": error_mib,
            f"plan_{name}_error_percent": 100 * share,
        }
    )
    found = f"planned {planned_mib:.0f} MiB, used {used_mib:.0f} MiB: {error_mib:+.0f} MiB, {share:+.1%}"
    outcome.check(name, planned_mib > 0 and within(planned_mib, used_mib), found)
