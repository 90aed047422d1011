"""The arguments of the check. Standard library only: they are read before anything is installed."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

PARTS = ("prompts", "offload", "crash", "plan", "bench-dense", "bench-experts", "memory")
LIMIT_S = 360.0
WORK = Path(tempfile.gettempdir()) / f"worker-gguf-gpu-check-{os.getuid()}"
_RESULTS = Path(__file__).parents[1] / "results"
_SHARED_MEMORY = Path("/dev/shm")
_MODELS_BYTES = 14 << 30


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu_check",
        description="Check a worker on this machine's GPU. Exit codes: 0 all checks hold, 1 a check does not hold, "
        "2 wrong arguments or bundle, 3 no GPU.",
    )
    parser.add_argument("--bundle", type=Path, help="the folder of `make gpu-bundle`; default: this environment")
    parser.add_argument("--only", type=_parts, metavar="PARTS", help=f"some of {', '.join(PARTS)}; `bench` is both")
    parser.add_argument("--resume", action="store_true", help="run only the parts without a good result of today")
    parser.add_argument("--cpu", action="store_true", help="run every part on the processor, with tiny models")
    parser.add_argument(
        "--limit-s",
        type=float,
        default=LIMIT_S,
        help="of the whole check (default: %(default).0f), and four times as long with --cpu",
    )
    parser.add_argument("--llama-server", type=Path, help="measured beside the worker; default: that of the bundle")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="folder of the results (default: bench/results)")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of programs and logs (default: %(default)s)")
    parser.add_argument("--models", type=Path, help="folder of models (default: in /dev/shm if it has room)")
    args = parser.parse_args(arguments)
    if args.models is None:
        args.models = _models(args.work)
    # The check runs in the root of the checkout.
    for name in ("bundle", "llama_server", "results", "work", "models"):
        if (path := getattr(args, name)) is not None:
            setattr(args, name, path.resolve())
    return args


def _parts(text: str) -> tuple[str, ...]:
    chosen = tuple(part for part in PARTS for word in text.split(",") if part == word or part.startswith(f"{word}-"))
    for word in text.split(","):
        if not any(part == word or part.startswith(f"{word}-") for part in PARTS):
            raise argparse.ArgumentTypeError(f"there is no part {word!r}: the parts are {', '.join(PARTS)}")
    return chosen


def _models(work: Path) -> Path:
    """Return a folder in memory, as in a warm page cache. Programs cannot be there: it may be mounted with `noexec`."""
    folder = _SHARED_MEMORY / WORK.name
    has_room = folder.is_dir() or (_SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free > _MODELS_BYTES)
    return folder if has_room and work == WORK else work / "models"
