"""Fetches a file from a URL that a client chose, without letting the client reach this machine or its network.

Only http and https are requested, and only addresses of the public internet. A host name is looked up once for each
request, redirects included, and the connection goes to the address that was checked: a name that leads elsewhere at the
next look-up gains nothing. Proxies of the environment are not used, because a proxy would look up the name again.

The server may be the client's own, so nothing that it sends can take more memory than one read of the network, more
disk than the limit, or more time than the limit.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import tempfile
from contextlib import aclosing, suppress
from typing import BinaryIO, Final

import httpx

from worker_gguf.errors import DownloadError, InvalidRequest, PayloadTooLarge, WorkerError
from worker_gguf.store.web import retry_after_s, title_of

__all__ = ["fetch_public_file"]

_READ_TIMEOUT_S: Final = 30.0
_MOST_REDIRECTS: Final = 5
_GLOBAL_UNICAST: Final = ipaddress.ip_network("2000::/3")
"""All addresses of IPv6 that are assigned to hosts of the internet (RFC 4291, section 2.4, and IANA's registry)."""
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_PROTOCOL_ASSIGNMENTS: Final = ipaddress.ip_network("192.0.0.0/24")
"""Not public (RFC 6890), but the `ipaddress` of older Pythons takes most of it as public. Clouds have metadata here."""


async def fetch_public_file(
    url: str, *, most_bytes: int, within_s: float = 300.0, may_be_private: bool = False
) -> BinaryIO:
    """Fetch a file of at most `most_bytes` into a temporary file that has no name, and return it.

    The whole fetch may take `within_s`, look-ups and redirects included. Cancelling it closes the connection.

    Raises InvalidRequest for a URL that is refused or that its server refuses, PayloadTooLarge for a file that is too
    large, and DownloadError for failures that another attempt may not have. `may_be_private` allows all addresses.
    """
    try:
        title = title_of(url)
    except ValueError as error:
        raise InvalidRequest(f"The URL cannot be read: {error}.") from None
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        async with asyncio.timeout(within_s):
            await _fetch(url, title, file, most_bytes, may_be_private=may_be_private)
    except BaseException as error:
        with suppress(OSError):  # closing writes what is buffered, which fails again on a full disk
            file.close()
        if isinstance(error, TimeoutError):
            raise DownloadError(
                f"{title} did not arrive within {within_s:g} s. Try again, or put it on another server."
            ) from None
        raise
    return file


async def _fetch(url: str, title: str, file: BinaryIO, most_bytes: int, *, may_be_private: bool) -> None:
    # In a thread, because the certificates are read from the disk.
    transport = await asyncio.to_thread(_CheckedTransport, may_be_private=may_be_private)
    try:
        async with (
            httpx.AsyncClient(transport=transport, timeout=_READ_TIMEOUT_S, trust_env=False) as client,
            aclosing(await _response(client, url, title)) as response,
        ):
            _check(response, title, most_bytes)
            await _copy(response, file, title, most_bytes)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise InvalidRequest(f"{title} cannot be fetched: {error}. Check the URL.") from None
    except httpx.HTTPError as error:
        raise DownloadError(f"{title} could not be fetched ({type(error).__name__}). Try again.") from None


async def _response(client: httpx.AsyncClient, url: str, title: str) -> httpx.Response:
    """Return the response after all redirects, with an unread body."""
    request = client.build_request("GET", url, headers={"Accept-Encoding": "identity"})
    for _ in range(1 + _MOST_REDIRECTS):
        response = await client.send(request, stream=True)
        if response.next_request is None:
            return response
        # httpx would follow redirects itself, but it reads the body of each into memory, whatever its size.
        await response.aclose()
        request = response.next_request
    raise InvalidRequest(f"{title} cannot be fetched: it has more than {_MOST_REDIRECTS} redirects. Check the URL.")


def _check(response: httpx.Response, title: str, most_bytes: int) -> None:
    """Judge the status and the headers."""
    status = response.status_code
    if status in (408, 425, 429) or status >= 500:
        after = retry_after_s(response.headers)
        raise DownloadError(f"The server of {title} answered {status}. Try again later.", retry_after_s=after)
    if status != 200:
        raise InvalidRequest(
            f"{title} cannot be fetched: its server answered {status}. Check the URL, its permissions and its expiry."
        )
    encoding = response.headers.get("Content-Encoding", "").strip()
    if encoding.lower() not in ("", "identity"):
        raise InvalidRequest(
            f"The server of {title} sends it with the Content-Encoding {encoding[:40]!r}, which is not decoded. "
            "Store the file without an encoding."
        )
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length[:20]) > most_bytes:
        raise _too_large(title, most_bytes)


async def _copy(response: httpx.Response, file: BinaryIO, title: str, most_bytes: int) -> None:
    n_bytes = 0
    try:
        # Pieces of one read of the network, without decoding: a few bytes could decode to any number.
        async for piece in response.aiter_raw():
            n_bytes += len(piece)
            if n_bytes > most_bytes:
                raise _too_large(title, most_bytes)
            await asyncio.to_thread(file.write, piece)
        await asyncio.to_thread(file.seek, 0)
    except OSError as error:
        raise DownloadError(f"{title} could not be stored ({error.strerror}). Make room on the disk.") from None


def _too_large(title: str, most_bytes: int) -> WorkerError:
    return PayloadTooLarge(f"{title} has more than the {most_bytes >> 20} MiB that a job may read. Split it.")


class _CheckedTransport(httpx.AsyncHTTPTransport):
    """Checks where each request leads, and connects to the checked address."""

    def __init__(self, *, may_be_private: bool) -> None:
        # Connections are kept by address, but a connection of TLS is for one name: another name needs another one.
        super().__init__(limits=httpx.Limits(max_keepalive_connections=0))
        self._may_be_private = may_be_private

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        if url.scheme not in ("http", "https"):
            raise InvalidRequest(f"A URL must begin with https:// or http://, not with {url.scheme[:20]!r}.")
        address = await self._address_of(url)
        # A copy, because a redirect is relative to the URL of the request, which has the name.
        checked = httpx.Request(
            request.method,
            url.copy_with(host=address),
            headers=request.headers,  # with the Host of the URL
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": url.host},
        )
        return await super().handle_async_request(checked)

    async def _address_of(self, url: httpx.URL) -> str:
        """Look up a host. Raises InvalidRequest if it has no address, or one that a client may not reach."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(url.host, url.port or 443, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise InvalidRequest(f"The host {url.host[:200]!r} is not known. Check the URL.") from None
        addresses = [str(entry[4][0]) for entry in found]
        if not self._may_be_private and not all(map(_is_public, addresses)):
            raise _not_public(url.host)
        return addresses[0]


def _not_public(host: str) -> WorkerError:
    return InvalidRequest(
        f"The host {host[:200]!r} is not on the public internet. Use a public URL. The operator of the worker can "
        "allow other addresses with BATCH_PRIVATE_URLS=true."
    )


def _is_public(text: str) -> bool:
    """Return whether an address is on the public internet. One that contains an IPv4 address counts as that one."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast and address not in _PROTOCOL_ASSIGNMENTS
    inner = address.ipv4_mapped or address.sixtofour
    if address in _NAT64:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return _is_public(str(inner))
    return address.is_global and address in _GLOBAL_UNICAST
