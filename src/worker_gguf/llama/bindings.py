"""llama-cpp-python's C bindings without its Python classes, which import jinja2, diskcache and more before a load.

Importing this module raises Unfit where llama.cpp's libraries cannot be loaded.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from typing import TYPE_CHECKING

from worker_gguf.errors import Unfit

if TYPE_CHECKING:
    import llama_cpp
    from llama_cpp._ggml import libggml

__all__ = ["VERSION", "libggml", "llama_cpp"]

_PACKAGE = "llama_cpp"


def _submodules(*names: str) -> list[object]:
    """Import parts of the package as if its __init__ were empty.

    The half-made package is removed again, so that a later import gets the whole of it, around the same submodules.
    """
    if _PACKAGE in sys.modules:
        return [importlib.import_module(f"{_PACKAGE}.{name}") for name in names]
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {_PACKAGE!r}", name=_PACKAGE)
    sys.modules[_PACKAGE] = importlib.util.module_from_spec(spec)
    try:
        return [importlib.import_module(f"{_PACKAGE}.{name}") for name in names]
    finally:
        del sys.modules[_PACKAGE]


def _unfit(error: RuntimeError) -> Unfit | None:
    """The refusal, if the error is a library's that is missing: an image for GPUs finds the driver's only where there
    is a driver."""
    message = str(error)
    if not message.startswith("Failed to load shared library"):
        return None
    # The linker's message begins with the missing library: "Failed to load shared library '<path>': <library>: ..."
    why = message.partition("': ")[2]
    reason = (
        f"llama.cpp cannot be loaded ({why}). An image for GPUs needs a worker with a GPU and its driver; on the "
        "processor, use the image for it."
    )
    return Unfit.of(reason, [{"name": "library", "ok": False, "reason": reason}])


if not TYPE_CHECKING:
    try:
        llama_cpp, _ggml = _submodules("llama_cpp", "_ggml")
    except RuntimeError as error:
        raise (_unfit(error) or error) from None
    libggml = _ggml.libggml

VERSION = importlib.metadata.version("llama-cpp-python")
