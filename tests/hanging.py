"""A runner that hangs, as llama.cpp does on a broken GPU."""

from __future__ import annotations

import threading
from typing import Any

from worker_gguf.engine.batch import Batch, StepResult
from worker_gguf.engine.runner import Runner

__all__ = ["Hanging"]


class Hanging:
    """A runner whose decode does not return until the gate is open."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.gate = threading.Event()
        self.is_running = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def run(self, batch: Batch) -> StepResult:
        self.is_running.set()
        self.gate.wait()
        return self._runner.run(batch)
