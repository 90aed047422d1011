"""Runs a worker in its own process, like a platform, for the emulator, the demo and the measurement of a cold start."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from worker_gguf.http.binding import bind

__all__ = ["SERVE", "ProcessFailed", "WorkerProcess", "fetch_json", "free_port", "last_lines", "start_process"]

SERVE = (sys.executable, "-m", "worker_gguf.cli", "serve")

_START_TIMEOUT_S = 180.0
_ANSWER_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 20.0
_LOG_LINES = 20
# These variables of the shell may be for another worker: its keys, its port, its models.
_NOT_INHERITED = ("API_KEYS", "MODELS", "MODEL_FILENAME", "MODEL_REPOSITORY_ID", "PORT_HEALTH")
# Requests between two processes of this machine must not use a proxy from the environment.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ProcessFailed(Exception):
    """The worker's process failed. The message is a sentence for the user."""


def start_process(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: IO[bytes],
    *,
    unset: Iterable[str] = (),
    in_own_group: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a command and write its output to `log`.

    It inherits the environment of this process, without the variables in `unset` and with those in `environment`. With
    `in_own_group`, Ctrl-C at the terminal does not reach it.
    """
    # env(1) changes the inherited environment, so that this module need not read the environment.
    removed = [word for name in unset for word in ("-u", name)]
    changed = [f"{name}={value}" for name, value in environment.items()]
    return subprocess.Popen(  # noqa: S603 - all of it is ours
        ["env", *removed, *changed, *command],  # noqa: S607 - the env of the system
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        process_group=0 if in_own_group else None,
    )


def free_port() -> int:
    with bind("127.0.0.1", 0) as sock:
        port: int = sock.getsockname()[1]
        return port


def last_lines(log: Path, n_lines: int) -> str:
    """Return the last lines of a log, indented."""
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-n_lines:])


class WorkerProcess:
    """A worker that serves one model over HTTP on this machine and logs to a file.

    `began_s` is the time of its start by `time.perf_counter`.
    """

    def __init__(self, environment: Mapping[str, str], log: IO[bytes], *, unset: Iterable[str] = ()) -> None:
        """`environment` must have MODEL. The worker does not inherit the variables of this process in `unset`."""
        self._log = log
        self.port = free_port()
        own = {"HOST": "127.0.0.1", "PORT": str(self.port), **environment}
        self.began_s = time.perf_counter()
        self._process = start_process(SERVE, own, log, unset=(*_NOT_INHERITED, *unset))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def check_alive(self) -> None:
        """Raise ProcessFailed if the process has ended."""
        code = self._process.poll()
        if code is not None:
            raise ProcessFailed(f"The worker ended with exit code {code}.")

    def wait_ready(self, poll_s: float, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Return when /ping answers 200, at most `poll_s` seconds later.

        Raises ProcessFailed if the process ends, or after `timeout_s`.
        """
        deadline_s = time.monotonic() + timeout_s
        while (status := self._ping()) != 200:
            self.check_alive()
            if time.monotonic() > deadline_s:
                raise ProcessFailed(f"The worker is not ready after {timeout_s:.0f} s (/ping answers {status}).")
            time.sleep(poll_s)

    def stop(self) -> None:
        """End the process with SIGTERM, or with SIGKILL if it is still running after some seconds."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(_STOP_TIMEOUT_S)

    def last_lines(self) -> str:
        return last_lines(Path(self._log.name), _LOG_LINES)

    def _ping(self) -> int | None:
        try:
            with _DIRECT.open(f"{self.url}/ping", timeout=5) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None


def fetch_json(url: str, body: object = None) -> dict[str, Any]:
    """Send a GET request, or a POST request with `body` as JSON, and return the JSON of the answer.

    Raises ProcessFailed.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 - on this machine
    try:
        with _DIRECT.open(request, timeout=_ANSWER_TIMEOUT_S) as reply:
            answer: dict[str, Any] = json.loads(reply.read())
            return answer
    except (OSError, ValueError) as error:
        raise ProcessFailed(f"{url} cannot be read: {error}") from None
