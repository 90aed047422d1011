"""Facts of opening a model beside others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from worker_gguf.embedded import MODEL_PATH
from worker_gguf.observe.metrics import Metrics
from worker_gguf.observe.timeline import Timeline
from worker_gguf.plan import Machine
from worker_gguf.settings import Settings
from worker_gguf.start import facts
from worker_gguf.start.open_model import Opening, open_model
from worker_gguf.start.read_ahead import ReadAhead
from worker_gguf.store import ModelRef, UsageMark
from worker_gguf.store.resolve import locate


def test_checks_compare_with_the_whole_machine_and_not_with_what_others_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Machine] = []
    examine = facts.examine

    def look(settings: Settings, machine: Machine, *others: object) -> object:
        seen.append(machine)
        return examine(settings, machine, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(facts, "examine", look)
    settings = Settings(model=str(MODEL_PATH), n_threads=1, n_parallel=1, n_ctx=256)
    local = locate(ModelRef.parse(str(MODEL_PATH)), ())
    assert local is not None
    timeline = Timeline()
    opening = Opening(settings, lambda: Metrics("test"), timeline, lambda phase, fraction: True)
    hold = UsageMark(local.paths, settings.cache_dir())

    def beside(machine: Machine) -> Machine:
        return replace(machine, free_bytes=machine.free_bytes // 2)

    with ReadAhead(settings, timeline, lambda phase, fraction: True) as ahead:
        booted = open_model(opening, local, hold, ahead, beside)
    booted.stop()
    assert [machine.free_bytes // 2 for machine in seen] == [booted.machine.free_bytes]
