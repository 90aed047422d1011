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
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import BinaryIO, Final

import httpx
from msgspec import Struct

from worker_gguf.errors import DownloadError, InvalidRequest, PayloadTooLarge, WorkerError
from worker_gguf.store.web import retry_after_s, title_of

__all__ = ["BATCH_FILE", "LookUp", "Wanted", "fetch_public_file", "is_public", "look_up"]

LookUp = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host for a port. Raises OSError or UnicodeError if it has none."""

_READ_TIMEOUT_S: Final = 30.0
_MOST_REDIRECTS: Final = 5
_GLOBAL_UNICAST: Final = ipaddress.ip_network("2000::/3")
"""All addresses of IPv6 that are assigned to hosts of the internet (RFC 4291, section 2.4, and IANA's registry)."""
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_PROTOCOL_ASSIGNMENTS: Final = ipaddress.ip_network("192.0.0.0/24")
"""Not public (RFC 6890), but the `ipaddress` of older Pythons takes most of it as public. Clouds have metadata here."""


class Wanted(Struct, frozen=True):
    """What is fetched: from which hosts, and what errors advise.

    `check_host` raises the error of a host from which it may not come. `too_large` and `not_public` end the sentences
    of these two errors. `allows_address` tells whether an address may be reached.
    """

    too_large: str
    not_public: str
    check_host: Callable[[str], None] = lambda host: None
    allows_address: Callable[[str], bool] = lambda address: is_public(address)
    look_up: LookUp = lambda host, port: look_up(host, port)


BATCH_FILE: Final = Wanted(
    too_large="that a job may read. Split it.",
    not_public="Use a public URL. The operator of the worker can allow other addresses with BATCH_PRIVATE_URLS=true.",
)


async def fetch_public_file(
    url: str,
    *,
    most_bytes: int,
    within_s: float = 300.0,
    may_be_private: bool = False,
    wanted: Wanted = BATCH_FILE,
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
            await _fetch(url, title, file, most_bytes, wanted, may_be_private=may_be_private)
    except BaseException as error:
        with suppress(OSError):  # closing writes what is buffered, which fails again on a full disk
            file.close()
        if isinstance(error, TimeoutError):
            raise DownloadError(
                f"{title} did not arrive within {within_s:g} s. Try again, or put it on another server."
            ) from None
        raise
    return file


async def _fetch(
    url: str, title: str, file: BinaryIO, most_bytes: int, wanted: Wanted, *, may_be_private: bool
) -> None:
    # In a thread, because the certificates are read from the disk.
    transport = await asyncio.to_thread(_CheckedTransport, wanted, may_be_private=may_be_private)
    try:
        async with (
            httpx.AsyncClient(transport=transport, timeout=_READ_TIMEOUT_S, trust_env=False) as client,
            aclosing(await _response(client, url, title)) as response,
        ):
            _check(response, title, most_bytes, wanted)
            await _copy(response, file, title, most_bytes, wanted)
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


def _check(response: httpx.Response, title: str, most_bytes: int, wanted: Wanted) -> None:
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
        raise _too_large(title, most_bytes, wanted)


async def _copy(response: httpx.Response, file: BinaryIO, title: str, most_bytes: int, wanted: Wanted) -> None:
    n_bytes = 0
    try:
        # Pieces of one read of the network, without decoding: a few bytes could decode to any number.
        async for piece in response.aiter_raw():
            n_bytes += len(piece)
            if n_bytes > most_bytes:
                raise _too_large(title, most_bytes, wanted)
            await asyncio.to_thread(file.write, piece)
        await asyncio.to_thread(file.seek, 0)
    except OSError as error:
        raise DownloadError(f"{title} could not be stored ({error.strerror}). Make room on the disk.") from None


def _too_large(title: str, most_bytes: int, wanted: Wanted) -> WorkerError:
    return PayloadTooLarge(f"{title} has more than the {most_bytes >> 20} MiB {wanted.too_large}")


class _CheckedTransport(httpx.AsyncHTTPTransport):
    """Checks where each request leads, and connects to the checked address."""

    def __init__(self, wanted: Wanted, *, may_be_private: bool) -> None:
        # Connections are kept by address, but a connection of TLS is for one name: another name needs another one.
        super().__init__(limits=httpx.Limits(max_keepalive_connections=0))
        self._wanted = wanted
        self._may_be_private = may_be_private

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        if url.scheme not in ("http", "https"):
            raise InvalidRequest(f"A URL must begin with https:// or http://, not with {url.scheme[:20]!r}.")
        self._wanted.check_host(url.host)
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
        try:
            addresses = await self._wanted.look_up(url.host, url.port or 443)
        except (OSError, UnicodeError):
            raise InvalidRequest(f"The host {url.host[:200]!r} is not known. Check the URL.") from None
        if not self._may_be_private and not all(map(self._wanted.allows_address, addresses)):
            what = f"The host {url.host[:200]!r} is not on the public internet."
            raise InvalidRequest(f"{what} {self._wanted.not_public}")
        return addresses[0]


async def look_up(host: str, port: int) -> Sequence[str]:
    """Ask the system for the addresses of a host."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def is_public(text: str) -> bool:
    """Return whether an address is on the public internet. One that contains an IPv4 address counts as that one."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast and address not in _PROTOCOL_ASSIGNMENTS
    inner = address.ipv4_mapped or address.sixtofour
    if address in _NAT64:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return is_public(str(inner))
    return address.is_global and address in _GLOBAL_UNICAST
