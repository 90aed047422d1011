"""The folder for what is fetched or built for tests and benchmarks, shared by every clone of this user."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

__all__ = ["CACHE", "LLAMA_SERVER_OPTIONS", "MODELS", "llama_server_path"]

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "worker-gguf"
MODELS = CACHE / "models"
LLAMA_SERVER_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DBUILD_SHARED_LIBS=OFF",
)
_LOCK = Path(__file__).parents[1] / "requirements" / "dev.txt"


def llama_server_path() -> Path:
    """Path of the llama-server of the pinned llama-cpp-python, built or not. Other options have another path."""
    line = next(line for line in _LOCK.read_text("utf-8").splitlines() if line.startswith("llama-cpp-python=="))
    version = line.split("==")[1].split()[0]
    options = hashlib.sha256(" ".join(LLAMA_SERVER_OPTIONS).encode()).hexdigest()[:8]
    return CACHE / f"llama-server-{version}-{options}" / "bin" / "llama-server"
