"""The variables of the environment, as settings are written there. Nothing else in the package reads it."""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["given"]


def given(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Every variable that says something: its name in lower case, its text without spaces around."""
    source = os.environ if environ is None else environ
    return {name.lower(): text.strip() for name, text in source.items() if text.strip()}
