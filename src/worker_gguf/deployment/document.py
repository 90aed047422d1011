"""A YAML file as texts, lists and mappings, each scalar as it was written. Knows no key of deploy.yaml."""

from __future__ import annotations

from typing import Any

import yaml

from worker_gguf.errors import ManifestError

__all__ = ["Branch", "parse"]

Branch = str | list["Branch"] | dict[str, "Branch"]

_NOTHING = ("", "~", "null")


def parse(text: str, title: str) -> dict[str, Branch]:
    """Read a document whose top is a mapping.

    Scalars stay texts: what YAML makes of `on`, `12.10` or `0o17` is a surprise, and every value here ends as a field
    that knows its own type. A key that stands twice, an anchor and a key without a value are errors.
    """
    try:
        top = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        # Not str(error): it shows the line, and the line may hold what should have been a reference to a secret.
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ManifestError(f"{title}, line {line}: not YAML ({error.problem}). Correct the line.") from None
    except yaml.YAMLError:
        raise ManifestError(f"{title} has characters that YAML does not allow. Save it as plain UTF-8.") from None
    if not isinstance(top, yaml.MappingNode):
        raise ManifestError(f"{title} must be lines of `key: value`. docs/deploy.md has an example.")
    tree = _branch(top, "", title, set())
    assert isinstance(tree, dict)
    return tree


def _branch(node: Any, path: str, title: str, seen: set[int]) -> Branch:
    line = node.start_mark.line + 1
    if id(node) in seen:
        raise ManifestError(f"{title}, line {line}: anchors (&, *) are not read here. Write the value again.")
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, title, seen)
    if isinstance(node, yaml.SequenceNode):
        return [_branch(item, f"{path}[{i}]", title, seen) for i, item in enumerate(node.value)]
    if node.style is None and node.value in _NOTHING:
        raise ManifestError(f"{title}, line {line}: {path} has no value. Give it one, or leave the line out.")
    return str(node.value)


def _mapping(node: Any, path: str, title: str, seen: set[int]) -> dict[str, Branch]:
    found: dict[str, Branch] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ManifestError(
                f"{title}, line {line}: {path or 'the file'} has a key that is no word. A value that begins with a "
                'brace needs quotes: "{{ RUNPOD_SECRET_name }}", or write secret: name.'
            )
        name = str(key.value)
        if name in found:
            raise ManifestError(f"{title}, line {line}: {name} stands there twice. Remove one.")
        found[name] = _branch(value, f"{path}.{name}" if path else name, title, seen)
    return found
