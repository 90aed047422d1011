"""The worker and its states: starting, ready, draining, stopped or failed.

The HTTP and queue interfaces use it. It does not import Starlette, uvicorn or the RunPod SDK.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any

from worker_gguf import __version__
from worker_gguf.engine.stats import EngineStats
from worker_gguf.errors import EngineCrashed, EngineWedged, NotReady, Unfit, WorkerError
from worker_gguf.generation.watchdog import Watchdog
from worker_gguf.latch import Latch
from worker_gguf.observe.status import Status
from worker_gguf.observe.timeline import Timeline
from worker_gguf.settings import Settings
from worker_gguf.start.boot import boot
from worker_gguf.start.loaded import ModelHost
from worker_gguf.start.start import CANCELLED, SHUTTING_DOWN, Start

if TYPE_CHECKING:
    from worker_gguf.generation.engine import Engine
    from worker_gguf.observe.metrics import Metrics
    from worker_gguf.service.request import Answer, Request, Stream
    from worker_gguf.start.head_start import HeadStart

__all__ = ["Worker"]

logger = logging.getLogger(__name__)

EXIT_GIVEN_UP = 70
"""The exit code after the engine was given up. Equal to EX_SOFTWARE in sysexits.h."""
_LAST_WORDS_S = 3.0
"""Time for clients to receive their errors before the process ends."""


class Worker:
    """Starts one or several models and answers requests with them.

    The start runs in a separate thread, so that /ping can be answered during the start. Methods can be called from any
    thread.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics | None = None,
        timeline: Timeline | None = None,
        head_start: HeadStart | None = None,
        leave: Callable[[int], None] = os._exit,
    ) -> None:
        """`head_start` is what has begun already. `leave` ends the process with an exit code.

        Without `metrics`, call `measure` later: the worker becomes ready only after that. So the import of the metrics
        does not delay the load.
        """
        self.settings = settings
        self.timeline = timeline or Timeline()
        self._head_start = head_start
        self._leave = leave
        self._watchdog: Watchdog[Engine] | None = None
        self._metrics: Future[Metrics] = Future()
        self._loading = threading.Event()
        self._status: Status = "starting"
        self._changing = threading.Lock()
        self._settled = Latch()
        self._is_leaving = threading.Event()
        self._is_lingering = False
        self._is_cut_off = Latch()
        self._host: ModelHost | None = None
        self._error: WorkerError | None = None
        self._progress: dict[str, float] = {}
        self._thread = threading.Thread(target=self._boot, name="boot", daemon=True)
        if metrics is not None:
            self.measure(metrics)

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def measure(self, metrics: Metrics) -> None:
        """Use these metrics. Call it once."""
        metrics.watch_engine(self._stats)
        metrics.watch_status(self.status)
        if self._metrics.set_running_or_notify_cancel():  # False after the worker was stopped
            self._metrics.set_result(metrics)

    @property
    def metrics(self) -> Metrics:
        """The metrics. Waits for `measure`. Raises NotReady if the worker is stopped first."""
        try:
            return self._metrics.result()
        except CancelledError:
            raise NotReady(CANCELLED) from None

    def _boot(self) -> None:
        try:
            host = self._bring_up()
        except WorkerError as error:
            self._fail(error)
        except Exception as error:
            logger.exception("startup failed")
            self._fail(WorkerError(f"Startup failed unexpectedly ({type(error).__name__}). The log has the traceback."))
        else:
            self._became_ready(host)
        finally:
            self._loading.set()
            self._settled.set()

    def _bring_up(self) -> ModelHost:
        host = self._load()
        try:
            _ = self.metrics  # the worker is not ready without metrics: wait for `measure`
        except BaseException:
            host.stop()
            raise
        return host

    def _load(self) -> ModelHost:
        start = Start(self.settings, self.timeline, self._note_progress)
        if self.settings.models is None:
            return boot(start, self._head_start)
        from worker_gguf.fleet.start import boot_fleet

        return boot_fleet(start, self._head_start)

    def _became_ready(self, host: ModelHost) -> None:
        with self._changing:
            is_wanted = self._status == "starting" and not self._is_leaving.is_set()
            if is_wanted:
                self._host, self._status = host, "ready"
        if not is_wanted:
            host.stop()
            return
        if self.settings.watchdog_s:
            self._watchdog = Watchdog(host.engines, self.settings.watchdog_s, _end_wedged).start()
        host.watch(self._given_up)
        self.metrics.set_phase_seconds(self.timeline.seconds() | {"total": self.timeline.now_s})
        host.publish(self.metrics)
        logger.info("ready", extra={"model": host.name, "seconds": round(self.timeline.now_s, 3)})

    def _given_up(self, error: WorkerError) -> None:
        """End the process after its clients have received their errors: its engine does not last."""
        with self._changing:
            self._error, self._status = error, "failed"
        leaving = threading.Timer(_LAST_WORDS_S, self._leave, (EXIT_GIVEN_UP,))
        leaving.daemon = True
        leaving.start()

    def _fail(self, error: WorkerError) -> None:
        if self._is_leaving.is_set():
            return  # the start was cancelled by `stop`
        with self._changing:
            self._error = error
            self._status = "failed"
        logger.error("cannot serve", extra={"code": error.code, "error": error.message})

    def _note_progress(self, phase: str, fraction: float) -> bool:
        """Note the progress of a phase. Returns False if the start was cancelled."""
        self._progress[phase] = fraction
        if phase == "load":
            self._loading.set()
        return not self._is_leaving.is_set()

    def wait_loading(self, timeout_s: float) -> None:
        """Return when llama.cpp starts to load the model, when the start is over, or after `timeout_s`."""
        self._loading.wait(timeout_s)

    async def wait_ready(self) -> None:
        """Return when the start is over. Raises the error that stopped it."""
        await self._settled.wait()
        if self._error is not None:
            raise self._error

    async def drain(self, grace_s: float = 0.0) -> None:
        """Refuse new requests, and return when all running requests have ended.

        For `grace_s` seconds, new requests are still accepted, because a load balancer sends requests until it has
        noticed that this worker is shutting down.
        """
        with self._changing:
            if self._status in ("starting", "ready"):
                self._status = "draining"
            host = self._host
        if host is not None:
            if grace_s:
                self._is_lingering = True
                try:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._is_cut_off.wait(), grace_s)
                finally:
                    self._is_lingering = False
            await host.idle()

    def cut_off(self) -> None:
        """End the running requests with an error and accept no new ones, because the time to drain is over."""
        self._is_lingering = False
        self._is_cut_off.set()
        host = self._host
        if host is not None:
            host.cut_off(NotReady("The worker was shut down before the answer was complete. Try again."))

    def stop(self, timeout_s: float = 5.0) -> None:
        """Cancel a running start, end the requests that still run, and free the model's memory."""
        self._is_leaving.set()
        self._metrics.cancel()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        with self._changing:
            host, self._host = self._host, None
            if self._status != "failed":
                self._status = "stopped"
        try:
            if host is not None:
                host.stop()
        finally:
            if self._watchdog is not None:
                self._watchdog.stop()

    def _stats(self) -> EngineStats | None:
        host = self._host
        return None if host is None else host.stats

    # --- called by the HTTP and queue interfaces --------------------------------------------------------------------

    @property
    def error(self) -> WorkerError | None:
        return self._error

    @property
    def n_parallel(self) -> int:
        """The number of sequences that run at the same time, or 1 before the worker is ready."""
        host = self._host
        return host.n_parallel if host else 1

    def status(self) -> Status:
        host = self._host
        return "reloading" if self._status == "ready" and host is not None and host.is_reloading else self._status

    async def answer(self, request: Request) -> Answer | Stream:
        """Answer one request. Raises the WorkerError that refuses it."""
        host = self._host
        if isinstance(self._error, EngineCrashed):
            raise self._error
        if host is None or not (self._status == "ready" or self._is_lingering):
            raise NotReady(self._why_not(), retry_after_s=5)
        return await host.answer(request)

    def _why_not(self) -> str:
        if self._error is not None:
            return "The worker could not start its model. Its log and /health have the reason."
        if self._status == "starting":
            return f"The model is not ready yet (phase: {self.timeline.current or 'start'}). Try again shortly."
        return SHUTTING_DOWN

    def health(self) -> dict[str, Any]:
        """Return the JSON of /health. It is public, so it has no keys, tokens, prompts or paths."""
        host = self._host
        value: dict[str, Any] = {
            "status": self.status(),
            "version": __version__,
            "phase": self.timeline.current if self._status == "starting" else self.status(),
            "progress": {phase: round(fraction, 4) for phase, fraction in dict(self._progress).items()},
            "timeline": self.timeline.as_list(),
        }
        if self._error is not None:
            value["error"] = {"code": self._error.code, "message": self._error.message}
        if isinstance(self._error, Unfit):
            value["checks"] = list(self._error.checks)
        if host is not None:
            value |= host.describe()
        return value


def _end_wedged(engine: Engine, seconds: float) -> None:
    logger.critical("the engine is wedged", extra={"seconds": round(seconds, 1)})
    engine.kill(EngineWedged.after(seconds))
