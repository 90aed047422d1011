"""Runs one part of the check, in a process of its own: `python -m bench.gpu_check.part JOB OUTCOME`."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.gpu_check.job import Job
from bench.gpu_check.outcome import Outcome
from bench.gpu_check.parts import crash, offload, plan, prompts, speed

__all__ = ["MEASURES"]

MEASURES: Mapping[str, Callable[[Job, Outcome], None]] = {
    "prompts": prompts.measure,
    "offload": offload.measure,
    "crash": crash.measure,
    "plan": plan.measure,
    "bench-dense": speed.dense,
    "bench-experts": speed.experts,
}


def main() -> None:
    job, outcome = Job.read(sys.argv[1]), Outcome(Path(sys.argv[2]))
    try:
        MEASURES[job.part](job, outcome)
    except Exception as error:  # noqa: BLE001 - whatever fails becomes a check that does not hold
        traceback.print_exc()
        outcome.check("completed", False, f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
