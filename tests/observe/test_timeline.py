"""Tests of the timeline and its picture, with a clock that is set by hand."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import time

import pytest

from worker_gguf.errors import ModelNotFound
from worker_gguf.observe.log import configure
from worker_gguf.observe.timeline import Phase, Timeline, draw, read_phases

PHASES = [
    Phase("load", 2.0, 2.0, 8_000_000),
    Phase("interpreter", 0.0, 1.0),
    Phase("prefetch", 1.0, 2.0, 6_000_000, "8 readers"),
]


def test_phases_may_overlap_and_may_begin_before_the_timeline() -> None:
    now_s = 100.0
    timeline = Timeline(before_s=1.0, clock=lambda: now_s)
    early = timeline.begin("prefetch", 99.5)
    with timeline.phase("load"):
        now_s = 103.0
        assert timeline.current == "load"
    timeline.end(early, 102.5)
    assert timeline.seconds() == {"interpreter": 1.0, "prefetch": 3.0, "load": 3.0}
    assert timeline.phases[1].start_s == 0.5


def test_the_timeline_of_a_process_starts_with_the_process() -> None:
    script = "import time; time.sleep(0.3); from worker_gguf.observe.timeline import Timeline as T; t = T.of_process()"
    script += "; print(t.seconds()['interpreter'], t.now_s)"
    before_s = time.perf_counter()
    ran = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    interpreter_s, now_s = map(float, ran.stdout.split())
    assert 0.3 <= interpreter_s <= now_s <= time.perf_counter() - before_s + 0.02  # the kernel counts in 10 ms


def test_the_picture_shows_when_how_long_and_how_much() -> None:
    lines = draw(PHASES, 4.0, 80).splitlines()
    assert [line.split()[0] for line in lines] == ["interpreter", "prefetch", "load"]
    assert max(map(len, lines)) <= 80
    bars = [line.split("│")[1] for line in lines]
    widths = [bar.count("█") for bar in bars]
    assert widths[1] in range(2 * widths[0] - 1, 2 * widths[0] + 2)
    assert bars[0].startswith("█")
    assert bars[2].endswith("█")
    assert lines[1].endswith("2.000 s  6 MB, 3 MB/s (8 readers)")


def test_a_phase_that_runs_is_drawn_up_to_now() -> None:
    (line,) = draw([Phase("load", 1.0)], 3.0, 60).splitlines()
    assert line.endswith("2.000 s so far")


def test_no_phases_and_no_time_are_no_trouble() -> None:
    assert draw([], 0.0) == ""
    assert "█" in draw([Phase("bind", 0.0, 0.0)], 0.0, 10)


def test_what_health_says_is_read_back() -> None:
    assert read_phases([phase.as_dict() for phase in PHASES]) == PHASES


def test_a_phase_that_failed_is_not_logged_as_done(monkeypatch: pytest.MonkeyPatch) -> None:
    logged = io.StringIO()
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.root.level)
    configure("info", "json", stream=logged)
    timeline = Timeline()
    with pytest.raises(ModelNotFound), timeline.phase("bind"):
        raise ModelNotFound("There is none.")
    (line,) = map(json.loads, logged.getvalue().splitlines())
    assert (line["level"], line["event"], line["phase"], line["failed"]) == ("warning", "phase failed", "bind", True)
    assert read_phases(timeline.as_list())[0].has_failed
    assert timeline.draw(60).endswith("failed")
