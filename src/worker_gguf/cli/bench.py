"""`worker-gguf bench cold-start` measures starts of a worker and compares them with the fastest read of its model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from worker_gguf.errors import SettingsError, WorkerError

if TYPE_CHECKING:
    from worker_gguf.cli.cold_start import Limit, MeasuredStart
    from worker_gguf.settings import Settings
    from worker_gguf.store import LocalModel

__all__ = ["add_arguments", "bench"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="WHAT", required=True)
    cold = kinds.add_parser("cold-start", help="from the start of the process to the first answer")
    cold.add_argument("model", nargs="?", help="embedded, a path, or org/repo:QUANT; default: MODEL")
    cold.add_argument("--runs", type=int, default=1, help="starts to measure; the figures are their medians")


def bench(arguments: argparse.Namespace) -> int:
    """Print a picture of the last start, then one figure per line.

    Returns the exit code: 0, 1 if the worker does not start, or 2 if the arguments are wrong.
    """
    from worker_gguf.cli.cold_start import picture
    from worker_gguf.cli.named_model import settings_for_one
    from worker_gguf.worker_process import ProcessFailed

    try:
        settings = settings_for_one(arguments.model)
        local = _fetch(settings)
        print(f"{local.path.name}, {local.size_bytes / 1e6:,.0f} MB, from {local.source}", flush=True)
        rounds = [_round(settings, local) for _ in range(max(1, arguments.runs))]
    except SettingsError as error:
        print(f"worker-gguf: {error.message}", file=sys.stderr)
        return 2
    except (WorkerError, ProcessFailed, OSError) as error:
        print(f"worker-gguf: {error}", file=sys.stderr)
        return 1
    limit, start = rounds[-1]
    print(f"\n{picture(start, local.size_bytes, limit)}\n")
    if _from_cache_bytes(start, local.size_bytes) > local.size_bytes // 2:
        print("Most of the file stayed in the page cache: this is a warm start, and the limit is that of memory.\n")
    for name, value in _figures(rounds, local.size_bytes).items():
        print(f"{name} {value:.3f}")
    return 0


def _fetch(settings: Settings) -> LocalModel:
    """Find the files in the same way as the worker. A missing model is downloaded, which is not measured."""
    from worker_gguf.llama.machine import read_machine
    from worker_gguf.start import start
    from worker_gguf.start.fetch import fetch

    return fetch(start.Start(settings), read_machine)


def _round(settings: Settings, local: LocalModel) -> tuple[Limit, MeasuredStart]:
    from worker_gguf.cli.cold_start import drop_pages, fastest_read, measure_start

    limit = fastest_read(local.paths)
    drop_pages(local.paths)
    return limit, measure_start({"MODEL": settings.model_reference})


def _from_cache_bytes(start: MeasuredStart, size_bytes: int) -> int:
    """Return the bytes of the file that were in the page cache, or 0 if there was no prefetch."""
    read = [phase.size_bytes for phase in start.phases if phase.name == "prefetch" and phase.size_bytes is not None]
    return max(0, size_bytes - sum(read)) if read else 0


def _figures(rounds: Sequence[tuple[Limit, MeasuredStart]], size_bytes: int) -> dict[str, float]:
    return {
        "file_mb": size_bytes / 1e6,
        "from_page_cache_mb": median(_from_cache_bytes(start, size_bytes) / 1e6 for _, start in rounds),
        "limit_s": median(limit.seconds for limit, _ in rounds),
        "ready_s": median(start.ready_s for _, start in rounds),
        "first_token_s": median(start.first_answer_s for _, start in rounds),
        "first_token_over_limit_s": median(start.first_answer_s - limit.seconds for limit, start in rounds),
        "first_token_per_limit": median(start.first_answer_s / limit.seconds for limit, start in rounds),
    }
