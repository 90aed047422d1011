"""Reads and sets environment variables. No other module of the package does so."""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["given", "names", "set_default"]


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
