"""Parses deploy.yaml into values and the line of each key, without interpreting the keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from worker_gguf.errors import ManifestError

__all__ = ["Document", "key_path"]


@dataclass(frozen=True, slots=True)
class Document:
    """The values of deploy.yaml and their lines.

    Scalars are texts as they are written, because YAML would turn `on` into True and `12.10` into 12.1.
    """

    title: str
    values: dict[str, Any] = field(default_factory=dict, repr=False)
    lines: dict[str, int] = field(default_factory=dict)
    """Line numbers by key path, for example `env.N_CTX` or `cpu[0].vcpus`."""

    def error(self, path: str, message: str) -> ManifestError:
        """Return an error about a key, with its line."""
        place = f", line {self.lines[path]}" if path in self.lines else ""
        return ManifestError(f"{self.title}{place}: {path} {message}")

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read and parse a file. Raises ManifestError."""
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ManifestError(
                f"{path} cannot be read: {reason}. Name another file, or start from a copy of deploy/deploy.yaml."
            ) from None
        document = cls(path.name)
        document.values.update(document._parse(text))
        return document

    def _parse(self, text: str) -> dict[str, Any]:
        try:
            top = yaml.compose(text, Loader=yaml.BaseLoader)
        except yaml.MarkedYAMLError as error:
            # str(error) would quote the line, which may contain a secret.
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ManifestError(f"{self.title}, line {line}: invalid YAML ({error.problem}).") from None
        except yaml.YAMLError:
            raise ManifestError(f"{self.title} has characters that YAML does not allow. Save it as UTF-8.") from None
        if not isinstance(top, yaml.MappingNode):
            raise ManifestError(f"{self.title} must consist of `key: value` lines. docs/deploy.md has an example.")
        return self._mapping(top, (), set())

    def _value(self, node: Any, loc: tuple[str | int, ...], seen: set[int]) -> Any:
        path = key_path(loc)
        if id(node) in seen:
            raise self.error(path, "uses an anchor (&, *), which is not supported. Repeat the value.")
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, loc, seen)
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*loc, i), seen) for i, item in enumerate(node.value)]
        if node.style is None and node.value in ("", "~", "null"):
            raise self.error(path, "has no value. Add one or remove the line.")
        return node.value

    def _mapping(self, node: Any, loc: tuple[str | int, ...], seen: set[int]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ManifestError(
                    f"{self.title}, line {line}: a value that starts with a brace needs quotes, such as "
                    '"{{ RUNPOD_SECRET_name }}". `secret: name` means the same.'
                )
            path = key_path((*loc, key.value))
            if key.value in values:
                raise ManifestError(f"{self.title}, line {line}: {path} is defined twice. Remove one.")
            self.lines[path] = line
            values[key.value] = self._value(value, (*loc, key.value), seen)
        return values


def key_path(loc: tuple[str | int, ...]) -> str:
    """Return a location as a key path, for example `cpu[0].vcpus`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")
