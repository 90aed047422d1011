"""`worker-gguf fetch`: a model onto this machine before a worker needs it: into an image, onto a network volume."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from worker_gguf.errors import WorkerError

__all__ = ["add_arguments", "fetch"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="org/repo:QUANT or a URL; default: MODEL")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="a cache in the Hub's layout; default: the worker's")


def fetch(arguments: argparse.Namespace, *, endpoint: str | None = None) -> int:
    """Fetch the model and print where it lies; the exit code. Asks the Hub nothing if it is there.

    Without a quant it takes the usual one: which fits best is for the machine to say that will run it.
    """
    from worker_gguf.errors import SettingsError
    from worker_gguf.progress_bar import ProgressBar
    from worker_gguf.settings import Settings
    from worker_gguf.store import ModelRef, ensure

    try:
        settings = Settings.load(model=arguments.model)
        ref = ModelRef.parse(settings.model_reference)
        token = settings.hf_token.get_secret_value() if settings.hf_token else None
        target = arguments.to or settings.cache_dir()
        with ProgressBar(str(ref)) as bar:
            found = ensure(
                ref,
                [arguments.to] if arguments.to else settings.cache_dirs(),
                token,
                bar.show,
                download_dir=target,
                endpoint=endpoint,
                most_bytes=None if arguments.to else settings.model_cache_max_bytes,
            )
    except SettingsError as error:
        print(error.message, file=sys.stderr)
        return 2
    except WorkerError as error:
        print(f"worker-gguf: {error.message}", file=sys.stderr)
        return 1
    print("\n".join(str(path) for path in found.paths))
    return 0
