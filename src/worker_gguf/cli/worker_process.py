"""A worker in a process of its own, as a platform starts it: for the demo and for the measurement of its start."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from worker_gguf.frontends.binding import bind

__all__ = ["ProcessFailed", "WorkerProcess", "fetch_json"]

_START_TIMEOUT_S = 180.0
_ANSWER_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 20.0
_LOG_LINES = 20
# A proxy of the shell has no business between two processes of this machine.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ProcessFailed(Exception):
    """What went wrong, in a sentence."""


class WorkerProcess:
    """Its log goes to a file. `began_s` is when it was started, by `time.perf_counter`."""

    def __init__(self, environment: Mapping[str, str], log: IO[bytes], *, unset: Iterable[str] = ()) -> None:
        """`unset` names variables of this process that the worker must not inherit."""
        self._log = log
        self.port = _free_port()
        own = {"HOST": "127.0.0.1", "PORT": str(self.port), **environment}
        # env(1) changes the environment that the child inherits, so that this process need not read its own.
        removed = [word for name in unset for word in ("-u", name)]
        changed = [f"{name}={value}" for name, value in own.items()]
        command = ["env", *removed, *changed, sys.executable, "-m", "worker_gguf.cli", "serve"]
        self.began_s = time.perf_counter()
        self._process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603 - all of it is ours

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def check_alive(self) -> None:
        code = self._process.poll()
        if code is not None:
            raise ProcessFailed(f"The worker ended by itself with exit code {code}.")

    def wait_ready(self, poll_s: float, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Return when /ping says 200, or `poll_s` later."""
        deadline_s = time.monotonic() + timeout_s
        while (status := self._ping()) != 200:
            self.check_alive()
            if time.monotonic() > deadline_s:
                raise ProcessFailed(f"The worker is not ready after {timeout_s:.0f} s (/ping says {status}).")
            time.sleep(poll_s)

    def stop(self) -> None:
        """SIGTERM by its id; SIGKILL if that is not enough."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(_STOP_TIMEOUT_S)

    def last_lines(self) -> str:
        lines = Path(self._log.name).read_text(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-_LOG_LINES:])

    def _ping(self) -> int | None:
        try:
            with _DIRECT.open(f"{self.url}/ping", timeout=5) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None


def fetch_json(url: str, body: object = None) -> dict[str, Any]:
    """GET, or POST `body` as JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 - on this machine
    try:
        with _DIRECT.open(request, timeout=_ANSWER_TIMEOUT_S) as reply:
            said: dict[str, Any] = json.loads(reply.read())
            return said
    except (OSError, ValueError) as error:
        raise ProcessFailed(f"{url} cannot be read: {error}") from None


def _free_port() -> int:
    with bind("127.0.0.1", 0) as sock:
        port: int = sock.getsockname()[1]
        return port
