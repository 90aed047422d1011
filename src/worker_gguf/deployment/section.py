"""A mapping of deploy.yaml while it is read: typed access by key, errors that name the key. Holds no defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Final

from worker_gguf.deployment.document import Branch
from worker_gguf.errors import ManifestError

__all__ = ["Section"]

_WHOLE: Final = re.compile(r"[+-]?\d{1,12}")
_NUMBER: Final = re.compile(r"\d{1,9}(\.\d{1,6})?")


class Section:
    """Each read marks its key; `close` refuses the keys that nothing has read."""

    def __init__(self, title: str, path: str, values: Mapping[str, Branch]) -> None:
        self.title = title
        self.path = path
        self._values = values
        self._known: list[str] = []

    def where(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def fault(self, key: str, said: str) -> ManifestError:
        return ManifestError(f"{self.title}: {self.where(key)} {said}")

    def has(self, key: str) -> bool:
        return key in self._values

    def raw(self, key: str) -> Branch | None:
        self._known.append(key)
        return self._values.get(key)

    def text(self, key: str) -> str | None:
        value = self.raw(key)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise self.fault(key, "must be one value, a text.")
        return value.strip() if isinstance(value, str) else None

    def need(self, key: str, why: str) -> str:
        value = self.text(key)
        if value is None:
            raise self.fault(key, f"is missing: {why}")
        return value

    def whole(self, key: str, least: int, most: int) -> int | None:
        value = self.text(key)
        if value is None:
            return None
        if not _WHOLE.fullmatch(value) or not least <= int(value) <= most:
            raise self.fault(key, f"must be a whole number from {least} to {most}, not {value!r}.")
        return int(value)

    def number(self, key: str, least: float) -> float | None:
        value = self.text(key)
        if value is None:
            return None
        if not _NUMBER.fullmatch(value) or float(value) < least:
            raise self.fault(key, f"must be a number of at least {least:g}, not {value!r}.")
        return float(value)

    def word(self, key: str, choices: Sequence[str]) -> str | None:
        value = self.text(key)
        if value is not None and value not in choices:
            raise self.fault(key, f"must be one of {', '.join(choices)}, not {value!r}.")
        return value

    def words(self, key: str) -> tuple[str, ...] | None:
        """A list of texts, each only once."""
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
            raise self.fault(key, "must be a list of texts, such as [one, two].")
        found = tuple(str(item).strip() for item in value)
        if len(set(found)) < len(found):
            raise self.fault(key, "names something twice. Remove one.")
        return found

    def section(self, key: str) -> Section | None:
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.fault(key, "must be a group of `key: value` lines.")
        return Section(self.title, self.where(key), value)

    def sections(self, key: str) -> tuple[Section, ...]:
        value = self.raw(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not value:
            raise self.fault(key, "must be a list with at least one entry.")
        found = []
        for i, item in enumerate(value):
            if not isinstance(item, dict):
                raise self.fault(key, "must be a list of groups of `key: value`.")
            found.append(Section(self.title, f"{self.where(key)}[{i}]", item))
        return tuple(found)

    def close(self, refused: Mapping[str, str] | None = None) -> None:
        """Raise for an unknown key. `refused` maps known keys of other tools to a hint."""
        for key in self._values:
            if key in self._known:
                continue
            if refused and key in refused:
                raise self.fault(key, f"is not a key of this file: {refused[key]}")
            near = get_close_matches(key, self._known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(sorted(self._known))}."
            raise self.fault(key, f"is not a key of this file. {hint}")
