"""`worker-gguf serve` starts the worker and serves requests until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from worker_gguf import environment, interpreter
from worker_gguf.errors import SettingsError, WorkerError
from worker_gguf.observe.log import configure
from worker_gguf.settings import Settings

if TYPE_CHECKING:
    from worker_gguf.http.server import Listener
    from worker_gguf.observe.metrics import Metrics
    from worker_gguf.observe.telemetry import Telemetry
    from worker_gguf.observe.timeline import Timeline
    from worker_gguf.queue.batch_job import BatchLimits
    from worker_gguf.start.head_start import HeadStart
    from worker_gguf.worker import Worker

__all__ = ["close_telemetry", "open_telemetry", "serve", "start_worker", "warn_of_misspellings"]

logger = logging.getLogger(__name__)

_HEAD_START_S = 0.4
# The platform kills a worker some seconds after its drain, so do not wait longer for a collector.
_FLUSH_S = 3.0


def serve(
    *,
    model: str | None,
    mode: str | None,
    host: str | None,
    port: int | None,
    timeline: Timeline,
    head_start: HeadStart,
) -> int:
    """Run the worker in this process and return its exit code. Arguments have priority over the environment.

    `head_start` is what has begun before the settings are read.
    """
    try:
        settings = Settings.load(model=model, mode=mode, host=host, port=port)
        _check_exposure(settings)
        if settings.models is not None:
            from worker_gguf.fleet.roster import read_roster

            read_roster(settings)  # now, because a wrong entry is a wrong setting
    except SettingsError as error:
        print(error.message, file=sys.stderr)
        return 2
    configure(settings.log_level, settings.log_format, on_runpod=settings.on_runpod)
    try:
        run = _queue if settings.resolved_mode == "queue" else _http
        return run(settings, timeline, head_start)
    except WorkerError as error:
        print(f"worker-gguf: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _http(settings: Settings, timeline: Timeline, head_start: HeadStart) -> int:
    with timeline.phase("bind"):
        from worker_gguf.http.binding import bind

        main = bind(settings.host, settings.port)
        is_separate = settings.port_health not in (None, settings.port)
        health = bind(settings.host, settings.health_port) if is_separate else None
    worker, metrics = start_worker(settings, timeline, head_start)
    telemetry = open_telemetry(worker, metrics)
    with timeline.phase("http"):
        from worker_gguf.http.app import create_app, create_health_app
        from worker_gguf.http.server import run_loop
        from worker_gguf.http.sse import Pings

        keys = [key.get_secret_value() for key in settings.api_keys]
        path = settings.health_check_path
        app = create_app(
            worker,
            api_keys=keys,
            max_body_bytes=settings.max_body_mb << 20,
            metrics=metrics,
            telemetry=telemetry,
            worker_id=settings.runpod_pod_id,
            pings=Pings.within(settings.sse_ping_s, settings.queue_timeout_s),
            health_path=path,
            cors_origins=settings.cors_origins,
        )
        listeners = [(app, main)]
        if health is not None:
            listeners.append((create_health_app(worker, api_keys=keys, metrics=metrics, health_path=path), health))
    if worker.error is None:
        logger.info("listening", extra={"url": f"http://{settings.host}:{settings.port}", "ping": "/ping"})
    try:
        run_loop(_serve(worker, listeners, settings))
    finally:
        close_telemetry(telemetry, settings)
        worker.stop()
    if worker.error is not None:
        raise worker.error
    return 0


async def _serve(worker: Worker, listeners: Sequence[Listener], settings: Settings) -> None:
    """Serve until a signal arrives or the start fails, because a worker without a model only costs money."""
    from worker_gguf.http.server import serve as serve_http

    stop = asyncio.Event()

    async def watch() -> None:
        with contextlib.suppress(WorkerError):
            await worker.wait_ready()
        interpreter.for_requests()
        warn_of_misspellings()
        if worker.error is not None:
            stop.set()
        elif sys.stderr.isatty() and worker.settings.log_format != "json":
            print(worker.timeline.draw(shutil.get_terminal_size().columns), file=sys.stderr)

    watching = asyncio.create_task(watch())
    await serve_http(
        listeners,
        drain=partial(worker.drain, settings.linger_s),
        cut_off=worker.cut_off,
        drain_timeout_s=settings.drain_timeout_s,
        stop=stop,
    )
    watching.cancel()


def _queue(settings: Settings, timeline: Timeline, head_start: HeadStart) -> int:
    worker, metrics = start_worker(settings, timeline, head_start)
    telemetry = open_telemetry(worker, metrics)
    with timeline.phase("sdk"):
        from worker_gguf.queue.fitness import report_failed_start
        from worker_gguf.queue.sdk import import_sdk, run_queue

        sdk = import_sdk()
    with contextlib.ExitStack() as stack:
        if settings.port_health:
            from worker_gguf.http.app import create_health_app
            from worker_gguf.http.binding import bind
            from worker_gguf.http.server import ServerThread

            keys = [key.get_secret_value() for key in settings.api_keys]
            path = settings.health_check_path
            app = create_health_app(worker, api_keys=keys, metrics=metrics, health_path=path)
            stack.enter_context(ServerThread(app, bind(settings.host, settings.port_health)))
        # A signal during the start ends the process. Later, the SDK sets its own handlers.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            try:
                asyncio.run(worker.wait_ready())
            except WorkerError as error:
                close_telemetry(telemetry, settings)  # close it first, because the report ends the process
                report_failed_start(sdk, error)
                raise
            interpreter.for_requests()
            warn_of_misspellings()
            run_queue(
                worker,
                metrics,
                concurrency=settings.concurrency or worker.n_parallel,
                drain_timeout_s=settings.drain_timeout_s,
                telemetry=telemetry,
                batch_limits=_batch_limits(settings, worker.n_parallel),
            )
        finally:
            close_telemetry(telemetry, settings)
            worker.stop()
    return 0


def _batch_limits(settings: Settings, n_parallel: int) -> BatchLimits:
    from worker_gguf.batch.run import width_for
    from worker_gguf.queue.batch_job import BatchLimits

    return BatchLimits(
        width_for(n_parallel),
        most_line_bytes=settings.max_body_mb << 20,
        deaths_within_s=settings.engine_deaths_within_s,
        may_be_private=settings.batch_private_urls,
    )


def start_worker(
    settings: Settings, timeline: Timeline, head_start: HeadStart | None, leave: Callable[[int], None] = os._exit
) -> tuple[Worker, Metrics]:
    """Start the load after only the imports that it needs. The other imports run in parallel with it.

    `leave` ends the process if the engine is given up.
    """
    with timeline.phase("imports"):
        from worker_gguf.worker import Worker

    worker = Worker(settings, None, timeline, head_start, leave)
    worker.start()
    # Wait while the worker's thread imports the modules for the load, because two importing threads slow each other
    # down and the load itself needs no Python. The wait is short, so that /ping answers soon even if the load starts
    # late.
    if head_start is not None:
        worker.wait_loading(_HEAD_START_S)
        # If an import fails, the start fails in its own thread, which reports the reason.
        with contextlib.suppress(WorkerError), timeline.phase("engine"):
            from worker_gguf.start.open_model import LATE_IMPORTS

            for name in LATE_IMPORTS:
                import_module(name)
    with timeline.phase("metrics"):
        from worker_gguf import __version__
        from worker_gguf.observe.metrics import Metrics
        from worker_gguf.protocol.parameters import HONOURED, IGNORED

        metrics = Metrics(__version__, known_ignored={*IGNORED, *HONOURED})
    worker.measure(metrics)
    return worker, metrics


def warn_of_misspellings() -> None:
    """Warn in another thread, because the search takes some milliseconds and must not delay the first requests."""

    def warn() -> None:
        from worker_gguf.settings.typos import misspellings

        for name, meant in misspellings(environment.names()).items():
            logger.warning(
                "unknown variable",
                extra={"variable": name, "reason": f"{name} does nothing. Did you mean {meant}?"},
            )

    threading.Thread(target=warn, name="misspellings", daemon=True).start()


def open_telemetry(worker: Worker, metrics: Metrics) -> Telemetry | None:
    """Return the telemetry that the variables configure, or None. It sends a trace of the start when that is over."""
    variables = environment.given()
    if not any(name.startswith("otel_exporter_otlp_") for name in variables):
        return None
    from worker_gguf import __version__
    from worker_gguf.observe.telemetry import StartRecord, open_telemetry

    async def wait() -> StartRecord:
        with contextlib.suppress(WorkerError):
            await worker.wait_ready()
        return StartRecord.of(worker.timeline, worker.error.code if worker.error is not None else None)

    telemetry = open_telemetry(
        variables, metrics.registry, version=__version__, worker_id=worker.settings.runpod_pod_id
    )
    if telemetry is not None:
        telemetry.begin(wait)
    return telemetry


def close_telemetry(telemetry: Telemetry | None, settings: Settings) -> None:
    """Send the remaining telemetry. Call it before the engine stops, so that its last numbers are sent."""
    if telemetry is not None:
        telemetry.close(min(_FLUSH_S, settings.drain_timeout_s))


def _check_exposure(settings: Settings) -> None:
    """Raise SettingsError if other machines can use the model without an API key, unless the settings allow it."""
    if settings.resolved_mode == "queue" or settings.api_keys or settings.allow_unauthenticated:
        return
    if settings.behind_platform_keys or _is_loopback(settings.host):
        return
    raise SettingsError(
        f"HOST={settings.host} can be reached from other machines and no API_KEYS are set. Set API_KEYS, bind "
        "127.0.0.1, or set ALLOW_UNAUTHENTICATED=true if a proxy in front of the worker authenticates clients."
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
