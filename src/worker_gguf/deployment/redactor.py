"""Masks known secrets in texts, as a last defence. Other code should not put secrets into texts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from urllib.parse import quote

__all__ = ["MASK", "Redactor"]

MASK = "***"
_SHORTEST = 3
"""Shorter secrets are not masked, because that would make every line unreadable."""


class Redactor:
    """Replaces the given secrets in texts."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets for form in _forms(secret) if len(form) >= _SHORTEST}
        # The longest first, because a secret may start with another one.
        self._forms = sorted(forms, key=len, reverse=True)

    def clean(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, MASK)
        return text


def _forms(secret: str) -> Iterable[str]:
    """Return the forms of a secret in error messages: plain, escaped by Python, by JSON or for a URL, and its lines."""
    return secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], quote(secret, safe=""), *secret.split("\n")
