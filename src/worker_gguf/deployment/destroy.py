"""Removes a deployment: the endpoint, the template, and on request the volume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from worker_gguf.deployment.existing import Api, Existing, Kind
from worker_gguf.deployment.wanted import Body
from worker_gguf.errors import DeploymentError

__all__ = ["Removal", "removals", "remove"]

_CONSEQUENCES: Final[dict[Kind, str]] = {
    "endpoint": "its workers stop, waiting and running requests are aborted",
    "template": "only the preset of the endpoint",
    "volume": "with all its files, also for other endpoints",
}


@dataclass(frozen=True, slots=True)
class Removal:
    kind: Kind
    name: str
    id: str

    def line(self) -> str:
        return f"{self.kind} {self.name} ({self.id}): {_CONSEQUENCES[self.kind]}"


def removals(existing: Existing, *, with_volume: bool) -> tuple[Removal, ...]:
    """The objects to remove, in order."""
    found: dict[Kind, Body | None] = {"endpoint": existing.endpoint, "template": existing.template}
    if with_volume:
        found["volume"] = existing.volume
    return tuple(Removal(kind, str(body.get("name")), str(body["id"])) for kind, body in found.items() if body)


def remove(api: Api, steps: tuple[Removal, ...], say: Callable[[str], None]) -> None:
    for n_done, step in enumerate(steps):
        try:
            api.delete(step.kind, step.id)
        except DeploymentError as error:
            left = ", ".join(f"{other.kind} {other.id}" for other in steps[n_done:])
            raise DeploymentError(
                f"{error.message}\nNot removed: {left}. The same command continues from there."
            ) from None
        say(f"{step.kind} {step.name} ({step.id}): deleted")
