"""Checks API keys, without any HTTP framework.

The settings refuse a worker that is open to other machines and has no keys by accident.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from hashlib import sha256

from worker_gguf.errors import Unauthorized

__all__ = ["ApiKeys"]


class ApiKeys:
    """The accepted API keys, stored as SHA-256 digests. Without keys, all requests are accepted."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(sha256(key.encode()).digest() for key in keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, authorization: str | None, x_api_key: str | None = None) -> None:
        """Raise Unauthorized unless one of the keys was given: after `Bearer`, or as in Anthropic's API by itself."""
        if not self._digests:
            return
        if authorization is None and x_api_key is None:
            raise Unauthorized("No API key was given. Send it as `Authorization: Bearer <key>` or as `x-api-key`.")
        scheme, _, key = (authorization or "").strip().partition(" ")
        is_bearer = scheme.lower() == "bearer" and self._is_known(key.strip())
        if not is_bearer and not (x_api_key is not None and self._is_known(x_api_key.strip())):
            raise Unauthorized("The API key is not one of this worker's API_KEYS. Send `Authorization: Bearer <key>`.")

    def _is_known(self, key: str) -> bool:
        # All digests have the same length and every key is compared, so the time reveals nothing about the keys.
        digest = sha256(key.encode("utf-8", "surrogateescape")).digest()
        known = False
        for candidate in self._digests:
            known |= hmac.compare_digest(candidate, digest)
        return known
