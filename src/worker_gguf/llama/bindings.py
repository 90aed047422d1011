"""llama-cpp-python's C bindings, without its Python classes: those import jinja2, diskcache and more before a load."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import llama_cpp
    from llama_cpp._ggml import libggml

__all__ = ["VERSION", "libggml", "llama_cpp"]

_PACKAGE = "llama_cpp"


def _submodules(*names: str) -> list[object]:
    """Import parts of the package as if its __init__ were empty.

    The package itself is not left behind half made: whoever imports it later gets the whole of it, around the same
    submodules.
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


if not TYPE_CHECKING:
    llama_cpp, _ggml = _submodules("llama_cpp", "_ggml")
    libggml = _ggml.libggml

VERSION = importlib.metadata.version("llama-cpp-python")
