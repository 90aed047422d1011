"""Looks for a GPU, makes the environment of the bundle, and runs the check in it. Standard library only."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from pathlib import Path

from bench.gpu_check.arguments import WORK, parse
from bench.gpu_check.card import NoCard, read_cards
from bench.gpu_check.environment import ROOT, prepare
from bench.gpu_check.manifest import BundleError

WRONG_USE, NO_GPU = 2, 3
_NEEDED = ("llama_cpp", "numpy", "pydantic", "msgspec", "starlette", "uvicorn", "uvloop", "prometheus_client")


def main() -> None:
    """Replace this process by the check. Raises SystemExit if it cannot run."""
    args = parse()
    begun_s = time.monotonic()
    changes: dict[str, str] = {}
    try:
        _make_folders(args.work, args.models)
        if not args.cpu:
            cards = read_cards()
            print(f"{', '.join(cards.names)}, driver {cards.driver}, {cards.total_mib} MiB", file=sys.stderr)
        if args.bundle is not None:
            changes, server = prepare(args.bundle, args.work)
            args.llama_server = args.llama_server or server
            print(f"The environment is ready after {time.monotonic() - begun_s:.0f} s.", file=sys.stderr)
        elif missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
            raise BundleError(
                f"{sys.executable} has no {', '.join(missing)}. Give a bundle (make gpu-check BUNDLE=folder), or run "
                "`make setup`."
            )
    except NoCard as error:
        print(f"{error} With --cpu, the check runs on the processor.", file=sys.stderr)
        raise SystemExit(NO_GPU) from None
    except BundleError as error:
        print(error, file=sys.stderr)
        raise SystemExit(WRONG_USE) from None
    # The loader reads LD_LIBRARY_PATH when a process starts, so the check is another program.
    environment = {**os.environ, **changes}
    own = [str(ROOT), str(ROOT / "src"), *filter(None, [environment.get("PYTHONPATH")])]
    environment.update(PYTHONPATH=os.pathsep.join(own), PYTHONUNBUFFERED="1")
    left_s = args.limit_s - (time.monotonic() - begun_s)
    final = [f"--results={args.results}", f"--work={args.work}", f"--models={args.models}"]
    final.append(f"--limit-s={left_s}")
    if args.llama_server is not None:
        final.append(f"--llama-server={args.llama_server}")
    os.chdir(ROOT)
    # Of an argument that comes twice, the last one counts.
    os.execve(sys.executable, [sys.executable, "-m", "bench.gpu_check.run", *sys.argv[1:], *final], environment)


def _make_folders(work: Path, models: Path) -> None:
    """Make the folders. Raises BundleError if a default one, whose name is known, belongs to another user."""
    for folder in (work, models):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.name == WORK.name and folder.stat().st_uid != os.getuid():
            raise BundleError(f"{folder} belongs to another user. Name other folders with --work and --models.")


if __name__ == "__main__":
    main()
