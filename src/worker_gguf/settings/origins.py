"""Parses CORS_ORIGINS: a list of origins in the form that browsers send, or `*`."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["read_origins"]

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s,*]+")


def read_origins(text: str) -> list[str]:
    """Parse origins separated by commas. Raises ValueError with the expected form."""
    # Origins are compared as texts. Browsers send them in lower case and without a slash at the end.
    origins = [part.strip().rstrip("/").lower() for part in text.split(",") if part.strip()]
    if origins == ["*"]:
        return origins
    if not origins or not all(map(_ORIGIN.fullmatch, origins)):
        raise ValueError("expected origins such as https://app.example.com separated by commas, or only *")
    return origins
