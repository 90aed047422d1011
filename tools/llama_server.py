"""Builds llama.cpp's own server from the source package of the pinned llama-cpp-python: `make llama-server`.

It is the reference for answers and the peer for speed: the kernels are the same. The build takes about ten minutes on
two cores, once for each version and set of options; it stays in the user's cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tools.cache import LLAMA_SERVER_OPTIONS, llama_server_path

__all__ = ["main"]

_LOCK = Path(__file__).parents[1] / "requirements" / "dev.txt"


def main() -> int:
    path = llama_server_path()
    if not path.exists():
        print(f"Building llama-server into {path.parent} (minutes).", flush=True)
        with tempfile.TemporaryDirectory(prefix="worker-gguf-llama-server-") as folder:
            _build(Path(folder), path)
    print(path)
    return 0


def _build(folder: Path, path: Path) -> None:
    source = _source(folder)
    build = folder / "build"
    # cmake and ninja are among the pinned build requirements, in this interpreter's own folder.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    _run(["cmake", "-G", "Ninja", "-S", str(source), "-B", str(build), *LLAMA_SERVER_OPTIONS], environment)
    _run(["cmake", "--build", str(build), "--target", "llama-server"], environment)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    shutil.copy2(build / "bin" / "llama-server", unfinished)
    unfinished.replace(path)


def _source(folder: Path) -> Path:
    """Fetch the source package by its hash, and unpack llama.cpp from it."""
    text = _LOCK.read_text("utf-8")
    begin = text.index("llama-cpp-python==")
    end = next(place for place in range(begin, len(text)) if text[place] == "\n" and text[place - 1] != "\\")
    requirement = folder / "llama.txt"
    requirement.write_text(text[begin : end + 1])
    pip = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--no-deps"]
    options = ["--no-binary", ":all:", "--no-build-isolation", "--require-hashes", "--dest", str(folder)]
    _run([*pip, *options, "--requirement", str(requirement)], dict(os.environ))
    (archive,) = folder.glob("llama_cpp_python-*.tar.gz")
    with tarfile.open(archive) as unpacked:
        unpacked.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout[-3000:] + done.stderr[-3000:], file=sys.stderr)
        raise SystemExit(f"`{command[0]}` ended with {done.returncode}.")


if __name__ == "__main__":
    sys.exit(main())
