"""The present objects of a deployment on RunPod, found by name. Changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from worker_gguf.deployment.manifest import Names
from worker_gguf.deployment.wanted import Body
from worker_gguf.errors import DeploymentError

__all__ = ["Existing", "Kind", "find", "only"]

Kind = Literal["volume", "template", "endpoint"]

_NOUNS: Final[dict[Kind, str]] = {"volume": "network volumes", "template": "templates", "endpoint": "endpoints"}
_FLASHBOOT: Final = re.compile(r"\s*-fb$")
"""RunPod's console and older tools marked an endpoint with FlashBoot in its name."""


class Lists(Protocol):
    def list(self, kind: Kind) -> Sequence[Body]: ...


@dataclass(frozen=True, slots=True)
class Existing:
    """Each as RunPod describes it, with its variables: never shown."""

    volume: Body | None = field(default=None, repr=False)
    template: Body | None = field(default=None, repr=False)
    endpoint: Body | None = field(default=None, repr=False)


def find(api: Lists, names: Names) -> Existing:
    return Existing(
        only(api.list("volume"), "volume", names.volume) if names.volume else None,
        only(api.list("template"), "template", names.deployment),
        only(api.list("endpoint"), "endpoint", names.deployment),
    )


def only(objects: Sequence[Body], kind: Kind, name: str) -> Body | None:
    """The object of that name, or none. RunPod allows two of one name; which was meant is not for us to guess."""
    plain: Callable[[str], str] = (lambda text: _FLASHBOOT.sub("", text)) if kind == "endpoint" else str
    found = [item for item in objects if plain(str(item.get("name", "")).strip()) == name]
    if len(found) > 1:
        ids = ", ".join(str(item.get("id")) for item in found)
        raise DeploymentError(
            f"There are {len(found)} {_NOUNS[kind]} named {name!r} ({ids}), and objects are identified by name. Rename "
            "or delete all but one in RunPod's console, or choose another name."
        )
    return found[0] if found else None
