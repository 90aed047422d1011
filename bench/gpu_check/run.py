"""Runs the parts of the check in turn, each in a process of its own with a time budget, and keeps what they find."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from bench import models
from bench.gpu_check.arguments import PARTS as NAMES
from bench.gpu_check.arguments import parse
from bench.gpu_check.card import Cards, read_cards
from bench.gpu_check.environment import ROOT
from bench.gpu_check.job import Job
from bench.gpu_check.outcome import Outcome
from bench.gpu_check.profile import CARD, CPU, PARTS, Part
from bench.gpu_check.results import Results
from worker_gguf.settings import Settings

__all__ = ["Run"]

# Every process of a part has this variable, so that one that is left over can be found.
_MARK = "WORKER_GGUF_GPU_CHECK"
_LEAST_S = 5.0
_RELEASE_S = 10.0
_POLL_S = 0.1
# The driver may keep some memory for a card that has been used once.
_LEFT_MIB = 64


class Run:
    """One run of the check."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.profile = CPU if args.cpu else CARD
        self.deadline_s: float = time.monotonic() + args.limit_s * self.profile.patience
        self.cards: Cards | None = None if args.cpu else read_cards()
        self.results = Results.open(args.results, self.cards)
        self.mark = secrets.token_hex(8)
        self.env = _without_settings()
        self.writer: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Return the exit code: 0 if all checks hold that have results."""
        chosen = self._chosen()
        parts = [part for part in PARTS if part.name in chosen]
        try:
            self._write_models({kind for part in parts for kind in part.models})
            for part in parts:
                self._run_part(part)
        finally:
            if self.writer is not None:
                _end_group(self.writer)
        self.results.keep("memory", self._memory(), 0.0)
        print(self.results.text())
        return 0 if self.results.all_hold else 1

    def _chosen(self) -> Sequence[str]:
        names = self.args.only or NAMES
        if self.args.resume:
            return [name for name in names if not self.results.holds(name)]
        return list(names)

    # --- models -----------------------------------------------------------------------------------------------------

    def _path(self, kind: str) -> Path:
        path: Path = models.path_of(models.SHAPES[self.profile.models[kind]], self.args.models)
        return path

    def _write_models(self, kinds: set[str]) -> None:
        """Begin to write the models that are missing, in the order of the parts."""
        names = [self.profile.models[kind] for kind in ("dense", "experts") if kind in kinds]
        missing = [name for name in names if not models.path_of(models.SHAPES[name], self.args.models).exists()]
        if missing:
            command = [sys.executable, "-m", "bench.models", *missing, "--cache", str(self.args.models)]
            self.writer = subprocess.Popen(command, env=self.env, stdout=subprocess.DEVNULL, process_group=0)

    def _wait_for_models(self, part: Part) -> str | None:
        """Return when the part's models are there, or why they are not."""
        missing = [self._path(kind) for kind in part.models]
        while missing := [path for path in missing if not path.exists()]:
            names = ", ".join(path.name for path in missing)
            if self.writer is None or self.writer.poll() not in (None, 0):
                return f"{names} could not be written; the reason is above"
            if self._left_s < _LEAST_S:
                return f"{names} was not written in time"
            time.sleep(_POLL_S)
        return None

    # --- parts ------------------------------------------------------------------------------------------------------

    @property
    def _left_s(self) -> float:
        return self.deadline_s - time.monotonic()

    def _run_part(self, part: Part) -> None:
        begun_s = time.monotonic()
        outcome = Outcome(self.args.work / f"{part.name}.json")
        outcome.path.unlink(missing_ok=True)
        print(f"{part.name} ...", file=sys.stderr, flush=True)
        if why := self._wait_for_models(part):
            outcome.check("completed", False, why)
        elif self._left_s < _LEAST_S:
            why = (
                f"the time of the check was over; run it with --only {part.name}, or all that is missing with --resume"
            )
            outcome.check("completed", False, why)
        else:
            outcome = self._measure(part, outcome)
        seconds = time.monotonic() - begun_s
        self.results.keep(part.name, outcome, seconds)
        words = "ok" if all(check.ok for check in outcome.checks) else "FAILED"
        print(f"{part.name}: {words}, {seconds:.0f} s", file=sys.stderr, flush=True)

    def _measure(self, part: Part, outcome: Outcome) -> Outcome:
        budget_s = min(part.budget_s * self.profile.patience, self._left_s)
        paths = {kind: str(self._path(kind)) for kind in part.models}
        server = self.args.llama_server
        job = Job(part.name, self.cards is not None, paths, str(self.args.work), budget_s, server and str(server))
        command = [sys.executable, "-m", "bench.gpu_check.part", json.dumps(asdict(job)), str(outcome.path)]
        process = subprocess.Popen(
            command, env=self.env | {_MARK: self.mark}, cwd=ROOT, stdout=sys.stderr, process_group=0
        )
        try:
            code = process.wait(budget_s)
            why = None if code == 0 else f"its process ended with {code}"
        except subprocess.TimeoutExpired:
            why = f"its time was over ({budget_s:.0f} s)"
        finally:
            _end_group(process)
        self._wait_for_ends()  # so that the next part does not count the memory of this one
        outcome = Outcome.read(outcome.path)
        if why is None and not outcome.checks:
            why = "it has checked nothing"
        if why is not None:
            outcome.check("completed", False, why)
        return outcome

    def _wait_for_ends(self) -> list[int]:
        """Wait for the ends of all processes of the parts so far. Returns those that are left after some seconds."""
        deadline_s = time.monotonic() + _RELEASE_S
        while (left := _marked(self.mark)) and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
        return left

    # --- the end ----------------------------------------------------------------------------------------------------

    def _memory(self) -> Outcome:
        """Check that no process of this run is left, and that no memory is left in use on the cards.

        The driver takes a moment to give back the memory of a process that has ended.
        """
        outcome = Outcome(self.args.work / "memory.json")
        left = self._wait_for_ends()
        outcome.add({"memory_processes_left": len(left)})
        outcome.check("processes", not left, f"{len(left)} processes of the check are left")
        if self.cards is None:
            return outcome
        before, deadline_s = self.cards.used_mib, time.monotonic() + _RELEASE_S
        while (used := read_cards().used_mib) > before + _LEFT_MIB and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
        outcome.add({"memory_before_mib": before, "memory_after_mib": used})
        found = f"{before} MiB in use before the check, {used} MiB after it"
        outcome.check("cards", used <= before + _LEFT_MIB, found)
        return outcome


def _without_settings() -> dict[str, str]:
    """Return the environment without the variables that a worker would take for its settings."""
    settings = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name.upper() not in settings}


def _marked(mark: str) -> list[int]:
    """Return the processes of the parts of a run."""
    found, wanted = [], f"{_MARK}={mark}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue  # it has ended, or is another user's
    return found


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all processes that it started. An engine process ends when its worker does."""
    with suppress(ProcessLookupError):  # all of them have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main() -> int:
    args = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes of a part are ended then, too
    code = Run(args).run()
    folders = {str(args.work), str(args.models)}
    print(f"Programs, logs and models stay in {' and '.join(sorted(folders))}.", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
