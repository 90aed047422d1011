"""`worker-gguf batch` answers a file of requests and writes a file of results. It opens no port."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from contextlib import aclosing, closing
from pathlib import Path
from typing import TYPE_CHECKING

from worker_gguf.errors import BatchError, SettingsError, WorkerError

if TYPE_CHECKING:
    from worker_gguf.batch.dispatch import Dispatch
    from worker_gguf.batch.request_file import RequestFile
    from worker_gguf.batch.results import ResultFile
    from worker_gguf.cli.batch_progress import BatchProgress
    from worker_gguf.settings import Settings
    from worker_gguf.worker import Worker

__all__ = ["DESCRIPTION", "add_arguments", "batch"]

DESCRIPTION = """\
Answer each request of a file and append its result to another file, both in OpenAI's batch format. The model and all
limits are settings of the environment, as for `serve`. No port is opened.

If the command is stopped or killed, run it again with the same files: it goes on with the requests that have no answer
yet. To answer a request once more, remove its line from the output. Each line of the input is one request; two lines
with the same custom_id get two answers, whose ids have the numbers of the requests.
"""
EPILOG = """\
exit codes: 0 every request has a result, which may be an error; 1 stopped by an error; 2 a wrong setting or argument;
130 or 143 stopped by Ctrl-C or SIGTERM.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("input", type=Path, help="file with one request a line: custom_id, method, url, body")
    parser.add_argument("output", type=Path, help="file of results, one a line; continued if it exists")
    parser.add_argument("--model", help="embedded, a path, or org/repo:QUANT; default: MODEL or MODELS")


def batch(arguments: argparse.Namespace) -> int:
    """Answer the requests and return the exit code."""
    from worker_gguf.cli.named_model import settings_for
    from worker_gguf.observe.log import configure

    try:
        settings = settings_for(arguments.model)
        if settings.models is not None:
            from worker_gguf.fleet.roster import read_roster

            read_roster(settings)  # now, because a wrong entry is a wrong setting
    except SettingsError as error:
        print(error.message, file=sys.stderr)
        return 2
    # A line for each request would hide the progress, so only who asks for it gets it.
    level = settings.log_level if "log_level" in settings.model_fields_set else "warning"
    configure(level, settings.log_format, on_runpod=settings.on_runpod)
    try:
        return _batch(arguments.input, arguments.output, settings)
    except WorkerError as error:
        print(f"worker-gguf: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _batch(source: Path, target: Path, settings: Settings) -> int:
    """Open both files before the model is loaded, because that takes longer than to notice a wrong name."""
    from worker_gguf.batch.request_file import RequestFile
    from worker_gguf.batch.results import ResultFile
    from worker_gguf.batch.tally import Tally
    from worker_gguf.cli.batch_progress import BatchProgress

    with contextlib.suppress(OSError):  # one of them does not exist or cannot be seen
        if target.samefile(source):
            raise BatchError("The output must be another file than the input.")
    with (
        closing(RequestFile(source, settings.max_body_mb << 20)) as requests,
        closing(ResultFile(target, requests.n_requests)) as results,
    ):
        requests.check(results.answered, target)
        n_before = len(results.answered)
        with BatchProgress(Tally(requests.n_requests, n_before, time.monotonic()), target) as progress:
            stopped_by = None
            if n_before < requests.n_requests:
                stopped_by = _with_worker(settings, requests, results, progress)
            progress.finish(len(results.answered))
    return 0 if stopped_by is None else 128 + stopped_by


def _with_worker(
    settings: Settings, requests: RequestFile, results: ResultFile, progress: BatchProgress
) -> signal.Signals | None:
    """Start the worker and answer the requests. Returns the signal that stopped it, or None."""
    from worker_gguf.batch.dispatch import Dispatch
    from worker_gguf.cli.serve import close_telemetry, open_telemetry, start_worker, warn_of_misspellings
    from worker_gguf.observe.timeline import Timeline

    progress.say("Loading the model.")
    # If the engine is given up, this command ends by itself, with a sentence.
    worker, metrics = start_worker(settings, Timeline(), None, leave=lambda code: None)
    telemetry = open_telemetry(worker, metrics)
    try:
        warn_of_misspellings()
        return asyncio.run(_Answering(worker, requests, results, progress).run(Dispatch(worker, metrics, telemetry)))
    finally:
        close_telemetry(telemetry, settings)
        worker.stop()


class _Answering:
    """Answers the requests until all are answered or a signal arrives.

    After the first SIGINT or SIGTERM, running requests may finish within DRAIN_TIMEOUT_S. A second one ends them.
    """

    def __init__(self, worker: Worker, requests: RequestFile, results: ResultFile, progress: BatchProgress) -> None:
        self._worker = worker
        self._requests = requests
        self._results = results
        self._progress = progress
        self._stop = asyncio.Event()
        self._is_ready = False
        self._signal: signal.Signals | None = None

    async def run(self, dispatch: Dispatch) -> signal.Signals | None:
        """Return the signal that stopped it, or None. Raises BatchError, or the error that stopped the start."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number, task)
        try:
            await self._worker.wait_ready()
            self._is_ready = True
            await self._answer(dispatch)
        except asyncio.CancelledError:
            # Only `_on_signal` cancels this task, and `asyncio.run` after a SIGINT that came before the lines above.
            self._signal = self._signal or signal.SIGINT
        return self._signal

    async def _answer(self, dispatch: Dispatch) -> None:
        from worker_gguf import interpreter
        from worker_gguf.batch.run import run_batch, width_for

        interpreter.for_requests()
        lines = self._requests.unanswered(self._results.answered)
        width = width_for(self._worker.n_parallel)
        deaths_within_s = self._worker.settings.engine_deaths_within_s
        self._progress.begin(time.monotonic())
        async with aclosing(
            run_batch(lines, dispatch, width=width, deaths_within_s=deaths_within_s, stop=self._stop)
        ) as all_results:
            async for result in all_results:
                # In a thread, because a network volume may be slow.
                await asyncio.to_thread(self._results.append, result.line, result.content)
                self._progress.add(result, time.monotonic())

    def _on_signal(self, number: signal.Signals, task: asyncio.Task[object]) -> None:
        is_first, self._signal = self._signal is None, self._signal or number
        if not is_first or not self._is_ready:
            task.cancel()
            return
        self._stop.set()
        limit_s = self._worker.settings.drain_timeout_s
        self._progress.say(f"Stopping: running requests may finish within {limit_s:g} s. A second signal ends them.")
        asyncio.get_running_loop().call_later(limit_s, task.cancel)
