"""Finds the objects of a deployment at RunPod by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from worker_gguf.deployment.manifest import Manifest, Names
from worker_gguf.deployment.wanted import Body
from worker_gguf.errors import DeploymentError

__all__ = ["Api", "Existing", "Kind", "find", "only"]

Kind = Literal["volume", "template", "endpoint"]

_NOUNS: Final[dict[Kind, str]] = {"volume": "network volumes", "template": "templates", "endpoint": "endpoints"}
_FLASHBOOT: Final = re.compile(r"\s*-fb$")
"""RunPod's console and older tools add this to the name of an endpoint with FlashBoot."""


class Api(Protocol):
    """The functions of RunPod's API that a deployment needs. They raise DeploymentError.

    `create` is only called with a name that does not exist yet.
    """

    def list(self, kind: Kind) -> Sequence[Body]: ...
    def create(self, kind: Kind, body: Body) -> Body: ...
    def update(self, kind: Kind, id: str, body: Body) -> Body: ...  # noqa: A002
    def delete(self, kind: Kind, id: str) -> None: ...  # noqa: A002


@dataclass(frozen=True, slots=True)
class Existing:
    """RunPod's descriptions of the objects, which contain secrets and are not shown."""

    volume: Body | None = field(default=None, repr=False)
    template: Body | None = field(default=None, repr=False)
    endpoint: Body | None = field(default=None, repr=False)

    def objects(self) -> dict[Kind, Body]:
        """Return the existing objects, in the order of their removal."""
        all_: dict[Kind, Body | None] = {"endpoint": self.endpoint, "template": self.template, "volume": self.volume}
        return {kind: body for kind, body in all_.items() if body is not None}


def find(api: Api, names: Manifest | Names) -> Existing:
    """Find the objects of a deployment. Raises DeploymentError."""
    return Existing(
        only(api.list("volume"), "volume", names.volume.name) if names.volume else None,
        only(api.list("template"), "template", names.name),
        only(api.list("endpoint"), "endpoint", names.name),
    )


def only(objects: Sequence[Body], kind: Kind, name: str) -> Body | None:
    """Return the object with a name, or None. RunPod allows several, for which it raises DeploymentError."""

    def plain(item: Body) -> str:
        text = str(item.get("name", "")).strip()
        return _FLASHBOOT.sub("", text) if kind == "endpoint" else text

    found = [item for item in objects if plain(item) == name]
    if len(found) > 1:
        ids = ", ".join(str(item.get("id")) for item in found)
        raise DeploymentError(
            f"There are {len(found)} {_NOUNS[kind]} named {name!r} ({ids}), so the intended one is unknown. Rename or "
            "delete all but one in RunPod's console, or choose another name."
        )
    return found[0] if found else None
