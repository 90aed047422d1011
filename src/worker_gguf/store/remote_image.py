"""Fetches an image from a URL in a request, if the operator allows its host."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from worker_gguf.errors import InvalidRequest

if TYPE_CHECKING:
    from worker_gguf.store.public_file import LookUp

__all__ = ["RemoteImages"]

_WITHIN_S: Final = 20.0
_TOO_LARGE: Final = "that an image may have (MAX_IMAGE_MB). Send a smaller one."
_NOT_PUBLIC: Final = "Send the image itself, as a data URL or in Base64."


class RemoteImages:
    """Fetches images from these hosts: `*.example.com` is every host below this name, and `*` is any host.

    Redirects are followed only to such hosts. None of them leads to an address that is not on the public internet.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        most_bytes: int,
        *,
        within_s: float = _WITHIN_S,
        look_up: LookUp | None = None,
        allows_address: Callable[[str], bool] | None = None,
    ) -> None:
        """`look_up` replaces the system's, and `allows_address` the check that an address is public."""
        self._names = frozenset(host for host in hosts if "*" not in host)
        self._endings = tuple(host[1:] for host in hosts if host.startswith("*."))
        self._allows_all = "*" in hosts
        self._most_bytes = most_bytes
        self._within_s = within_s
        reach = {"look_up": look_up, "allows_address": allows_address}
        self._reach = {name: value for name, value in reach.items() if value is not None}

    def check_host(self, host: str) -> None:
        """Raise InvalidRequest if an image may not come from a host."""
        name = host.lower().rstrip(".")
        if self._allows_all or name in self._names or (self._endings and name.endswith(self._endings)):
            return
        raise InvalidRequest(
            f"Images from {host[:200]!r} are not fetched. Send the image itself, as a data URL or in Base64. The "
            "operator of the worker can allow hosts with IMAGE_DOMAINS."
        )

    async def fetch(self, url: str) -> bytes:
        """Return the content of an image. Raises a RequestError or a DownloadError."""
        # httpx takes 0.1 s to import, which only the first request with a URL should wait for.
        from worker_gguf.store.public_file import Wanted, fetch_public_file

        wanted = replace(Wanted(_TOO_LARGE, _NOT_PUBLIC, self.check_host), **self._reach)
        file = await fetch_public_file(url, most_bytes=self._most_bytes, within_s=self._within_s, wanted=wanted)
        with file:
            return await asyncio.to_thread(file.read)
