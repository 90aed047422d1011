"""Stand-ins for the inputs of the build: the base image, the index of wheels, this machine's way to PyPI.

The base is Debian 12, whose Python is 3.11 too, with what matters of RunPod's: a compiler that must not stay, and
variables that point the Hub's library at a volume that may not be there (runpod/containers, official-templates/base).
"""

from __future__ import annotations

import contextlib
import functools
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.image.buildah import Buildah

__all__ = ["make_base", "network_options", "wheel_index"]

_PACKAGES = ("ca-certificates", "gcc", "python3-distutils", "python3.11", "python3.11-venv")
_ENVIRONMENT = {
    "HF_HOME": "/runpod-volume/.cache/huggingface/",
    "HUGGINGFACE_HUB_CACHE": "/runpod-volume/.cache/huggingface/hub/",
    "HF_HUB_ENABLE_HF_TRANSFER": "1",
    "PIP_CACHE_DIR": "/runpod-volume/.cache/pip/",
}
_OF_THE_NETWORK = ("cert", "extra-index-url", "index-url", "proxy", "timeout", "trusted-host")


def make_base(buildah: Buildah, name: str, folder: Path) -> None:
    """Bootstrap Debian once, and commit it under the base image's name. Takes minutes the first time."""
    root = folder / "debian-12"
    if not (root / "etc" / "debian_version").exists():
        print("bootstrapping Debian 12 (once) ...", flush=True)
        unfinished = folder / "debian-12.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        _run("debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", "bookworm", str(unfinished))
        for left in ("var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(unfinished / left)
            (unfinished / left).mkdir()
        unfinished.rename(root)
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(root), "/")
    variables = [word for name, value in _ENVIRONMENT.items() for word in ("--env", f"{name}={value}")]
    buildah("config", *variables, "--cmd", "/start.sh", container)
    buildah("commit", "--quiet", "--format", "docker", container, name)
    buildah("rm", container)


@contextlib.contextmanager
def wheel_index(folder: Path, requirement: str) -> Iterator[str]:
    """Serve an index with the one wheel that this machine has built before, taken from pip's cache."""
    wheels = folder / requirement.split("==")[0]
    wheels.mkdir(parents=True, exist_ok=True)
    if not any(wheels.glob(f"*-{requirement.split('==')[1]}-*.whl")):
        pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation")
        _run(*pip, "--wheel-dir", str(wheels), requirement)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def network_options(folder: Path) -> list[str]:
    """Return the options with which pip in the build reaches the same index as pip on this machine.

    The image contains none of them.
    """
    said = _run(sys.executable, "-m", "pip", "config", "list")
    settings = {
        name: value
        for name, value in re.findall(r"^[\w:]+\.([\w-]+)='(.*)'$", said, re.MULTILINE)
        if name in _OF_THE_NETWORK and "file:" not in value
    }
    config = folder / "pip.conf"
    config.write_text("".join(["[global]\n", *(f"{name} = {value}\n" for name, value in settings.items())]))
    options = ["--secret", f"id=pip.conf,src={config}"]
    if "cert" in settings:
        options += ["--volume", f"{settings['cert']}:{settings['cert']}:ro"]
    return options


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def _run(*words: str) -> str:
    """Run a command; what it printed, or an end with its last lines."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{words[0]} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout
