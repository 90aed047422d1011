"""The C bindings of llama-cpp-python without its Python classes, which import jinja2, diskcache and more.

Importing this module raises Unfit if llama.cpp's libraries cannot be loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from worker_gguf.errors import Unfit

if TYPE_CHECKING:
    import llama_cpp
    from llama_cpp._ggml import libggml

__all__ = ["extensions", "libggml", "llama_cpp", "mtmd", "version"]

_PACKAGE = "llama_cpp"


def _submodules(*names: str) -> list[object]:
    """Import submodules of the package without running its __init__.

    The empty package is removed again, so that a later import gets the complete package with the same submodules.
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
    """Return the error to raise if a shared library is missing, else None.

    An image for GPUs finds the libraries of the driver only on a machine that has the driver.
    """
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


@cache
def extensions() -> Any:
    """Return the bindings of functions that llama.cpp may change with any release (llama-ext.h)."""
    (module,) = _submodules("llama_cpp_ext")
    return module


@cache
def mtmd() -> Any:
    """Return the bindings of the library that encodes images. A model without a projector must not import them."""
    (module,) = _submodules("mtmd_cpp")
    return module


def version() -> str:
    """Return the version of llama-cpp-python. The import takes 25 ms, which an engine process does not need."""
    import importlib.metadata

    return importlib.metadata.version("llama-cpp-python")
