"""Makes an environment from a bundle, without network. Standard library only: it runs before anything is installed."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from bench.gpu_check.manifest import NAME, REQUIREMENTS, WHEELS, BundleError, Manifest, read_manifest, sha256_of

ROOT = Path(__file__).parents[2]
# Places of CUDA's libraries, beside the Python packages that bring them. "/" comes last, because it takes seconds.
_CUDA_PLACES = ("/usr/local", "/opt", "/usr/lib", "/")


def prepare(bundle: Path, work: Path) -> tuple[dict[str, str], Path | None]:
    """Unpack and install a bundle into `work`, unless that has been done.

    Returns the changes of the environment with which the check must run, and the path of llama-server if the bundle has
    it. Raises BundleError.
    """
    manifest = read_manifest(bundle)
    _check_python(manifest)
    folder, digest = work / "environment", sha256_of(bundle / NAME)
    ready = folder / "ready"
    if not ready.is_file() or ready.read_text() != digest:
        shutil.rmtree(folder, ignore_errors=True)
        _check_archives(bundle, manifest)
        _check_present(manifest)
        _install(bundle, folder / "site")
        _unpack(bundle / manifest.llama_cpp, folder / "llama_cpp")
        if manifest.llama_server:
            _unpack(bundle / manifest.llama_server, folder / "llama_server")
        ready.write_text(digest)
    server = next(iter((folder / "llama_server").rglob("llama-server")), None)
    libraries = [folder / "llama_cpp" / "llama_cpp" / "lib", *([server.parent] if server else [])]
    return {
        "PYTHONPATH": _joined([folder / "site", folder / "llama_cpp"], "PYTHONPATH"),
        "LD_LIBRARY_PATH": _joined([*libraries, *_cuda_folders(libraries)], "LD_LIBRARY_PATH"),
    }, server


def _check_python(manifest: Manifest) -> None:
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if here != manifest.python:
        raise BundleError(
            f"The bundle is for Python {manifest.python}, and {sys.executable} is Python {here}. Name another one "
            f"(make gpu-check PYTHON=python{manifest.python}), or make a bundle for this one (make gpu-bundle "
            f"GPU_PYTHON={here})."
        )
    if platform.machine() != manifest.machine:
        raise BundleError(f"The bundle is for {manifest.machine}, and this machine is {platform.machine()}.")


def _check_archives(bundle: Path, manifest: Manifest) -> None:
    for name, digest in manifest.sha256.items():
        path = bundle / name
        if not path.is_file():
            raise BundleError(f"{path} is missing. Carry the whole bundle.")
        if sha256_of(path) != digest:
            raise BundleError(f"{path} is damaged. Carry the bundle again.")


def _check_present(manifest: Manifest) -> None:
    missing = []
    for name, locked in manifest.present.items():
        try:
            print(f"{name} {metadata.version(name)} is this machine's own (the lock has {locked})", file=sys.stderr)
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        raise BundleError(
            f"The bundle leaves out {', '.join(missing)}, and {sys.executable} does not have it. Make the bundle with "
            "it (GPU_PRESENT names what is left out), or name a Python that has it (PYTHON)."
        )


def _install(bundle: Path, site: Path) -> None:
    # --isolated: no index and no option of this machine's pip configuration counts.
    pip = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "install", "-qq", "--no-index"]
    wheels = ["--only-binary=:all:", "--find-links", str(bundle / WHEELS), "--require-hashes", "--no-deps"]
    place = ["--no-compile", "--no-cache-dir", "--target", str(site), "--requirement", str(bundle / REQUIREMENTS)]
    site.mkdir(parents=True)
    if not (bundle / REQUIREMENTS).read_text().strip():
        return  # the machine has everything itself
    done = subprocess.run([*pip, *wheels, *place], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or [f"exit code {done.returncode}"]
        raise BundleError("pip cannot install the wheels of the bundle:\n" + "\n".join(lines[-5:]))


def _unpack(archive: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    if archive.suffix == ".whl":
        shutil.unpack_archive(archive, folder, "zip")
    else:
        shutil.unpack_archive(archive, folder, filter="data")


def _joined(folders: list[Path], name: str) -> str:
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get(name)])])


def _cuda_folders(libraries: list[Path]) -> list[Path]:
    """Find the folders of the libraries that llama.cpp's libraries need and the loader does not find.

    A library of CUDA may need another one, which usually lies beside it.
    """
    found: list[Path] = []
    unknown: set[str] = set()
    while missing := _missing_libraries(libraries, found) - unknown:
        for name in sorted(missing):
            if (path := _find(name)) is not None and path.parent not in found:
                found.append(path.parent)
            else:
                unknown.add(name)
    for name in sorted(unknown):
        print(f"The library {name} was not found; llama.cpp may not load.", file=sys.stderr)
    return found


def _missing_libraries(libraries: list[Path], found: list[Path]) -> set[str]:
    files = [str(path) for folder in libraries for path in folder.glob("*.so*")]
    env = {**os.environ, "LD_LIBRARY_PATH": _joined([*libraries, *found], "LD_LIBRARY_PATH")}
    done = subprocess.run(["ldd", *files], env=env, capture_output=True, text=True, check=False)
    return set(re.findall(r"^\s*(\S+) => not found", done.stdout, re.MULTILINE))


def _find(name: str) -> Path | None:
    packages = [path for path in sys.path if path.endswith("-packages")]
    places = [place for place in (*packages, *_CUDA_PLACES) if Path(place).is_dir()]
    command = ["find", *places, "-path", "/proc", "-prune", "-o", "-name", name, "-print", "-quit"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return Path(done.stdout.strip()) if done.stdout.strip() else None
