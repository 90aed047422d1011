"""Worker processes for the stand-in: started, watched, started again when they end, stopped with SIGTERM."""

from __future__ import annotations

import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emulator.failed_start import read_failed_start
from emulator.running import RunningEmulator
from worker_gguf.worker_process import SERVE, free_port, last_lines, start_process

__all__ = ["Worker", "Workers"]

BAD_SETTINGS = 2
"""The exit code of `serve` that another start cannot mend."""
_LOG_LINES = 8
_MAX_STARTS = 3
"""Starts in a row that may fail, of a worker that has never been ready."""
_MAX_PAUSE_S = 30.0


@dataclass(slots=True)
class Worker:
    """One process. `place` is its number among the workers, `tries` how often in a row it ended before it was ready."""

    place: int
    id: str
    process: subprocess.Popen[bytes]
    log: Path
    port: int
    begun_s: float
    tries: int = 0

    def last_lines(self) -> str:
        return last_lines(self.log, _LOG_LINES)


class Workers:
    """For one thread. `say` gets a line for each start and end; `command` starts a worker.

    `have_failed` is true once a worker has ended with an error.
    """

    def __init__(
        self,
        platform: RunningEmulator,
        environment: Mapping[str, str],
        *,
        logs: Path,
        say: Callable[[str], None],
        command: Sequence[str] = SERVE,
        pause_s: float = 1.0,
    ) -> None:
        """`pause_s` passes after a failed start, twice as long after the second one in a row, and so on."""
        self.running: dict[int, Worker] = {}
        self.have_failed = False
        self._platform = platform
        self._environment = dict(environment)
        self._logs = logs
        self._say = say
        self._command = command
        self._pause_s = pause_s
        self._were_ready: set[int] = set()
        self._n_lives: Counter[int] = Counter()
        self._due: dict[int, tuple[float, int]] = {}

    def start(self, n_workers: int) -> None:
        for place in range(1, n_workers + 1):
            self._start(place, 0)

    def check(self) -> bool:
        """Start again what has ended; False when starting again is pointless."""
        for worker in list(self.running.values()):
            if (code := worker.process.poll()) is not None:
                del self.running[worker.place]
                was_ready = worker.id in self._platform.ready()
                self._platform.gone(worker.id)
                self.have_failed |= code != 0
                if was_ready:
                    self._were_ready.add(worker.place)
                if hopeless := self._why_hopeless(worker, code):
                    self._say(hopeless)
                    return False
                self._ended(worker, code, was_ready=was_ready)
        for place, (at_s, tries) in list(self._due.items()):
            if time.monotonic() >= at_s:
                del self._due[place]
                self._start(place, tries)
        return True

    def stop(self, timeout_s: float) -> None:
        """SIGTERM to all, which lets them finish what runs; SIGKILL to who has not ended in time."""
        self._due.clear()
        for worker in self.running.values():
            worker.process.send_signal(signal.SIGTERM)
        deadline_s = time.monotonic() + timeout_s
        for worker in self.running.values():
            try:
                worker.process.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self.running.clear()

    def kill(self) -> None:
        """SIGKILL to all."""
        self.stop(0.0)

    def _start(self, place: int, tries: int) -> None:
        self._n_lives[place] += 1
        lives = self._n_lives[place]
        name = f"worker-{place}" if lives == 1 else f"worker-{place}-{lives}"
        port = free_port()
        own = {
            **self._environment,
            **self._platform.worker_environment(name),
            "MODE": "queue",
            "HOST": "127.0.0.1",
            "PORT_HEALTH": str(port),
        }
        log = self._logs / f"{name}.log"
        with log.open("wb") as file:
            # Ctrl-C reaches this process alone, which passes it on as SIGTERM.
            process = start_process(self._command, own, file, in_own_group=True)
        self.running[place] = Worker(place, name, process, log, port, time.monotonic(), tries)
        self._say(f"{name} starts (pid {process.pid}, health http://127.0.0.1:{port}/health, log {log})")

    def _why_hopeless(self, worker: Worker, code: int) -> str | None:
        """Why this worker is not started again. One that was ready once always is."""
        name = f"worker-{worker.place}"
        if code == BAD_SETTINGS:
            return f"{name} cannot be started:\n{worker.last_lines()}"
        if code < 0 or worker.place in self._were_ready:
            return None
        failed = read_failed_start(worker.log)
        if failed is not None and failed.is_lasting:
            return f"{name} cannot be started: {failed.message}"
        if code > 0 and worker.tries + 1 >= _MAX_STARTS:
            why = f" {failed.message}" if failed is not None else f"\n{worker.last_lines()}"
            return f"{name} failed three times before it was ready:{why}"
        return None

    def _ended(self, worker: Worker, code: int, *, was_ready: bool) -> None:
        tries = 0 if was_ready else worker.tries + 1
        # A killed worker may start again at once; one that failed would fail again.
        n_pauses = tries if code > 0 else tries - 1
        pause_s = min(_MAX_PAUSE_S, self._pause_s * 2.0 ** (n_pauses - 1)) if n_pauses > 0 else 0.0
        self._due[worker.place] = (time.monotonic() + pause_s, tries)
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        again = f"again in {pause_s:.0f} s" if pause_s else "again at once"
        self._say(f"{worker.id} ended with {how}; {again}" + (f"\n{worker.last_lines()}" if code > 0 else ""))
