"""Worker processes for the stand-in: started, watched, started again when they end, stopped with SIGTERM."""

from __future__ import annotations

import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker_gguf.emulator.running import RunningEmulator
from worker_gguf.worker_process import SERVE, free_port, last_lines, start_process

__all__ = ["Worker", "Workers"]

BAD_SETTINGS = 2
"""The exit code of `serve` that another start cannot mend."""
_LOG_LINES = 8
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
    """For one thread. `say` gets a line for each start and end; `command` is what a worker is started with."""

    def __init__(
        self,
        platform: RunningEmulator,
        environment: Mapping[str, str],
        *,
        logs: Path,
        say: Callable[[str], None],
        command: Sequence[str] = SERVE,
    ) -> None:
        self.running: dict[int, Worker] = {}
        self._platform = platform
        self._environment = dict(environment)
        self._logs = logs
        self._say = say
        self._command = command
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
                was_ready = worker.id in self._platform.pings()
                self._platform.gone(worker.id)
                if code == BAD_SETTINGS:
                    self._say(f"{worker.id} cannot be started:\n{worker.last_lines()}")
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

    def _ended(self, worker: Worker, code: int, *, was_ready: bool) -> None:
        tries = 0 if was_ready else worker.tries + 1
        pause_s = min(_MAX_PAUSE_S, 2.0 ** (tries - 2)) if tries > 1 else 0.0
        self._due[worker.place] = (time.monotonic() + pause_s, tries)
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        again = f"again in {pause_s:.0f} s" if pause_s else "again at once"
        self._say(f"{worker.id} ended with {how}; {again}" + (f"\n{worker.last_lines()}" if code > 0 else ""))
