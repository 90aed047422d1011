"""A stand-in for nvidia-smi, and bundles of small wheels."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.gpu_check import bundle
from bench.gpu_check.environment import ROOT

LOCK = ROOT / "requirements" / "worker.txt"
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
# They need nothing else, and no other package of the bundle is left out because of them.
CARRIED = ("h11", "idna")
ALL = bundle.closure(bundle.roots(), HERE)


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Put an nvidia-smi that says this, and ends with this code, before all others."""

    def install(says: str, code: int = 0) -> None:
        folder = tmp_path / "driver"
        folder.mkdir(exist_ok=True)
        program = folder / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\nexit {code}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return install


def write_wheel(folder: Path, name: str) -> str:
    """Write a wheel of version 99 with one module, and return its entry in a lock file."""
    module = name.replace("-", "_")
    info = f"{module}-99.dist-info"
    files = {
        f"{module}.py": "is_small = True\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 99\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        record.append(f"{path},sha256={digest},{len(text)}")
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
    wheel = folder / f"{module}-99-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as packed:
        for path, text in files.items():
            packed.writestr(path, text)
    return f"{name}==99 \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"


def pack_library(path: Path, version: str, name: str = "llama_cpp") -> Path:
    """Pack a package llama_cpp that has only its version."""
    folder = path.parent / f"content-of-{path.name}"
    (folder / name / "lib").mkdir(parents=True)
    (folder / name / "__init__.py").write_text(f'__version__ = "{version}"\n')
    with tarfile.open(path, "w:xz") as packed:
        packed.add(folder, ".")
    return path


@pytest.fixture(scope="session")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> bundle.Wanted:
    """Two small wheels in place of the real ones; all other packages are in this environment."""
    folder = tmp_path_factory.mktemp("wanted")
    wheels = folder / "wheels"
    wheels.mkdir()
    pins = bundle.locked(LOCK.read_text()) | {name: write_wheel(wheels, name) for name in CARRIED}
    lock = folder / "lock.txt"
    lock.write_text("\n".join(pins.values()) + "\n")
    pinned = re.findall(r"^llama-cpp-python==(\S+)", lock.read_text(), re.MULTILINE)[0]
    library = pack_library(folder / "llama_cpp-cuda.tar.xz", pinned)
    return bundle.Wanted(library, None, HERE, frozenset(ALL).difference(CARRIED), wheels, lock=lock)


@pytest.fixture(scope="session")
def bundle_made_once(wanted: bundle.Wanted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    bundle.make(wanted, out)
    return out


@pytest.fixture
def made(bundle_made_once: Path, tmp_path: Path) -> Path:
    """A bundle that a test may change."""
    return Path(shutil.copytree(bundle_made_once, tmp_path / "bundle"))
