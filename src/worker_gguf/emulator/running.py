"""The stand-in, listening on loopback from a thread of its own."""

from __future__ import annotations

import uuid
from types import TracebackType
from typing import Self

from starlette.applications import Starlette

from worker_gguf.emulator.client_side import ClientSide
from worker_gguf.emulator.jobs import Board
from worker_gguf.emulator.worker_side import WorkerSide
from worker_gguf.frontends.server import ServerThread, bind

__all__ = ["RunningEmulator", "start"]


class RunningEmulator:
    """A queue with one endpoint: clients use `endpoint_url`, a worker is started with `worker_environment()`."""

    def __init__(self, board: Board, thread: ServerThread, endpoint: str) -> None:
        self._board = board
        self._thread = thread
        self._endpoint = endpoint
        self.endpoint_url = f"{thread.url}/v2/{endpoint}"

    @property
    def openai_url(self) -> str:
        return f"{self.endpoint_url}/openai/v1"

    def worker_environment(self, worker_id: str | None = None) -> dict[str, str]:
        """The variables that the platform sets in a worker, and two that switch off checks of RunPod's own network."""
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
            "RUNPOD_PING_INTERVAL": "1000",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
        }

    def pings(self) -> dict[str, list[str]]:
        """The jobs that each worker said it holds, at its last ping."""
        return dict(self._board.pings)

    def stop(self) -> None:
        self._board.is_closed = True
        self._thread.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


def start(port: int = 0, *, endpoint: str = "local", hold_s: float = 2.0, post_delay_s: float = 0.0) -> RunningEmulator:
    """Start it on 127.0.0.1; port 0 takes a free one. The platform holds polls open for longer than `hold_s`."""
    board = Board()
    prefix = f"/v2/{endpoint}"
    worker_side = WorkerSide(board, hold_s=hold_s, post_delay_s=post_delay_s)
    app = Starlette(routes=[*worker_side.routes(prefix), *ClientSide(board).routes(prefix)])
    return RunningEmulator(board, ServerThread(app, bind("127.0.0.1", port)).start(), endpoint)
