"""Sets the project up in a new clone while a newer release of every dependency is offered: `make test-setup`.

The new environment must hold exactly the pins of the locks. The wheel of llama.cpp comes from pip's cache where it has
been compiled before; everything else is installed anew. `--demo` runs `make demo` first, which needs fewer packages,
and prints the seconds from the clone to its last answer.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.setup.locks import NEWER, canonical, offer_newer, pins, unpinned

ROOT = Path(__file__).parents[2]
LOCKS = ("build.txt", "dev.txt")
# Installed with the environment itself, or from the clone.
NOT_PINNED = {"pip", "setuptools", "worker-gguf"}


class SetupFailed(Exception):
    """The failure, in a sentence."""


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.setup", description=__doc__)
    parser.add_argument("--demo", action="store_true", help="run `make demo` first, and time it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="worker-gguf-setup-") as folder:
        try:
            figures = _run(Path(folder), demo=arguments.demo)
        except SetupFailed as error:
            print(f"FAILED: {error}", file=sys.stderr)
            return 1
    for name, value in figures.items():
        print(f"{name} {value}")
    return 0


def _run(folder: Path, *, demo: bool) -> dict[str, str]:
    clone = folder / "clone"
    _call(["git", "clone", "--quiet", str(ROOT), str(clone)], folder)
    locks = [clone / "requirements" / name for name in LOCKS]
    for lock in (*locks, clone / "requirements" / "worker.txt"):
        if loose := unpinned(lock):
            raise SetupFailed(f"{lock.name} has requirements without an exact version and a hash: {loose[:3]}")
    wanted = pins(*locks)
    newer = folder / "newer"
    offer_newer(wanted, newer)
    environment = _environment(newer)
    _check_offer(folder, environment)
    figures = {"setup_pins": str(len(wanted))}
    for target in ("demo", "setup") if demo else ("setup",):
        began_s = time.monotonic()
        _call(["make", target], clone, environment)
        figures[f"{target}_s"] = f"{time.monotonic() - began_s:.1f}"
    _compare(wanted, _installed(clone))
    return figures


def _environment(newer: Path) -> dict[str, str]:
    """Return this process's environment without an active virtual environment, and with the newer releases offered."""
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    environment["PIP_FIND_LINKS"] = f"{os.environ.get('PIP_FIND_LINKS', '')} {newer}".strip()
    return environment


def _check_offer(folder: Path, environment: dict[str, str]) -> None:
    """Prove that the newer releases are seen: a requirement without a pin must get one."""
    target = folder / "offered"
    command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--dest", str(target), "pydantic"]
    _call(command, folder, environment)
    if not list(target.glob(f"pydantic-{NEWER}-*.whl")):
        raise SetupFailed("pip does not see the newer releases that are offered, so this test would prove nothing.")


def _installed(clone: Path) -> dict[str, str]:
    command = [str(clone / ".venv/bin/python"), "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
    lines = _call(command, clone).splitlines()
    return {canonical(name): version for name, _, version in (line.partition("==") for line in lines)}


def _compare(wanted: dict[str, str], installed: dict[str, str]) -> None:
    wrong = {name: installed.get(name) for name, version in wanted.items() if installed.get(name) != version}
    if wrong:
        raise SetupFailed(f"these are not as pinned: {wrong}")
    if others := installed.keys() - wanted.keys() - NOT_PINNED:
        raise SetupFailed(f"these are installed and not pinned: {sorted(others)}")


def _call(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupFailed(
            f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
