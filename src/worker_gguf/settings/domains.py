"""Parses IMAGE_DOMAINS: a list of the hosts from which images may be fetched."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["read_domains"]

_DOMAIN: Final = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*|\*")


def read_domains(text: str) -> list[str]:
    """Parse hosts separated by commas. `*.example.com` is every host below a name. Raises ValueError."""
    domains = [part.strip().rstrip(".").lower() for part in text.split(",") if part.strip()]
    if not domains or not all(map(_DOMAIN.fullmatch, domains)):
        raise ValueError("expected hosts such as images.example.com or *.example.com separated by commas, or *")
    return domains
