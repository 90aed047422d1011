"""Short ids of calls, for templates that refuse others: Mistral's take nine letters and digits."""

from __future__ import annotations

import hashlib
import re
import string

__all__ = ["LONG_ID", "short_id"]

# An id as other servers write them.
LONG_ID = "call_Needle7391Needle8264abcd"
_SHORT = re.compile(r"[a-zA-Z0-9]{9}")
_CHARACTERS = string.ascii_letters + string.digits


def short_id(call_id: str) -> str:
    """Return an id of nine letters and digits, always the same one for an id; a short id stays as it is."""
    if _SHORT.fullmatch(call_id):
        return call_id
    digest = hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).digest()
    return "".join(_CHARACTERS[byte % len(_CHARACTERS)] for byte in digest[:9])
