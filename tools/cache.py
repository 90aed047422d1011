"""The folder for what is fetched or built for tests and benchmarks, shared by every clone of this user."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["CACHE", "MODELS", "llama_server_path"]

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "worker-gguf"
MODELS = CACHE / "models"
_LOCK = Path(__file__).parents[1] / "requirements" / "dev.txt"


def llama_server_path() -> Path:
    """Where the llama-server of the pinned llama-cpp-python lies, built or not."""
    line = next(line for line in _LOCK.read_text("utf-8").splitlines() if line.startswith("llama-cpp-python=="))
    return CACHE / f"llama-server-{line.split('==')[1].split()[0]}" / "bin" / "llama-server"
