"""How the JSON of an answer is written, in the words of llguidance's JSON Schema compiler."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["JSON_FORM"]

# One way to write each value: the separators of json.dumps, as most templates write JSON, and no \u escapes, by which a
# key that the schema names could be written in another way and then escape its schema.
JSON_FORM: Mapping[str, object] = MappingProxyType(
    {
        "item_separator": ", ",
        "key_separator": ": ",
        "whitespace_flexible": False,
        "whitespace_pattern": None,
        "coerce_one_of": False,
        "json_allowed_escapes": 'nrbtf\\"',
        "json_allow_general_unicode_escapes": False,
    }
)
