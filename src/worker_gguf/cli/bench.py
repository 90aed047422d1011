"""`worker-gguf bench cold-start`: one start of a worker, drawn and measured against the fastest read of its model."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from worker_gguf.errors import SettingsError, WorkerError

if TYPE_CHECKING:
    from worker_gguf.settings import Settings
    from worker_gguf.store import LocalModel
    from worker_gguf.timeline import Phase
    from worker_gguf.worker_process import WorkerProcess

__all__ = ["add_arguments", "bench"]

_READERS = (4, 16, 32)
_POLL_S = 0.005
_WIDTH = 100
_PROMPT = "Once upon a time there was a small machine that wanted to"


@dataclass(frozen=True, slots=True)
class Start:
    """One start: seconds from the process's start, and what the worker says of its phases."""

    ready_s: float
    first_token_s: float
    phases: tuple[Phase, ...]


@dataclass(frozen=True, slots=True)
class Limit:
    """The fastest plain read of the same files that was found."""

    seconds: float
    n_readers: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="WHAT", required=True)
    cold = kinds.add_parser("cold-start", help="from the start of the process to the first token")
    cold.add_argument("model", nargs="?", help="embedded, a path, or org/repo:QUANT; default: MODEL")
    cold.add_argument("--runs", type=int, default=1, help="starts to measure; the figures are their medians")


def bench(arguments: argparse.Namespace) -> int:
    """Print the picture, then a figure a line; 0, 1 when the worker does not start, 2 when the arguments are wrong."""
    from worker_gguf.settings import Settings
    from worker_gguf.worker_process import ProcessFailed

    try:
        settings = Settings.load(model=arguments.model)
        local = _fetch(settings)
        print(f"{local.path.name}, {local.size_bytes / 1e6:,.0f} MB, from {local.source}", flush=True)
        rounds = [(_limit(local.paths), _start(settings, local.paths)) for _ in range(max(1, arguments.runs))]
    except SettingsError as error:
        print(f"worker-gguf: {error.message}", file=sys.stderr)
        return 2
    except (WorkerError, ProcessFailed, OSError) as error:
        print(f"worker-gguf: {error}", file=sys.stderr)
        return 1
    print(f"\n{_picture(*rounds[-1], local.size_bytes)}\n")
    if _from_cache_bytes(rounds[-1][1], local.size_bytes) > local.size_bytes // 2:
        print("Most of the file stayed in the page cache: this is a warm start, and the limit is the memory's.\n")
    for name, value in _figures(rounds, local.size_bytes).items():
        print(f"{name} {value:.3f}")
    return 0


# --- what is measured -------------------------------------------------------------------------------------------------


def _fetch(settings: Settings) -> LocalModel:
    """Find the files as the worker will; a model that is not here yet is downloaded first, and not measured."""
    from worker_gguf.engine.plan import preference
    from worker_gguf.llama.machine import read_machine
    from worker_gguf.progress_bar import ProgressBar
    from worker_gguf.store import ModelRef, ensure
    from worker_gguf.store.select import PREFERENCE, by_labels

    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    ref = ModelRef.parse(settings.model_reference)
    with ProgressBar(str(ref)) as bar:
        return ensure(
            ref,
            settings.cache_dirs(),
            token,
            bar.show,
            download_dir=settings.cache_dir(),
            baked_dir=settings.model_baked_dir,
            most_bytes=settings.model_cache_max_bytes,
            prefer=lambda models: by_labels(partial(preference, order=PREFERENCE, machine=read_machine()))(models),
        )


def _limit(paths: Sequence[Path]) -> Limit:
    """Read the files with several numbers of readers and keep the best; the page cache is dropped before each."""
    return min((_plain_read(paths, n) for n in _READERS), key=lambda limit: limit.seconds)


def _plain_read(paths: Sequence[Path], n_readers: int) -> Limit:
    from worker_gguf.store.prefetch import Prefetch

    _drop(paths)
    prefetch = Prefetch(paths, n_readers=n_readers, skip_cached=False)
    try:
        prefetch.start().opened()
        prefetch.wait()
        if prefetch.error is not None:
            raise prefetch.error
        return Limit((prefetch.ended_s or time.perf_counter()) - prefetch.began_s, n_readers)
    finally:
        prefetch.close()


def _drop(paths: Sequence[Path]) -> None:
    """Ask the kernel to forget the files. It keeps pages that someone has mapped, another worker for one."""
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _start(settings: Settings, paths: Sequence[Path]) -> Start:
    from worker_gguf.worker_process import ProcessFailed, WorkerProcess

    environment = {"MODE": "http", "MODEL": settings.model_reference, "LOG_LEVEL": "warning"}
    with tempfile.NamedTemporaryFile(prefix="worker-gguf-bench-", suffix=".log") as log:
        _drop(paths)
        worker = WorkerProcess(environment, log)
        try:
            return _follow(worker)
        except ProcessFailed as error:
            raise ProcessFailed(f"{error}\nThe worker's last lines:\n{worker.last_lines()}") from None
        finally:
            worker.stop()


def _follow(worker: WorkerProcess) -> Start:
    from worker_gguf.timeline import read_phases
    from worker_gguf.worker_process import fetch_json

    worker.wait_ready(_POLL_S)
    ready_s = time.perf_counter() - worker.began_s
    fetch_json(f"{worker.url}/v1/completions", {"prompt": _PROMPT, "max_tokens": 1, "temperature": 0})
    first_token_s = time.perf_counter() - worker.began_s
    return Start(ready_s, first_token_s, tuple(read_phases(fetch_json(f"{worker.url}/health")["timeline"])))


# --- what is printed --------------------------------------------------------------------------------------------------


def _picture(limit: Limit, start: Start, size_bytes: int) -> str:
    """The worker's phases between the limit, above, and the first request."""
    from worker_gguf.timeline import Phase, draw

    above = Phase("limit", 0.0, limit.seconds, size_bytes, f"plain read, {limit.n_readers} readers")
    asked = Phase("first token", start.ready_s, start.first_token_s - start.ready_s)
    return draw([above, *start.phases, asked], start.first_token_s, _WIDTH)


def _from_cache_bytes(start: Start, size_bytes: int) -> int:
    """What of the file the worker found in the page cache; 0 where nothing was read ahead."""
    read = [phase.size_bytes for phase in start.phases if phase.name == "prefetch" and phase.size_bytes is not None]
    return max(0, size_bytes - sum(read)) if read else 0


def _figures(rounds: Sequence[tuple[Limit, Start]], size_bytes: int) -> dict[str, float]:
    return {
        "file_mb": size_bytes / 1e6,
        "from_page_cache_mb": median(_from_cache_bytes(start, size_bytes) / 1e6 for _, start in rounds),
        "limit_s": median(limit.seconds for limit, _ in rounds),
        "ready_s": median(start.ready_s for _, start in rounds),
        "first_token_s": median(start.first_token_s for _, start in rounds),
        "first_token_over_limit_s": median(start.first_token_s - limit.seconds for limit, start in rounds),
        "first_token_per_limit": median(start.first_token_s / limit.seconds for limit, start in rounds),
    }
