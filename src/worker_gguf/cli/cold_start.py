"""Measures a cold start, from the start of the worker's process to its first answer, and its limit.

The limit is the fastest plain read of the model's files, by parallel readers into separate buffers.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Final

from msgspec import Struct

from worker_gguf.observe.timeline import Phase, draw, read_phases
from worker_gguf.worker_process import ProcessFailed, WorkerProcess, fetch_json

__all__ = ["READERS", "Limit", "MeasuredStart", "drop_pages", "fastest_read", "measure_start", "picture", "plain_read"]

READERS: Final = (8, 16, 32)
_BLOCK_BYTES: Final = 8 << 20
_POLL_S: Final = 0.005
_WIDTH: Final = 100
_PROMPT: Final = "Once upon a time there was a small machine that wanted to"


class Limit(Struct, frozen=True):
    """The fastest plain read of the model's files."""

    seconds: float
    n_readers: int


class MeasuredStart(Struct, frozen=True):
    """One start: the seconds since the start of the process, and the phases that the worker reports."""

    ready_s: float
    first_answer_s: float
    phases: tuple[Phase, ...]


def fastest_read(paths: Sequence[Path]) -> Limit:
    """Return the fastest of several reads with different numbers of readers. Drops the page cache before each."""
    limits = []
    for n_readers in READERS:
        drop_pages(paths)
        limits.append(Limit(plain_read(paths, n_readers), n_readers))
    return min(limits, key=lambda limit: limit.seconds)


def plain_read(paths: Sequence[Path], n_readers: int) -> float:
    """Return the seconds in which `n_readers` threads read the files in blocks."""
    started_s = time.perf_counter()
    with ExitStack() as files:
        blocks = _blocks([files.enter_context(path.open("rb", buffering=0)) for path in paths])
        lock = threading.Lock()
        failed: list[OSError] = []

        def read() -> None:
            buffer = bytearray(_BLOCK_BYTES)
            while not failed:
                with lock:
                    block = next(blocks, None)
                if block is None:
                    return
                try:
                    os.preadv(block[0], [buffer], block[1])
                except OSError as error:
                    failed.append(error)

        threads = [threading.Thread(target=read) for _ in range(n_readers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]
    return time.perf_counter() - started_s


def drop_pages(paths: Sequence[Path]) -> None:
    """Ask the kernel to drop the files from the page cache.

    It keeps pages that a process has mapped, for example another worker.
    """
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_start(environment: Mapping[str, str], prompt: str = _PROMPT) -> MeasuredStart:
    """Start a worker with MODEL in `environment`, wait until it is ready, and request one token.

    Raises ProcessFailed with the last lines of its log.
    """
    own = {"MODE": "http", "LOG_LEVEL": "warning", **environment}
    with tempfile.NamedTemporaryFile(prefix="worker-gguf-bench-", suffix=".log") as log:
        worker = WorkerProcess(own, log)
        try:
            worker.wait_ready(_POLL_S)
            ready_s = time.perf_counter() - worker.began_s
            fetch_json(f"{worker.url}/v1/completions", {"prompt": prompt, "max_tokens": 1, "temperature": 0})
            first_answer_s = time.perf_counter() - worker.began_s
            return MeasuredStart(
                ready_s, first_answer_s, tuple(read_phases(fetch_json(f"{worker.url}/health")["timeline"]))
            )
        except ProcessFailed as error:
            raise ProcessFailed(f"{error}\nThe last lines of the worker's log:\n{worker.last_lines()}") from None
        finally:
            worker.stop()


def picture(start: MeasuredStart, size_bytes: int, limit: Limit | None = None) -> str:
    """Draw the phases of the start, after the limit and before the first request."""
    phases = [*start.phases, Phase("first answer", start.ready_s, start.first_answer_s - start.ready_s)]
    if limit is not None:
        phases.insert(0, Phase("limit", 0.0, limit.seconds, size_bytes, f"plain read, {limit.n_readers} readers"))
    return draw(phases, start.first_answer_s, _WIDTH)


def _blocks(files: Sequence[FileIO]) -> Iterator[tuple[int, int]]:
    """Yield the descriptor and the offset of each block, in order."""
    for file in files:
        size_bytes = os.fstat(file.fileno()).st_size
        yield from ((file.fileno(), offset) for offset in range(0, size_bytes, _BLOCK_BYTES))
