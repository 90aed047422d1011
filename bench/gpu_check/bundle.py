"""Makes the bundle for a machine with a GPU and without network: `make gpu-bundle`.

It holds what the machine needs beside the files of this repository: the wheels of the packages that a worker over HTTP
imports, a CUDA build of llama.cpp with its bindings, and llama-server if it is given.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench.gpu_check.environment import ROOT
from bench.gpu_check.manifest import REQUIREMENTS, WHEELS, BundleError, Manifest, sha256_of

__all__ = ["LEFT_OUT", "LIMIT_MIB", "Wanted", "closure", "locked", "make", "roots"]

MIB = 1 << 20
LIMIT_MIB = 60.0
"""A machine that is lent takes 64 MiB, and the files of this repository are among them."""
LEFT_OUT = {
    "llama-cpp-python": "the CUDA build stands in for it",
    "runpod": "the queue is not measured on the card",
    "huggingface-hub": "no model is downloaded there",
    "httpx": "only downloads and deployments use it",
    "pyyaml": "only lists of models and deployments use it",
    "tqdm": "only a terminal has the progress bar",
}
_NEWEST_GLIBC = 28
_LIBRARY = "llama_cpp/__init__.py"
_RUNNER = """\
#!/bin/sh
# Runs the check with this bundle. Call it in the root of a checkout: sh path/to/check.sh [arguments of make gpu-check]
exec "${PYTHON:-python3}" -m bench.gpu_check --bundle "$(dirname "$0")" "$@"
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the bundle is made of.

    `llama_cpp` is an archive or a folder with the package llama_cpp, and `llama_server` an archive or a program.
    `present` are packages that the machine has itself. With `wheels`, a folder, no index is asked.
    """

    llama_cpp: Path
    llama_server: Path | None = None
    python: str = "3.12"
    present: frozenset[str] = frozenset()
    wheels: Path | None = None
    limit_mib: float = LIMIT_MIB
    lock: Path = ROOT / "requirements" / "worker.txt"


def make(wanted: Wanted, out: Path) -> Manifest:
    """Make the bundle in the folder `out`, in place of an older one. Raises BundleError, and leaves `out` as it was."""
    if not re.fullmatch(r"3\.\d+", wanted.python):
        raise BundleError(f"GPU_PYTHON={wanted.python} is no version of Python. Write for example GPU_PYTHON=3.12.")
    if out.exists() and any(out.iterdir()) and not (out / REQUIREMENTS).is_file():
        raise BundleError(f"{out} is not empty and no bundle. Name another folder with BUNDLE=...")
    pins = locked(wanted.lock.read_text())
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".gpu-bundle-", dir=out.parent) as scratch:
        folder = Path(scratch) / "bundle"
        (folder / WHEELS).mkdir(parents=True)
        manifest = _fill(folder, wanted, pins)
        _check_size(folder, wanted.limit_mib)
        shutil.rmtree(out, ignore_errors=True)
        folder.rename(out)
    return manifest


def locked(text: str) -> dict[str, str]:
    """Return the entries of a lock file by the names of their packages, with their hashes."""
    entries = re.split(r"\n(?=[A-Za-z0-9])", text.strip())
    return {canonicalize_name(entry.split("==")[0]): entry for entry in entries if "==" in entry}


def roots() -> list[str]:
    """Return the direct dependencies of the worker without those in LEFT_OUT, and those of llama_cpp's bindings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [canonicalize_name(Requirement(text).name) for text in project["dependencies"]]
    return [name for name in names if name not in LEFT_OUT] + _requirements("llama-cpp-python", "3.12")


