"""Fetches a file from a URL that a client chose, without letting the client reach this machine or its network.

Only http and https are requested, and only addresses of the public internet. A host name is looked up once for each
request, redirects included, and the connection goes to the address that was checked: a name that leads elsewhere at the
next look-up gains nothing. Proxies of the environment are not used, because a proxy would look up the name again.
"""

from __future__ import annotations

import ipaddress
import socket
import tempfile
import time
from typing import BinaryIO, Final

import httpx

from worker_gguf.errors import DownloadError, InvalidRequest, PayloadTooLarge, WorkerError
from worker_gguf.store.web import retry_after_s, title_of

__all__ = ["fetch_public_file"]

_READ_TIMEOUT_S: Final = 30.0
_MOST_REDIRECTS: Final = 5
_BLOCK_BYTES: Final = 1 << 20


def fetch_public_file(url: str, *, most_bytes: int, within_s: float = 300.0, may_be_private: bool = False) -> BinaryIO:
    """Fetch a file of at most `most_bytes` into a temporary file that has no name, and return it.

    Raises InvalidRequest for a URL that is refused or that its server refuses, PayloadTooLarge for a file that is too
    large, and DownloadError for failures that another attempt may not have. `may_be_private` allows all addresses.
    """
    try:
        title = title_of(url)
    except ValueError as error:
        raise InvalidRequest(f"The URL cannot be read: {error}.") from None
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    transport = _CheckedTransport(may_be_private=may_be_private)
    try:
        with (
            httpx.Client(
                transport=transport,
                timeout=_READ_TIMEOUT_S,
                follow_redirects=True,
                max_redirects=_MOST_REDIRECTS,
                trust_env=False,
            ) as client,
            client.stream("GET", url) as response,
        ):
            _check_status(response, title)
            _copy(response, file, title, most_bytes, time.monotonic() + within_s)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.DecodingError) as error:
        file.close()
        raise InvalidRequest(f"{title} cannot be fetched: {error}. Check the URL.") from None
    except httpx.HTTPError as error:
        file.close()
        raise DownloadError(f"{title} could not be fetched ({type(error).__name__}). Try again.") from None
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file


def _check_status(response: httpx.Response, title: str) -> None:
    status = response.status_code
    if status == 200:
        return
    if status in (408, 425, 429) or status >= 500:
        after = retry_after_s(response.headers)
        raise DownloadError(f"The server of {title} answered {status}. Try again later.", retry_after_s=after)
    raise InvalidRequest(
        f"{title} cannot be fetched: its server answered {status}. Check the URL, its permissions and its expiry."
    )


def _copy(response: httpx.Response, file: BinaryIO, title: str, most_bytes: int, until_s: float) -> None:
    too_large = PayloadTooLarge(f"{title} has more than the {most_bytes >> 20} MiB that a job may read. Split it.")
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length[:20]) > most_bytes:
        raise too_large
    n_bytes = 0
    for piece in response.iter_bytes(_BLOCK_BYTES):  # decompressed, so a small body cannot become a large file
        n_bytes += len(piece)
        if n_bytes > most_bytes:
            raise too_large
        if time.monotonic() > until_s:
            raise DownloadError(f"{title} arrives too slowly. Try again, or put it on another server.")
        try:
            file.write(piece)
        except OSError as error:
            raise DownloadError(f"{title} could not be stored ({error.strerror}). Make room on the disk.") from None


class _CheckedTransport(httpx.HTTPTransport):
    """Checks where each request leads, and connects to the checked address."""

    def __init__(self, *, may_be_private: bool) -> None:
        # Connections are kept by address, but a connection of TLS is for one name: another name needs another one.
        super().__init__(limits=httpx.Limits(max_keepalive_connections=0))
        self._may_be_private = may_be_private

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        if url.scheme not in ("http", "https"):
            raise InvalidRequest(f"A URL must begin with https:// or http://, not with {url.scheme[:20]!r}.")
        address = self._address_of(url)
        # A copy, because a redirect is relative to the URL of the request, which has the name.
        checked = httpx.Request(
            request.method,
            url.copy_with(host=address),
            headers=request.headers,  # with the Host of the URL
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": url.host},
        )
        return super().handle_request(checked)

    def _address_of(self, url: httpx.URL) -> str:
        """Look up a host. Raises InvalidRequest if it has no address, or one that a client may not reach."""
        try:
            found = socket.getaddrinfo(url.host, url.port or 443, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise InvalidRequest(f"The host {url.host[:200]!r} is not known. Check the URL.") from None
        addresses = [str(entry[4][0]) for entry in found]
        if not self._may_be_private and not all(map(_is_public, addresses)):
            raise _not_public(url.host)
        return addresses[0]


def _not_public(host: str) -> WorkerError:
    return InvalidRequest(
        f"The host {host[:200]!r} is not on the public internet. Use a public URL; whoever runs the worker can allow "
        "others with BATCH_PRIVATE_URLS=true."
    )


def _is_public(text: str) -> bool:
    """Return whether an address is on the public internet, and so is the IPv4 address that it contains, if any."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in ipaddress.ip_network("64:ff9b::/96"):  # NAT64
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(str(inner))
    return address.is_global and not address.is_multicast
