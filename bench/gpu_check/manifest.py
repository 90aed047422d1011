"""What a bundle says of itself, in its `bundle.json`. Standard library only: it runs before anything is installed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

NAME = "bundle.json"
REQUIREMENTS = "requirements.txt"
WHEELS = "wheels"
FORMAT = 1


class BundleError(Exception):
    """A bundle cannot be made or used. The message is a sentence with the next step."""


class Manifest(NamedTuple):
    """`python` is the version that the wheels are for ("3.12"), `machine` the processor ("x86_64").

    `llama_cpp` and `llama_server` are names of archives in the bundle; the second is empty without a peer. `present`
    are packages that the machine has itself, with the versions of the lock. `sha256` has the digest of each archive.
    """

    python: str
    machine: str
    llama_cpp_python: str
    llama_cpp: str
    llama_server: str
    present: dict[str, str]
    sha256: dict[str, str]

    def write(self, folder: Path) -> None:
        (folder / NAME).write_text(json.dumps({"format": FORMAT, **self._asdict()}, indent=1) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Read a bundle's manifest. Raises BundleError."""
    path = folder / NAME
    try:
        values = json.loads(path.read_text())
    except OSError:
        raise BundleError(f"{folder} is no bundle: it has no {NAME}. Make one with `make gpu-bundle`.") from None
    except ValueError:
        raise BundleError(f"{path} is damaged. Make the bundle again with `make gpu-bundle`.") from None
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT or set(values) != set(Manifest._fields):
        raise BundleError(f"{path} is from another version of this project. Make the bundle again: `make gpu-bundle`.")
    return Manifest(**values)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
