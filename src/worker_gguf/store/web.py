"""Reads a file on a web server by ranges.

Uses the session of huggingface_hub, with its proxies, certificates and offline mode.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from worker_gguf.errors import DownloadError, ModelNotFound, WorkerError

if TYPE_CHECKING:
    from httpx import Response

__all__ = ["Interrupted", "WebFile", "open_url", "retry_after_s", "stable_url", "title_of"]

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 522, 524})
_NO_LONGER: Final = frozenset({401, 403, 404, 410})
_SIGNATURE: Final = re.compile(
    r"(x-amz-.*|x-goog-.*|signature|expires|key-pair-id|policy|awsaccesskeyid|googleaccessid|token|sig|s[etpvr]|skoid)",
    re.IGNORECASE,
)


class Interrupted(Exception):
    """A read failed and may succeed if it is repeated. `error` is the error to raise after the last attempt."""

    def __init__(self, error: WorkerError) -> None:
        super().__init__(error.message)
        self.error = error

    @property
    def wait_s(self) -> int | None:
        return self.error.retry_after_s


class WebFile:
    """A file on a web server. Its methods can be called from any thread.

    `address` returns its current URL and is called again when the URL has expired. `headers` returns the headers for
    a URL.
    """

    def __init__(
        self,
        title: str,
        address: Callable[[], str],
        size_bytes: int,
        *,
        headers: Callable[[str], Mapping[str, str]] = lambda _url: {},
        etag: str | None = None,
        has_ranges: bool = True,
    ) -> None:
        self.title = title
        self.size_bytes = size_bytes
        self.etag = etag
        self.has_ranges = has_ranges
        self._address = address
        self._headers = headers
        self._finding = threading.Lock()
        self._url: str | None = None

    def read(self, first: int, end: int, timeout_s: float = 30.0) -> Iterator[bytes]:
        """Yield the bytes from `first` up to, but not including, `end`. Raises Interrupted if the connection fails.

        Raises DownloadError for failures that would happen again.
        """
        url = self._where()
        headers = {"Accept-Encoding": "identity", **self._headers(url)}
        if self.has_ranges:
            headers["Range"] = f"bytes={first}-{end - 1}"
        try:
            with _stream(url, headers, timeout_s) as response:
                yield from self._body(response, url, first, end)
        except _transport_errors() as error:
            _refuse_offline(error, self.title)
            raise Interrupted(
                DownloadError(
                    f"{self.title} could not be fetched from {_host(url)} ({_first_line(error)}). "
                    "Check the network, or use a model that is on disk."
                )
            ) from error

    def _where(self) -> str:
        with self._finding:
            if self._url is None:
                self._url = self._address()
            return self._url

    def _body(self, response: Response, url: str, first: int, end: int) -> Iterator[bytes]:
        skip, left = self._check(response, url, first), end - first
        for chunk in response.iter_raw():
            content = chunk[skip:]
            skip = max(skip - len(chunk), 0)
            if content:
                yield content[:left]
                left -= len(content)
            if left <= 0:
                return
        raise Interrupted(DownloadError(f"{self.title}: the connection ended {left} bytes early. Start again."))

    def _check(self, response: Response, url: str, first: int) -> int:
        """Return the number of bytes in the body that come before `first`."""
        status = response.status_code
        has_changed = status in (200, 206) and self.etag and response.headers.get("ETag", self.etag) != self.etag
        if has_changed or status == 416:  # 416: the file has become shorter than the requested range
            raise DownloadError(f"{self.title} changed on its server while it was fetched. Start again.")
        if status == 206:
            found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != first or found[3] not in ("*", str(self.size_bytes)):
                raise DownloadError(f"{self.title}: {_host(url)} answered with another range. Start again.")
            return 0
        if status == 200:
            return first
        error = DownloadError(
            f"{_host(url)} answered {status} for {self.title}. Try again later.",
            retry_after_s=retry_after_s(response.headers),
        )
        if status in _NO_LONGER:
            with self._finding:  # a signed URL has expired: get a new one
                self._url = None if self._url == url else self._url
        if status in _AGAIN | _NO_LONGER:
            raise Interrupted(error)
        raise error


def open_url(url: str, timeout_s: float = 30.0) -> WebFile:
    """Request the size of a file from a web server, and whether the server supports ranges.

    Raises Interrupted if another attempt may succeed, and otherwise DownloadError or ModelNotFound.
    """
    title = title_of(url)
    headers = {"Accept-Encoding": "identity", "Range": "bytes=0-0"}
    try:
        with _stream(url, headers, timeout_s) as response:
            return _described(url, title, response)
    except _transport_errors() as error:
        _refuse_offline(error, title)
        raise Interrupted(
            DownloadError(f"{title} could not be fetched ({_first_line(error)}). Check the network and the URL.")
        ) from error


def _described(url: str, title: str, response: Response) -> WebFile:
    status = response.status_code
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    length = response.headers.get("Content-Length", "")
    etag = response.headers.get("ETag")
    if status == 206 and found and found[3] != "*":
        return WebFile(title, lambda: url, int(found[3]), etag=etag)
    if status == 200 and length.isdecimal():
        return WebFile(title, lambda: url, int(length), etag=etag, has_ranges=False)
    if status in (200, 206):
        raise DownloadError(f"The server of {title} does not send the size of the file. Download it in another way.")
    if status in _AGAIN:
        after = retry_after_s(response.headers)
        error = DownloadError(f"The server of {title} answered {status}. Try again later.", retry_after_s=after)
        raise Interrupted(error)
    raise ModelNotFound(f"{title} cannot be fetched: its server answered {status}. Check the URL and its permissions.")


def title_of(url: str) -> str:
    """Return a URL for messages: without credentials, query and fragment, which may be secret."""
    return urlunsplit(urlsplit(url)._replace(netloc=_host(url), query="", fragment=""))


def stable_url(url: str) -> str:
    """Return the URL without its signature, credentials and fragment, so that it is the same at each start."""
    parts = urlsplit(url)
    query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if not _SIGNATURE.fullmatch(pair[0])]
    return urlunsplit(parts._replace(netloc=_host(url), query=urlencode(query), fragment=""))


def _host(url: str) -> str:
    """Return the host and port of a URL, without user name and password."""
    return urlsplit(url).netloc.rpartition("@")[2]


def retry_after_s(headers: Mapping[str, str]) -> int | None:
    after = headers.get("Retry-After", "").strip()
    return int(after) if after.isdecimal() else None


def _stream(url: str, headers: Mapping[str, str], timeout_s: float) -> Any:
    from huggingface_hub import get_session

    return get_session().stream("GET", url, headers=dict(headers), timeout=timeout_s, follow_redirects=True)


def _transport_errors() -> tuple[type[Exception], ...]:
    from huggingface_hub.errors import HfHubHTTPError

    # The base error of the HTTP library under huggingface_hub, which changed twice (requests, httpx, httpx2).
    return OSError, HfHubHTTPError.__mro__[1]


def _refuse_offline(error: BaseException, title: str) -> None:
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        raise DownloadError(f"{title} is not on disk, and HF_HUB_OFFLINE forbids fetching it. Unset it.") from error


def _first_line(error: BaseException) -> str:
    text = ""
    with suppress(Exception):
        text = str(error).strip().split("\n")[0]
    return text or type(error).__name__
