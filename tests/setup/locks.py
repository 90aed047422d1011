"""The lock files as pins, and newer releases of everything that they pin."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["NEWER", "canonical", "offer_newer", "pins", "unpinned"]

NEWER = "9999"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s\\;]+)")


def canonical(name: str) -> str:
    """Return a name as PEP 503 normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(*locks: Path) -> dict[str, str]:
    """Return every pinned name with its version."""
    found: dict[str, str] = {}
    for lock in locks:
        for line in lock.read_text("utf-8").splitlines():
            if match := _PIN.match(line):
                found[canonical(match[1])] = match[2]
    return found


def unpinned(lock: Path) -> list[str]:
    """Return the requirements of a lock that have no exact version or no hash."""
    text = lock.read_text("utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [line for line in lines if not _PIN.match(line) or "--hash=" not in line]


def offer_newer(names: Iterable[str], folder: Path) -> Mapping[str, Path]:
    """Write an empty wheel of version 9999 for each name, so that a pip that resolves anything takes it."""
    folder.mkdir(parents=True, exist_ok=True)
    return {name: _write_wheel(name, folder) for name in names}


def _write_wheel(name: str, folder: Path) -> Path:
    stem = f"{name.replace('-', '_')}-{NEWER}"
    path = folder / f"{stem}-py3-none-any.whl"
    info = f"{stem}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {NEWER}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path
