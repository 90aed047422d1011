"""The variables of the environment, as settings are written there. Nothing else in the package reads or sets them."""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["given", "names", "set_default"]


def given(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return every variable that is not empty: its name in lower case, its text without surrounding spaces."""
    source = os.environ if environ is None else environ
    return {name.lower(): text.strip() for name, text in source.items() if text.strip()}


def names() -> list[str]:
    """Every variable's name as it is written."""
    return list(os.environ)


def set_default(name: str, value: str) -> None:
    """Set a variable for a library that reads it, unless it is set."""
    os.environ.setdefault(name, value)
