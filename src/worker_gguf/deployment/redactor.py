"""Takes known secrets out of texts that are shown: the last door, behind code that should not let them come so far."""

from __future__ import annotations

import json
from collections.abc import Iterable
from urllib.parse import quote

__all__ = ["MASK", "Redactor"]

MASK = "***"
_SHORTEST = 3
"""Taking out a shorter one would garble every line and hide nothing."""


class Redactor:
    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets for form in _forms(secret) if len(form) >= _SHORTEST}
        # The longest first: one secret may begin another.
        self._forms = sorted(forms, key=len, reverse=True)

    def clean(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, MASK)
        return text


def _forms(secret: str) -> Iterable[str]:
    """A secret as it may be written in an error of somebody else: quoted by Python, by JSON, in an address."""
    return secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], quote(secret, safe=""), *secret.split("\n")
