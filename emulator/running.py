"""The stand-in for the platform, listening on loopback in a thread of its own."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Self

from starlette.applications import Starlette
from starlette.types import ASGIApp

from emulator.board import Board
from emulator.client_side import ClientSide
from emulator.openai_side import OpenAISide
from emulator.rules import Rules
from emulator.worker_side import WorkerSide
from worker_gguf.http.binding import bind
from worker_gguf.http.server import ServerThread

__all__ = ["RunningEmulator", "start"]

_PING_INTERVAL_MS = 1000  # the SDK counts in whole seconds


class RunningEmulator:
    """A queue with one endpoint: clients use `endpoint_url`, a worker is started with `worker_environment()`."""

    def __init__(self, board: Board, app: ASGIApp, thread: ServerThread, endpoint: str) -> None:
        self.board = board
        self._app = app
        self._thread = thread
        self._endpoint = endpoint
        self.endpoint_url = f"{thread.url}/v2/{endpoint}"

    @property
    def openai_url(self) -> str:
        return f"{self.endpoint_url}/openai/v1"

    def worker_environment(self, worker_id: str | None = None) -> dict[str, str]:
        """Return the variables that the platform sets in a worker, and two that turn off checks of RunPod's own
        network.
        """
        base = self.endpoint_url
        return {
            "RUNPOD_POD_ID": worker_id or f"local-{uuid.uuid4().hex[:12]}",
            "RUNPOD_ENDPOINT_ID": self._endpoint,
            "RUNPOD_AI_API_KEY": "local",
            # The SDK fills in $ID and $RUNPOD_POD_ID, and appends to the query without looking whether there is one.
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=local",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=local",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=local",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID",
            "RUNPOD_PING_INTERVAL": str(_PING_INTERVAL_MS),
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
        }

    def pings(self) -> dict[str, list[str]]:
        """The jobs that each worker listed in its last ping."""
        return dict(self.board.pings)

    def ready(self) -> set[str]:
        """The workers that reported to be healthy. A worker that cannot start pings once to report this."""
        return set(self.board.ready)

    def gone(self, worker: str) -> None:
        """Tell the platform that a worker's process has ended, so that its lease need not lapse first."""
        self.board.gone(worker)

    def go_away(self) -> None:
        """Be a platform that cannot be reached: connections end, new ones are refused, no clock runs out."""
        self.board.is_closed = True
        self._thread.stop()

    def come_back(self) -> None:
        """Listen again at the same address, with all jobs as they were."""
        self.board.come_back()
        self._thread = ServerThread(self._app, bind("127.0.0.1", self._thread.port)).start()

    def stop(self) -> None:
        self.go_away()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


def start(
    port: int = 0,
    *,
    endpoint: str = "local",
    rules: Rules | None = None,
    wrap: Callable[[ASGIApp], ASGIApp] | None = None,
) -> RunningEmulator:
    """Start it on 127.0.0.1; port 0 takes a free one. `wrap` puts something in front: faults, or a watch."""
    board = Board(rules)
    prefix = f"/v2/{endpoint}"
    sides = (WorkerSide(board), ClientSide(board), OpenAISide(board))
    plain: ASGIApp = Starlette(routes=[route for side in sides for route in side.routes(prefix)])
    app = wrap(plain) if wrap else plain
    return RunningEmulator(board, app, ServerThread(app, bind("127.0.0.1", port)).start(), endpoint)
