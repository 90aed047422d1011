"""One HTTPS request to RunPod and its answer as JSON: the key, timeouts, who may be talked to. Retries nothing."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx

from worker_gguf.errors import DeploymentError

__all__ = ["Answer", "Channel", "Clock", "Unreached"]

_CONNECT_S: Final = 10.0
_LONGEST_RETRY_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Clock:
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class Answer:
    """`body` is the JSON, or None where the answer is none."""

    status: int
    body: Any = field(repr=False)
    retry_after_s: float | None = None

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300

    def said(self) -> str:
        """Summarise an answer in one line, which may quote the request."""
        body = self.body if isinstance(self.body, Mapping) else {}
        texts = [body.get("detail"), body.get("title"), body.get("error"), body.get("message")]
        first = next((text for text in texts if isinstance(text, str) and text.strip()), "")
        errors = body.get("errors")
        more = [str(item) for item in errors] if isinstance(errors, list) else []
        return " ".join("; ".join([first, *more] if first else more).split())[:500]


class Unreached(Exception):
    """No answer arrived. The request may still have been carried out."""


class Channel:
    """Sends the key with every request, and so to nothing but HTTPS or this machine, and follows no redirect."""

    def __init__(self, key: str, *, timeout_s: float = 30.0) -> None:
        self._headers = {"Authorization": f"Bearer {key}", "Accept": "application/json"}
        self._timeout_s = timeout_s
        self._clients: dict[bool, httpx.Client] = {}

    def ask(self, method: str, url: str, body: object = None, *, timeout_s: float | None = None) -> Answer:
        """Raise Unreached where no answer came, DeploymentError where the address may not have the key."""
        client = self._client(is_local=_is_local(url))
        timeout = httpx.Timeout(timeout_s or self._timeout_s, connect=_CONNECT_S)
        try:
            response = client.request(method, url, json=body, timeout=timeout)
        except httpx.InvalidURL:
            raise DeploymentError(f"{url!r} is not an address. Write https:// and a host.") from None
        except httpx.HTTPError as error:
            raise Unreached(type(error).__name__) from None
        return Answer(response.status_code, _json(response), _retry_after_s(response.headers))

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _client(self, *, is_local: bool) -> httpx.Client:
        """Made when it is first needed: reading the certificates takes a tenth of a second."""
        if is_local not in self._clients:
            # A proxy of the shell has no business between two processes of this machine, nor has a certificate.
            trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_local else True
            self._clients[is_local] = httpx.Client(headers=self._headers, verify=trust, trust_env=not is_local)
        return self._clients[is_local]


def _is_local(url: str) -> bool:
    """Whether the address is on this machine; raise for one that may not have the key."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.username or parts.password:
        raise DeploymentError(f"{url!r} is not an address. Write https:// and a host.")
    if host in ("127.0.0.1", "::1", "localhost"):
        return True
    if parts.scheme != "https":
        raise DeploymentError(f"{url} is not HTTPS, and the API key is not sent in the open. Write https://.")
    return False


def _json(response: httpx.Response) -> Any:
    try:
        return json.loads(response.content)
    except ValueError:
        return None


def _retry_after_s(headers: httpx.Headers) -> float | None:
    """Return the seconds of a Retry-After header, at most two minutes. RunPod documents seconds; a date is ignored."""
    text = headers.get("Retry-After", "").strip()
    return min(float(text), _LONGEST_RETRY_S) if text.isascii() and text.isdecimal() else None
