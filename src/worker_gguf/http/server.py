"""Runs uvicorn on sockets that are already bound, and drains it on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import uvicorn
import uvloop
from starlette.types import ASGIApp

from worker_gguf.http.binding import BACKLOG

__all__ = ["Listener", "ServerThread", "run_loop", "serve"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

# Longer than a load balancer keeps an idle connection. Otherwise it could send a request while this side closes it.
_KEEP_ALIVE_S = 75
# Time for the current step of the engine to end and for the errors to be sent.
_CUT_OFF_S = 2.0
_MIN_GRACE_S = 1

Listener = tuple[ASGIApp, socket.socket]
Drain = Callable[[], Awaitable[None]]


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on a new uvloop event loop and return its result."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


async def serve(
    listeners: Sequence[Listener],
    *,
    drain: Drain,
    cut_off: Callable[[], None],
    drain_timeout_s: float,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT or `stop`, then drain: running requests may finish, and /ping answers 503.

    After `drain_timeout_s`, or at a second signal, `cut_off` ends the requests that still run with an error. After a
    signal, one line is logged when the shutdown starts and one when it is complete. After `stop`, the caller must log.
    Must run in the main thread.
    """
    servers = [_Server(app) for app, _ in listeners]
    stop, signalled, hurry = stop or asyncio.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            hurry.set()
        signalled.set()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        serving = [asyncio.create_task(s.serve([sock])) for s, (_, sock) in zip(servers, listeners, strict=True)]
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({stopping, *serving}, return_when=asyncio.FIRST_COMPLETED)
        shutdown = _Shutdown({task for server in servers for task in server.server_state.tasks}, loop.time())
        if signalled.is_set():
            shutdown.log_started(drain_timeout_s)
        left_s = await _drain(drain, partial(shutdown.cut, cut_off), drain_timeout_s, hurry)
        stopping.cancel()
        for server in servers:
            server.finish_within(left_s)
        await asyncio.gather(*serving)
        if signalled.is_set():
            shutdown.log_complete(loop.time())
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


class _Shutdown:
    """Logs a shutdown: the requests that run when it starts, and how many of them finish or are cut off."""

    def __init__(self, running: set[asyncio.Task[None]], started_s: float) -> None:
        self._running = running
        self._started_s = started_s
        self._n_cut = 0

    def log_started(self, timeout_s: float) -> None:
        if self._running:
            text = "draining: running requests may finish, a second signal ends them"
            logger.info(text, extra={"requests": len(self._running), "seconds": timeout_s})
        else:
            logger.info("stopping: nothing runs")

    def cut(self, cut_off: Callable[[], None]) -> None:
        self._n_cut = sum(not task.done() for task in self._running)
        cut_off()

    def log_complete(self, now_s: float) -> None:
        finished = len(self._running) - self._n_cut
        seconds = round(now_s - self._started_s, 3)
        logger.info("stopped", extra={"seconds": seconds, "finished": finished, "cut_off": self._n_cut})


async def _drain(drain: Drain, cut_off: Callable[[], None], timeout_s: float, hurry: asyncio.Event) -> float:
    """Drain. Returns the seconds that clients have left to read finished answers."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + timeout_s
    draining = asyncio.ensure_future(drain())
    hurrying = asyncio.ensure_future(hurry.wait())
    await asyncio.wait({draining, hurrying}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    hurrying.cancel()
    if not draining.done():
        logger.warning("drain time over: running requests end with an error")
        cut_off()
        await asyncio.wait({draining}, timeout=_CUT_OFF_S)
        deadline_s = loop.time() + _CUT_OFF_S
    if draining.done():
        draining.result()
    else:
        draining.cancel()
    return max(0.0, deadline_s - loop.time())


class ServerThread:
    """Runs the server in another thread, for a main thread that runs the event loop of the SDK or a test."""

    def __init__(self, app: ASGIApp, sock: socket.socket) -> None:
        self._server = _Server(app)
        self._sock = sock
        self.port: int = sock.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name=f"http-{self.port}", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self, timeout_s: float = 5) -> None:
        self._server.should_exit = True
        self._thread.join(timeout_s)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _run(self) -> None:
        run_loop(self._server.serve([self._sock]))


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, access log and logging set-up, which this package replaces."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_MIN_GRACE_S,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def finish_within(self, seconds: float) -> None:
        """Stop accepting connections. Requests that still run after `seconds` are cancelled."""
        self.config.timeout_graceful_shutdown = max(_MIN_GRACE_S, round(seconds))
        self.should_exit = True
