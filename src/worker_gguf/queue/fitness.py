"""Registers the checks of the start with the SDK, which reports a failed check to the platform and exits with code 1.

The SDK's own checks (rp_system_fitness.py and rp_gpu_fitness.py of runpod 1.12) are for a worker that has not loaded a
model yet. They require 4 GB of free main memory, free GPU memory, a tenth of the image's disk and a route to 8.8.8.8. A
worker with a loaded model needs none of these, so the checks are off unless a variable turns them on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from worker_gguf import environment
from worker_gguf.errors import Unfit, WorkerError

__all__ = ["checks_of", "leave_out_the_sdks_checks", "register_checks", "report_failed_start"]


def leave_out_the_sdks_checks() -> None:
    """Turn off the SDK's own checks. A variable that is already set keeps its value.

    Call it before the SDK is imported, because the SDK may read these variables during the import.
    """
    environment.set_default("RUNPOD_SKIP_GPU_CHECK", "true")
    environment.set_default("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "true")


def checks_of(health: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """Return the checks of the start from the JSON of /health. With several models, those of the first model."""
    first: Mapping[str, Any] = next(iter(health.get("models", ())), {})
    checks: Iterable[Mapping[str, Any]] = health.get("checks") or first.get("checks", ())
    return checks


def register_checks(sdk: Any, checks: Iterable[Mapping[str, Any]]) -> None:
    """Register checks, in the form that they have in /health, with the SDK."""
    for check in checks:
        sdk.serverless.register_fitness_check(_as_function(str(check["name"]), bool(check["ok"]), str(check["reason"])))


def report_failed_start(sdk: Any, error: WorkerError) -> None:
    """Report to the platform, through the SDK, why this worker cannot serve. The SDK then ends the process."""
    from runpod.serverless.modules.rp_fitness import run_fitness_checks

    failed = [check for check in error.checks if not check["ok"]] if isinstance(error, Unfit) else []
    register_checks(sdk, failed or [{"name": error.code, "ok": False, "reason": error.message}])
    asyncio.run(run_fitness_checks())


def _as_function(name: str, ok: bool, reason: str) -> Callable[[], None]:
    def check() -> None:
        if not ok:
            raise Unfit(reason)

    check.__name__ = name  # the SDK logs and reports this name
    return check
