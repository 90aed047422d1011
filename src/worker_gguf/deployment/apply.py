"""Carries out a plan in order, with a line for each step. Objects that were made stay when a later step fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from worker_gguf.deployment.differences import changes
from worker_gguf.deployment.existing import Existing, Kind, find
from worker_gguf.deployment.manifest import Manifest
from worker_gguf.deployment.plan import NEW_VOLUME, Action, Plan, make_plan, wanted_endpoint, wanted_template
from worker_gguf.deployment.wanted import Body, container_body
from worker_gguf.errors import DeploymentError

__all__ = ["Api", "carry_out"]

Say = Callable[[str], None]


class Api(Protocol):
    """Raises DeploymentError. `create` is only asked for a name that nothing has."""

    def list(self, kind: Kind) -> Sequence[Body]: ...
    def create(self, kind: Kind, body: Body) -> Body: ...
    def update(self, kind: Kind, id: str, body: Body) -> Body: ...  # noqa: A002
    def delete(self, kind: Kind, id: str) -> None: ...  # noqa: A002


@dataclass
class _Made:
    """The results of the steps so far."""

    objects: dict[Kind, Body] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


def carry_out(api: Api, manifest: Manifest, existing: Existing, plan: Plan, say: Say) -> Body:
    """Return the endpoint as RunPod describes it then."""
    made = _Made()
    if plan.replaces:
        existing, plan = _without_endpoint(api, manifest, plan, made, say)
    _know(made, "volume", existing.volume)
    _know(made, "template", existing.template)
    _know(made, "endpoint", existing.endpoint)
    for action in plan.actions:
        try:
            _step(api, manifest, action, made, say)
        except DeploymentError as error:
            raise DeploymentError(f"{error.message}\n{_so_far(made.lines)}") from None
    return made.objects["endpoint"]


def _without_endpoint(api: Api, manifest: Manifest, plan: Plan, made: _Made, say: Say) -> tuple[Existing, Plan]:
    """Delete the endpoint that is to be replaced; RunPod deletes a template that is bound to it too, so look again."""
    for action in plan.actions:
        if action.verb == "replace" and action.id is not None:
            api.delete("endpoint", action.id)
            made.lines.append(f"endpoint {action.name} ({action.id}): deleted, to be made anew")
            say(made.lines[-1])
    existing = find(api, manifest.names)
    return existing, make_plan(manifest, existing)


def _step(api: Api, manifest: Manifest, action: Action, made: _Made, say: Say) -> None:
    if action.verb == "keep":
        say(f"{action.kind} {action.name} ({action.id}): as it should be")
        return
    body = _filled(action, made)
    if action.verb == "update" and action.id is not None:
        done, found = "changed", api.update(action.kind, action.id, body)
    else:
        done, found = "created", api.create(action.kind, body)
    if not isinstance(found.get("id"), str):
        raise DeploymentError(f"RunPod's answer has no id for the {action.kind}. Run the command again.")
    made.objects[action.kind] = found
    line = f"{action.kind} {action.name} ({found['id']}): {done}"
    made.lines.append(line)
    say(line)
    if action.verb == "update" and action.kind == "endpoint" and not container_body(manifest).keys().isdisjoint(body):
        say("  RunPod replaces its workers one after the other; until then one of before may answer")
    for note in _kept_otherwise(manifest, action.kind, made):
        say(f"  {note}")


def _filled(action: Action, made: _Made) -> Body:
    """Fill the ids of earlier steps into the body."""
    body: dict[str, Any] = dict(action.body)
    if body.get("networkVolumes") == [NEW_VOLUME]:
        body["networkVolumes"] = [made.objects["volume"]["id"]]
    if action.kind == "endpoint" and action.verb != "update":
        body["templateId"] = made.objects["template"]["id"]
    return body


def _kept_otherwise(manifest: Manifest, kind: Kind, made: _Made) -> list[str]:
    """The values that RunPod changed or left out, compared with those sent: an account's limit, for example."""
    if kind == "volume":
        return []
    volumes = [str(made.objects["volume"]["id"])] if manifest.volume else []
    wanted = wanted_template(manifest) if kind == "template" else wanted_endpoint(manifest, volumes)
    return [
        f"RunPod has {change.key}: {change.before or 'nothing'}, and {change.after or 'nothing'} was asked for"
        for change in changes(wanted, made.objects[kind], manifest.env)
    ]


def _know(made: _Made, kind: Kind, found: Body | None) -> None:
    if found is not None:
        made.objects[kind] = found


def _so_far(lines: Sequence[str]) -> str:
    if not lines:
        return "No step before it changed anything."
    return "Done before that, and there to stay: " + "; ".join(lines) + ". Run the command again to continue."
