"""Reads and sets environment variables. No other module of the package does so."""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["given", "hide_gpus", "inherited", "names", "set_default"]

_GPUS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES")
_hidden: dict[str, str | None] = {}


def given(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return all variables that are not empty, with names in lower case and texts without surrounding spaces."""
    source = os.environ if environ is None else environ
    return {name.lower(): text.strip() for name, text in source.items() if text.strip()}


def names() -> list[str]:
    """Return the names of all variables, in their original case."""
    return list(os.environ)


def set_default(name: str, value: str) -> None:
    """Set a variable for a library that reads it, unless it is already set."""
    os.environ.setdefault(name, value)


def hide_gpus() -> None:
    """Hide all GPUs from this process, before a library looks for them: each process that uses one takes its memory."""
    for name in _GPUS:
        if name not in _hidden:
            _hidden[name] = os.environ.get(name)
            os.environ[name] = ""


def inherited() -> dict[str, str]:
    """Return the environment for a process that uses the GPUs."""
    shown = {name: value for name, value in _hidden.items() if value is not None}
    return {name: value for name, value in os.environ.items() if name not in _hidden} | shown
