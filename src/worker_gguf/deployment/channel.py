"""HTTPS requests to RunPod with the API key, and their answers. Does not retry."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from worker_gguf.errors import DeploymentError

__all__ = ["Answer", "Channel", "Clock", "Unreached"]

_CONNECT_S: Final = 10.0
_LONGEST_RETRY_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Clock:
    """The functions for time, which tests replace."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer. `body` is the parsed JSON, or None if the answer is not JSON."""

    status: int
    body: Any = field(repr=False)
    retry_after_s: float | None = None

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300

    def detail(self) -> str:
        """Return the explanation in an error answer as one line. It may quote the request."""
        body = self.body if isinstance(self.body, Mapping) else {}
        texts = [body.get(key) for key in ("detail", "title", "error", "message")]
        first = [text for text in texts if isinstance(text, str) and text.strip()][:1]
        errors = body.get("errors")
        return " ".join("; ".join([*first, *map(str, errors if isinstance(errors, list) else [])]).split())[:500]


class Unreached(Exception):
    """There was no answer. The request may have been carried out nevertheless."""


class Channel(ExitStack):
    """Sends requests with the API key, so it uses only HTTPS or this machine, and follows no redirects."""

    def __init__(self, key: str, *, timeout_s: float = 30.0) -> None:
        super().__init__()
        self._headers = {"Authorization": f"Bearer {key}", "Accept": "application/json"}
        self._timeout_s = timeout_s
        self._clients: dict[bool, httpx.Client] = {}

    def ask(self, method: str, url: str, body: object = None, *, timeout_s: float | None = None) -> Answer:
        """Send a request and return the answer.

        Raises Unreached if there is no answer, and DeploymentError if the key must not be sent to the URL.
        """
        client = self._client(is_local=_is_local(url))
        timeout = httpx.Timeout(timeout_s or self._timeout_s, connect=_CONNECT_S)
        try:
            response = client.request(method, url, json=body, timeout=timeout)
        except httpx.InvalidURL:
            raise _invalid(url) from None
        except httpx.HTTPError as error:
            raise Unreached(type(error).__name__) from None
        return Answer(response.status_code, _json(response), _retry_after_s(response.headers))

    def _client(self, *, is_local: bool) -> httpx.Client:
        """Return the HTTP client, which is created on first use because reading the certificates takes 0.1 s."""
        if is_local not in self._clients:
            # Processes of the same machine communicate without certificates and proxies.
            trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_local else True
            client = httpx.Client(headers=self._headers, verify=trust, trust_env=not is_local)
            self._clients[is_local] = self.enter_context(client)
        return self._clients[is_local]


def _is_local(url: str) -> bool:
    """Return whether the URL is on this machine. Raises DeploymentError if the key must not be sent to it."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise _invalid(url) from None
    if not host or parts.username or parts.password:
        raise _invalid(url)
    if host in ("127.0.0.1", "::1", "localhost"):
        return True
    if parts.scheme != "https":
        raise DeploymentError(f"{url} is not HTTPS, and the API key is not sent unencrypted. Use https://.")
    return False


def _invalid(url: str) -> DeploymentError:
    return DeploymentError(f"{url!r} is not a valid address. Use https:// and a host name, without a user or password.")


def _json(response: httpx.Response) -> Any:
    try:
        return json.loads(response.content)
    except ValueError:
        return None


def _retry_after_s(headers: httpx.Headers) -> float | None:
    """Return the seconds of a Retry-After header, or None. RunPod's API does not use dates."""
    text = headers.get("Retry-After", "").strip()
    return min(float(text), _LONGEST_RETRY_S) if text.isascii() and text.isdecimal() else None
