"""What of a JSON Schema cannot be guaranteed."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Fault", "Refused", "joined"]

_MAX_PLACE = 200


class Fault(Struct, frozen=True):
    """A use of a keyword that no answer can be held to. `place` is the JSON pointer of the schema that has it.

    Names of properties are part of a pointer.
    """

    keyword: str
    place: str
    why: str

    def __str__(self) -> str:
        place = self.place if len(self.place) <= _MAX_PLACE else self.place[:_MAX_PLACE] + "..."
        return f"'{self.keyword}' at #{place} {self.why}"


class Refused(ValueError):
    """A keyword cannot be guaranteed. The message continues a sentence that begins with its name."""


def joined(place: str, path: str) -> str:
    """Return a place below another. Thousands of schemas may stand at one with a long name: it is not copied then."""
    return place if len(place) > _MAX_PLACE else f"{place}/{path}"
