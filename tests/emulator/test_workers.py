"""Tests of which workers are restarted, with processes that are made to fail."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import emulator
from emulator.failed_start import FailedStart, read_failed_start
from emulator.workers import Workers
from tests.waiting import wait_until

TIMEOUT_S = 30
ERROR = {"level": "error", "event": "cannot serve", "code": "download_error", "error": "The hub's not there."}
PING = """
import os, sys, urllib.request
url = os.environ["RUNPOD_WEBHOOK_PING"].replace("$RUNPOD_POD_ID", os.environ["RUNPOD_POD_ID"])
urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url + sys.argv[1]).read()
sys.exit(1)
"""


@pytest.fixture
def platform() -> Iterator[emulator.RunningEmulator]:
    with emulator.start() as running:
        yield running


def run(platform: emulator.RunningEmulator, folder: Path, *command: str, n_lives: int = 9) -> list[str]:
    """Run a command and return its output until it gives up or has started this many workers."""
    said: list[str] = []
    workers = Workers(platform, {}, logs=folder, say=said.append, command=command, pause_s=0.001)
    workers.start(1)
    try:
        wait_until(lambda: not workers.check() or len(list(folder.glob("*.log"))) >= n_lives, TIMEOUT_S)
    finally:
        workers.kill()
    return said


def test_three_failed_starts_in_a_row_are_the_last(platform: emulator.RunningEmulator, tmp_path: Path) -> None:
    *before, last = run(platform, tmp_path, "sh", "-c", f"echo '{json.dumps(ERROR | {'error': 'No hub.'})}'; exit 1")
    assert last == "worker-1 failed three times before it was ready: No hub."
    assert len([line for line in before if " starts " in line]) == 3
    assert not [line for line in before if "at once" in line]


def test_a_worker_that_says_that_it_is_unwell_was_not_ready(platform: emulator.RunningEmulator, tmp_path: Path) -> None:
    said = run(platform, tmp_path, sys.executable, "-c", PING, "?status=unhealthy")
    assert said[-1].startswith("worker-1 failed three times before it was ready:")


def test_a_worker_that_was_ready_once_is_always_started_again(
    platform: emulator.RunningEmulator, tmp_path: Path
) -> None:
    once = f"case $RUNPOD_POD_ID in worker-1) exec {sys.executable} -c '{PING}' '?ok=1';; *) exit 1;; esac"
    said = run(platform, tmp_path, "sh", "-c", once, n_lives=6)
    assert len([line for line in said if " starts " in line]) == 6


@pytest.mark.parametrize("code", ["model_not_found", "model_invalid", "not_enough_memory", "unfit"])
def test_what_a_restart_cannot_mend_is_not_tried_again(
    platform: emulator.RunningEmulator, tmp_path: Path, code: str
) -> None:
    line = json.dumps(ERROR | {"code": code, "error": "So it is."})
    assert run(platform, tmp_path, "sh", "-c", f"echo '{line}'; exit 1")[-1] == "worker-1 cannot be started: So it is."


@pytest.mark.parametrize(
    "line",
    [
        json.dumps(ERROR),
        """[error    ] cannot serve [worker_gguf.worker] code=download_error error="The hub's not there.\"""",
    ],
)
def test_the_reason_is_read_from_either_kind_of_log(tmp_path: Path, line: str) -> None:
    log = tmp_path / "worker.log"
    log.write_text(f"first\n{line}\nlast\n")
    assert read_failed_start(log) == FailedStart("download_error", "The hub's not there.")
    log.write_text('{"event": "cannot serve"\nfirst\n')
    assert read_failed_start(log) is None
