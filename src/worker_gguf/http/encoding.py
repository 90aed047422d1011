"""Decodes compressed bodies. The size limit of a body applies to the decoded bytes."""

from __future__ import annotations

import zlib
from typing import Final

from worker_gguf.errors import InvalidRequest, UnsupportedEncoding
from worker_gguf.http.body import over_limit

__all__ = ["coding_of", "decode"]

_GZIP: Final = zlib.MAX_WBITS | 16
_RAW_DEFLATE: Final = -zlib.MAX_WBITS
_NAMES: Final = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}


def coding_of(content_encoding: str) -> str | None:
    """Return the coding in a Content-Encoding: `gzip`, `deflate`, or None. Raises UnsupportedEncoding for others."""
    codings = [part.strip().lower() for part in content_encoding.split(",")]
    codings = [coding for coding in codings if coding not in ("", "identity")]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in _NAMES:
        raise UnsupportedEncoding(
            "The Content-Encoding of the body is not supported. Send it as gzip or deflate, or without the header."
        )
    return _NAMES[codings[0]]


def decode(raw: bytes, coding: str, limit_bytes: int) -> bytes:
    """Decode a body. Raises InvalidRequest, or PayloadTooLarge as soon as the decoded bytes exceed `limit_bytes`."""
    decoder = zlib.decompressobj(_GZIP if coding == "gzip" else _deflate_form(raw))
    try:
        body = decoder.decompress(raw, limit_bytes + 1)
    except zlib.error:
        raise InvalidRequest(f"The body is not {coding} data, although its Content-Encoding is {coding}.") from None
    if len(body) > limit_bytes:
        raise over_limit("The decoded body", limit_bytes)
    if not decoder.eof:
        raise InvalidRequest(f"The body ends before its {coding} data does. Send all of it.")
    if decoder.unused_data:
        raise InvalidRequest(f"The body continues after its {coding} data. Send one {coding} stream and nothing else.")
    return body


def _deflate_form(raw: bytes) -> int:
    """Return the window bits for a deflate body. It has a zlib header (RFC 9110, 8.4.1.2), which some clients omit."""
    has_header = len(raw) >= 2 and raw[0] & 0x0F == 8 and (raw[0] << 8 | raw[1]) % 31 == 0
    return zlib.MAX_WBITS if has_header else _RAW_DEFLATE
