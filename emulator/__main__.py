"""`python -m emulator`: RunPod's queue on this machine, with real workers, to develop a client against."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from worker_gguf.errors import SettingsError

if TYPE_CHECKING:
    from emulator import RunningEmulator
    from emulator.jobs import Job
    from emulator.workers import Workers

__all__ = ["emulate", "main"]

_LOOK_S = 0.2
_STOP_TIMEOUT_S = 60.0
_HOLD_S = 10.0

_WELCOME = """
The queue is at {url} and needs no key. Send it a job:

  curl -s {url}/runsync -H 'Content-Type: application/json' \\
    -d '{{"input": {{"messages": [{{"role": "user", "content": "Capital of Italy?"}}], "temperature": 0}}}}'

or use the OpenAI client as with https://api.runpod.ai/v2/ENDPOINT/openai/v1:

  from openai import OpenAI
  client = OpenAI(base_url="{url}/openai/v1", api_key="none")
  stream = client.chat.completions.create(
      model=client.models.list().data[0].id,
      messages=[{{"role": "user", "content": "Tell me a long story."}}],
      stream=True,
  )
  for chunk in stream:
      print(chunk.choices[0].delta.content or "", end="", flush=True)

Also {url}/run, /stream/ID, /status/ID, /cancel/ID, /retry/ID, /purge-queue, /health.
A job waits until a worker is ready. Ctrl-C lets running jobs finish; a second Ctrl-C ends them.
{kept}
"""
_LOGS_GO = "The workers' logs are removed at the end unless a worker failed; --logs FOLDER keeps them."
_LOGS_STAY = "The workers' logs stay in {logs}."


def main() -> int:
    parser = argparse.ArgumentParser("python -m emulator", description="Runs RunPod's queue on this machine.")
    parser.add_argument("model", nargs="?", metavar="MODEL", help="over MODEL: embedded, a path, or org/repo:QUANT")
    parser.add_argument("--workers", type=int, default=1, help="worker processes, each with the model (default 1)")
    parser.add_argument("--port", type=int, default=8001, help="port of the queue on 127.0.0.1 (default 8001)")
    parser.add_argument("--endpoint", default="local", help="the endpoint's name in addresses (default local)")
    parser.add_argument("--post-delay-ms", type=float, default=0, help="what each post takes")
    parser.add_argument("--lease-s", type=float, default=10.0, help="a silent worker's jobs go to another (default 10)")
    parser.add_argument("--tries", type=int, default=3, help="workers a job may outlive, then it fails (default 3)")
    parser.add_argument(
        "--logs",
        type=Path,
        help="folder for the workers' logs (default: one that is removed at the end unless a worker failed)",
    )
    return emulate(parser.parse_args())


def emulate(arguments: argparse.Namespace) -> int:
    """Run the queue and its workers until Ctrl-C; the exit code."""
    import emulator
    from emulator.workers import Workers

    if arguments.workers < 0:
        print("--workers must be 0 or more")
        return 2
    rules = emulator.Rules(
        hold_s=_HOLD_S,
        post_delay_s=arguments.post_delay_ms / 1000,
        lease_s=arguments.lease_s,
        max_tries=max(1, arguments.tries),
    )
    try:
        platform = emulator.start(arguments.port, endpoint=arguments.endpoint, rules=rules)
    except SettingsError:
        print(f"Port {arguments.port} of 127.0.0.1 is in use: choose another with --port.")
        return 2
    stop = _Stop()
    with _logs(arguments.logs) as logs, platform:
        platform.board.listeners.append(_say_job)
        workers = Workers(platform, _environment(arguments), logs=logs.folder, say=_say)
        kept = _LOGS_STAY if arguments.logs else _LOGS_GO
        print(_WELCOME.format(url=platform.endpoint_url, kept=kept.format(logs=logs.folder)), flush=True)
        workers.start(arguments.workers)
        code = _watch(platform, workers, stop)
        stop.then(workers)
        logs.are_wanted = workers.have_failed
    return code


@dataclass(slots=True)
class _Logs:
    folder: Path
    are_wanted: bool = False


@contextlib.contextmanager
def _logs(given: Path | None) -> Iterator[_Logs]:
    """Return the given folder, or a temporary one that is removed at the end unless its logs are still wanted."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield _Logs(given)
        return
    logs = _Logs(Path(tempfile.mkdtemp(prefix="worker-gguf-emulator-")))
    try:
        yield logs
    finally:
        if logs.are_wanted:
            _say(f"a worker failed: the logs stay in {logs.folder}")
        else:
            shutil.rmtree(logs.folder, ignore_errors=True)


def _environment(arguments: argparse.Namespace) -> dict[str, str]:
    return {"MODEL": arguments.model} if arguments.model else {}


def _watch(platform: RunningEmulator, workers: Workers, stop: _Stop) -> int:
    """Run until a stop, or until no start can succeed."""
    ready: set[str] = set()
    while not stop.wait(_LOOK_S):
        if not workers.check():
            return 2
        for worker in workers.running.values():
            if worker.id not in ready and worker.id in platform.ready():
                ready.add(worker.id)
                _say(f"{worker.id} is ready after {time.monotonic() - worker.begun_s:.1f} s")
    return 0


class _Stop:
    """Ctrl-C and SIGTERM: the first asks the workers to finish, a second kills them."""

    def __init__(self) -> None:
        self._n_signals = 0
        self._asked = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def wait(self, timeout_s: float) -> bool:
        return self._asked.wait(timeout_s)

    def then(self, workers: Workers) -> None:
        _say("stopping: running jobs may finish, a second Ctrl-C ends them")
        stopping = threading.Thread(target=workers.stop, args=(_STOP_TIMEOUT_S,), daemon=True)
        stopping.start()
        while stopping.is_alive():
            stopping.join(_LOOK_S)
            if self._n_signals > 1:
                for worker in list(workers.running.values()):
                    worker.process.kill()

    def _on_signal(self, *_: object) -> None:
        self._n_signals += 1
        self._asked.set()


def _say_job(job: Job) -> None:
    """Print one line when a job ends, and one when it returns to the queue. Nothing of its content."""
    if job.is_over:
        waited_s = (job.started_s or job.ended_s or job.queued_s) - job.queued_s
        line = f"job {job.id} {job.status} after waiting {waited_s:.2f} s"
        if job.started_s is not None and job.ended_s is not None:
            line += f" and running {job.ended_s - job.started_s:.2f} s on {job.worker}"
        if job.status in ("FAILED", "TIMED_OUT"):
            line += f": {str(job.error)[:200]}"
        _say(line)
    elif job.status == "IN_QUEUE" and job.n_tries:
        _say(f"job {job.id} is back in the queue: {job.worker or 'its worker'} is silent")


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
