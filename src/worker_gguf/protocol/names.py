"""The names of fields: those of the common parser, and those that the client of another dialect sent for them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from worker_gguf.errors import WorkerError

__all__ = ["AS_SENT", "COMMON", "Names", "Origin"]

_QUOTED = re.compile(r"'([A-Za-z_][\w.]*)'")


class Names(Struct, frozen=True):
    """What the fields of the common parser were called in one request.

    `own` maps each field that a dialect has filled from another one to the name of that one. A name also stands for the
    fields in it: with `{"a": "b"}`, `a.c` becomes `b.c`. The name of a field whose inside is different in the dialect
    ends with a dot: with `{"a": "b."}`, `a.0.c` becomes `b`. A star is a place in a list: with `{"a.*.b": "a.*.c"}`,
    `a.0.b` becomes `a.0.c`. Only names of the common parser may be translated: a client may send a field that has one
    of these names and another meaning.
    """

    own: Mapping[str, str] = MappingProxyType({})

    def of(self, name: str) -> str:
        """Return the name that the client sent."""
        parts = name.split(".")
        general = ["*" if part.isdigit() else part for part in parts]
        for n in range(len(parts), 0, -1):
            own = self.own.get(".".join(general[:n]))
            if own is not None:
                for place in filter(str.isdigit, parts[:n]):
                    own = own.replace("*", place, 1)
                return own[:-1] if own.endswith(".") else ".".join((own, *parts[n:]))
        return name

    def all(self, names: Iterable[str]) -> Iterable[str]:
        """Return the names that the client sent."""
        return map(self.of, names) if self.own else names

    def worded(self, error: WorkerError) -> WorkerError:
        """Return an error of common code with the names that the client sent."""
        if not self.own or error.param is None:
            return error
        message = _QUOTED.sub(lambda found: f"'{self.of(found[1])}'", error.message)
        worded = type(error).__new__(type(error), message)
        worded.__dict__ |= error.__dict__ | {"message": message, "param": self.of(error.param)}
        return worded

    @contextmanager
    def in_errors(self) -> Iterator[None]:
        """Translate the names in the errors of the common code that runs in this context."""
        try:
            yield
        except WorkerError as error:
            raise self.worded(error) from error.__cause__


AS_SENT: Final = Names()


class Origin(Struct, frozen=True):
    """What the common parser must know of the body from which a dialect made the fields.

    `ignored` has the names, as the client sent them, of what has no effect and is not among the fields.
    """

    names: Names = AS_SENT
    ignored: tuple[str, ...] = ()


COMMON: Final = Origin()