def closure(names: Iterable[str], python: str) -> list[str]:
    """Return the packages with all that they need, sorted. Their metadata are read from this environment."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _requirements(name, python)
    return sorted(found)


def _requirements(name: str, python: str) -> list[str]:
    marks = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    try:
        needed = [Requirement(text) for text in metadata.requires(name) or ()]
    except metadata.PackageNotFoundError:
        raise BundleError(f"The package {name} is not installed here: run `make setup` first.") from None
    return [canonicalize_name(one.name) for one in needed if one.marker is None or one.marker.evaluate(marks)]


def _fill(folder: Path, wanted: Wanted, pins: dict[str, str]) -> Manifest:
    names = closure(roots(), wanted.python)
    if unknown := wanted.present.difference(names):
        raise BundleError(f"GPU_PRESENT names {', '.join(sorted(unknown))}, which the worker does not need there.")
    carried = [name for name in names if name not in wanted.present]
    if missing := [name for name in names if name not in pins]:
        raise BundleError(f"{wanted.lock} does not pin {', '.join(missing)}. Compile it again: `make lock`.")
    (folder / REQUIREMENTS).write_text("".join(f"{pins[name]}\n" for name in carried))
    if carried:
        _download(folder, wanted)
    library = _archive(wanted.llama_cpp, folder, "llama_cpp", "LLAMA_CPP_CUDA")
    pinned = _version(pins["llama-cpp-python"])
    if (version := _library_version(folder / library)) != pinned:
        raise BundleError(f"LLAMA_CPP_CUDA={wanted.llama_cpp} is version {version}, and the lock pins {pinned}.")
    server = _archive(wanted.llama_server, folder, "llama-server", "LLAMA_SERVER") if wanted.llama_server else ""
    (folder / "check.sh").write_text(_RUNNER)
    digests = {name: sha256_of(folder / name) for name in filter(None, (library, server))}
    present = {name: _version(pins[name]) for name in sorted(wanted.present)}
    # The hashes of the wheels are in the requirements, whose digest makes the manifest another one.
    digests[REQUIREMENTS] = hashlib.sha256((folder / REQUIREMENTS).read_bytes()).hexdigest()
    manifest = Manifest(wanted.python, platform.machine(), pinned, library, server, present, digests)
    manifest.write(folder)
    return manifest


def _version(pin: str) -> str:
    return pin.split("==")[1].split()[0]


def _download(folder: Path, wanted: Wanted) -> None:
    """Fetch the wheels for the target's Python by their hashes."""
    machine = platform.machine()
    tags = [f"manylinux_2_{n}_{machine}" for n in range(_NEWEST_GLIBC, 4, -1)]
    tags += [f"{old}_{machine}" for old in ("manylinux2014", "manylinux2010", "manylinux1", "linux")]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "--no-deps"]
    pip += ["--require-hashes", "--only-binary=:all:", "--implementation", "cp", "--python-version", wanted.python]
    pip += [word for tag in tags for word in ("--platform", tag)]
    pip += ["--dest", str(folder / WHEELS), "--requirement", str(folder / REQUIREMENTS)]
    if wanted.wheels is not None:
        pip += ["--no-index", "--find-links", str(wanted.wheels)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise BundleError("pip cannot fetch the wheels:\n" + "\n".join(errors[-5:]))


def _archive(source: Path, folder: Path, name: str, variable: str) -> str:
    """Put an archive into the bundle as it is, or pack a folder or a program. Returns the name in the bundle."""
    if not source.exists():
        raise BundleError(f"{variable}={source} does not exist.")
    is_archive = source.is_file() and (tarfile.is_tarfile(source) or zipfile.is_zipfile(source))
    if is_archive:
        if source.suffix in (".whl", ".zip"):
            target = f"{name}.whl"
        else:
            target = name + "".join(suffix for suffix in source.suffixes if suffix in (".tar", ".xz", ".gz", ".bz2"))
        shutil.copyfile(source, folder / target)
        return target
    target = f"{name}.tar.xz"
    with tarfile.open(folder / target, "w:xz") as packed:
        # A folder is one that holds llama_cpp/, or llama_cpp itself.
        inside = source.name if source.name == name or source.is_file() else "."
        packed.add(source, name if source.is_file() else inside, filter=_clean)
    return target


def _clean(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return None if "__pycache__" in entry.name else entry


def _library_version(archive: Path) -> str:
    """Return the version of the package llama_cpp in an archive. Raises BundleError if it has none."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened:
            text = opened.read(_LIBRARY).decode() if _LIBRARY in opened.namelist() else ""
    else:
        with tarfile.open(archive) as opened_tar:
            found = next((entry for entry in opened_tar if entry.name.removeprefix("./") == _LIBRARY), None)
            file = opened_tar.extractfile(found) if found is not None else None
            text = file.read().decode() if file is not None else ""
    if (version := re.search(r'__version__ = "([^"]+)"', text)) is None:
        raise BundleError(f"LLAMA_CPP_CUDA has no {_LIBRARY}. It must hold the folder llama_cpp of llama-cpp-python.")
    return version[1]


def _check_size(folder: Path, limit_mib: float) -> None:
    sizes = {path.name: path.stat().st_size / MIB for path in folder.rglob("*") if path.is_file()}
    if (total := sum(sizes.values())) <= limit_mib:
        return
    largest = ", ".join(f"{name} {sizes[name]:.1f}" for name in sorted(sizes, key=sizes.__getitem__)[:-5:-1])
    raise BundleError(
        f"The bundle has {total:.1f} MiB, more than {limit_mib:g}. The largest files, in MiB: {largest}. Leave out "
        "what the machine has itself (GPU_PRESENT='numpy uvloop'), or llama-server."
    )


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check.bundle", description=__doc__)
    parser.add_argument("out", type=Path, help="the folder of the bundle")
    parser.add_argument("--llama-cpp", default="", help="a CUDA build of llama_cpp: an archive, a wheel or a folder")
    parser.add_argument("--llama-server", default="", help="an archive with llama-server, or the program")
    parser.add_argument("--python", default="3.12", help="the version on the machine (default: %(default)s)")
    parser.add_argument("--present", default="", help="packages that the machine has itself, separated by spaces")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels, in place of an index")
    parser.add_argument("--limit-mib", type=float, default=LIMIT_MIB, help="default: %(default)g")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = _arguments(arguments)
    try:
        if not args.llama_cpp:
            raise BundleError("Name a CUDA build of llama-cpp-python: LLAMA_CPP_CUDA=/path/to/archive (docs/gpu.md).")
        wanted = Wanted(
            Path(args.llama_cpp),
            Path(args.llama_server) if args.llama_server else None,
            args.python,
            frozenset(map(canonicalize_name, re.split(r"[ ,]+", args.present.strip()))) - {""},
            args.wheels,
            args.limit_mib,
        )
        manifest = make(wanted, args.out)
    except BundleError as error:
        print(error, file=sys.stderr)
        return 1
    size_mib = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file()) / MIB
    left_out = f", without {', '.join(manifest.present)}" if manifest.present else ""
    print(f"{args.out}: {size_mib:.1f} MiB for Python {manifest.python} on {manifest.machine}{left_out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
