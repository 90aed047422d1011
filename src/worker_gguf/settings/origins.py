"""CORS_ORIGINS as a list: origins as browsers send them, or the single word `*`."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["read_origins"]

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s,*]+")


def read_origins(text: str) -> list[str]:
    """Read origins joined by commas. Raises ValueError with the expected form."""
    # Browsers send an origin in lower case and without a slash at its end, and it is compared as a text.
    origins = [part.strip().rstrip("/").lower() for part in text.split(",") if part.strip()]
    if origins == ["*"]:
        return origins
    if not origins or not all(map(_ORIGIN.fullmatch, origins)):
        raise ValueError("expected origins such as https://app.example.com joined by commas, or * alone")
    return origins
