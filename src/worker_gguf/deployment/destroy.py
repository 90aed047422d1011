"""Removes a deployment in reverse order: endpoint, template, and the volume only when that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from worker_gguf.deployment.apply import Api
from worker_gguf.deployment.existing import Existing, Kind
from worker_gguf.errors import DeploymentError

__all__ = ["Removal", "removals", "remove"]

_COSTS: dict[Kind, str] = {
    "endpoint": "its workers stop, waiting and running requests end",
    "template": "only the preset",
    "volume": "with everything on it, for all who use it",
}


@dataclass(frozen=True, slots=True)
class Removal:
    kind: Kind
    name: str
    id: str

    def line(self) -> str:
        return f"{self.kind} {self.name} ({self.id}): {_COSTS[self.kind]}"


def removals(existing: Existing, *, with_volume: bool) -> tuple[Removal, ...]:
    """Return the objects to remove, in order of removal."""
    found = [("endpoint", existing.endpoint), ("template", existing.template)]
    if with_volume:
        found.append(("volume", existing.volume))
    kinds: dict[str, Kind] = {"endpoint": "endpoint", "template": "template", "volume": "volume"}
    return tuple(Removal(kinds[kind], str(body.get("name")), str(body["id"])) for kind, body in found if body)


def remove(api: Api, steps: tuple[Removal, ...], say: Callable[[str], None]) -> None:
    done: list[str] = []
    for step in steps:
        try:
            api.delete(step.kind, step.id)
        except DeploymentError as error:
            left = ", ".join(f"{other.kind} {other.id}" for other in steps[len(done) :])
            raise DeploymentError(f"{error.message}\nStill there: {left}. Run the command again to continue.") from None
        done.append(step.id)
        say(f"{step.kind} {step.name} ({step.id}): deleted")
