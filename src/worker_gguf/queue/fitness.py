"""Hands the start's checks to the SDK, which reports a failed one to the platform and ends the process with 1.

The SDK's own checks (rp_system_fitness.py and rp_gpu_fitness.py of runpod 1.12) are made for a worker that has not
loaded its model yet. After the load, 4 GB of main memory need not be free, nor memory on the GPU, nor a tenth of the
image's disk, and a worker without a route to 8.8.8.8 can serve. They are off unless they are requested.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from worker_gguf import environment
from worker_gguf.errors import Unfit, WorkerError

__all__ = ["checks_of", "leave_out_the_sdks_checks", "register_checks", "report_failed_start"]


def leave_out_the_sdks_checks() -> None:
    """Turn off the SDK's own checks, unless a variable asks for them. Call this before the SDK is imported."""
    environment.set_default("RUNPOD_SKIP_GPU_CHECK", "true")
    environment.set_default("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "true")


def checks_of(health: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """Return the checks of the start. With several models, the first model's checks decide it."""
    first: Mapping[str, Any] = next(iter(health.get("models", ())), {})
    checks: Iterable[Mapping[str, Any]] = health.get("checks") or first.get("checks", ())
    return checks


def register_checks(sdk: Any, checks: Iterable[Mapping[str, Any]]) -> None:
    """Register checks with the SDK. They have the form that /health shows."""
    for check in checks:
        sdk.serverless.register_fitness_check(_as_function(str(check["name"]), bool(check["ok"]), str(check["reason"])))


def report_failed_start(sdk: Any, error: WorkerError) -> None:
    """Report through the SDK why this worker cannot serve. The SDK then ends the process."""
    from runpod.serverless.modules.rp_fitness import run_fitness_checks

    failed = [check for check in error.checks if not check["ok"]] if isinstance(error, Unfit) else []
    register_checks(sdk, failed or [{"name": error.code, "ok": False, "reason": error.message}])
    asyncio.run(run_fitness_checks())


def _as_function(name: str, ok: bool, reason: str) -> Callable[[], None]:
    def check() -> None:
        if not ok:
            raise Unfit(reason)

    check.__name__ = name  # under which the SDK logs and reports it
    return check
