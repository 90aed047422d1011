"""Carries out a plan or a removal step by step, and reports each step. Finished steps are kept if a later one fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from worker_gguf.deployment.differences import changes
from worker_gguf.deployment.existing import Api, Existing, Kind, find
from worker_gguf.deployment.manifest import Manifest
from worker_gguf.deployment.plan import NEW_VOLUME, Action, Plan, make_plan, wanted_endpoint, wanted_template
from worker_gguf.deployment.wanted import Body, container_body
from worker_gguf.errors import DeploymentError

__all__ = ["CONSEQUENCES", "carry_out", "remove"]

Say = Callable[[str], None]

CONSEQUENCES: Final[dict[Kind, str]] = {
    "endpoint": "its workers stop, waiting and running requests are aborted",
    "template": "only the preset of the endpoint",
    "volume": "with all its files, also for other endpoints",
}


def carry_out(api: Api, manifest: Manifest, existing: Existing, plan: Plan, say: Say) -> Body:
    """Carry out a plan. Returns RunPod's description of the endpoint.

    Raises DeploymentError, whose message lists the finished steps.
    """
    done: list[str] = []

    def report(line: str) -> None:
        done.append(line)
        say(line)

    for action in plan.actions:
        if action.verb == "replace" and action.id is not None:
            api.delete("endpoint", action.id)
            report(f"endpoint {action.name} ({action.id}): deleted, will be created again")
    if plan.replaces:  # plan again, because RunPod also deletes a template that is bound to the endpoint
        existing = find(api, manifest)
        plan = make_plan(manifest, existing)
    objects = existing.objects()
    for action in plan.actions:
        if action.verb == "keep":
            say(f"{action.kind} {action.name} ({action.id}): up to date")
            continue
        try:
            found = objects[action.kind] = _send(api, action, objects)
        except DeploymentError as error:
            before = f"Done before that, and kept: {'; '.join(done)}. The same command continues from there."
            raise DeploymentError(
                f"{error.message}\n{before if done else 'Nothing was changed before that.'}"
            ) from None
        report(f"{action.kind} {action.name} ({found['id']}): {'changed' if action.verb == 'update' else 'created'}")
        _comment(action, manifest, objects, say)
    return objects["endpoint"]


def remove(api: Api, objects: dict[Kind, Body], say: Say) -> None:
    """Delete objects in order. Raises DeploymentError, whose message lists the remaining ones."""
    left = [f"{kind} {found['id']}" for kind, found in objects.items()]
    for kind, found in objects.items():
        try:
            api.delete(kind, str(found["id"]))
        except DeploymentError as error:
            remaining = f"Not removed: {', '.join(left)}. The same command continues from there."
            raise DeploymentError(f"{error.message}\n{remaining}") from None
        left.pop(0)
        say(f"{kind} {found.get('name')} ({found['id']}): deleted")


def _send(api: Api, action: Action, objects: dict[Kind, Body]) -> Body:
    """Send the body of an action, with the ids of objects that earlier steps created. Returns the object."""
    body: dict[str, Any] = dict(action.body)
    if body.get("networkVolumes") == [NEW_VOLUME]:
        body["networkVolumes"] = [objects["volume"]["id"]]
    if action.verb == "update" and action.id is not None:
        found = api.update(action.kind, action.id, body)
    else:
        if action.kind == "endpoint":
            body["templateId"] = objects["template"]["id"]
        found = api.create(action.kind, body)
    if not isinstance(found.get("id"), str):
        raise DeploymentError(f"RunPod's answer has no id for the {action.kind}. Run the command again.")
    return found


def _comment(action: Action, manifest: Manifest, objects: dict[Kind, Body], say: Say) -> None:
    """Report values that RunPod changed or ignored, for example because of an account's limit."""
    if action.kind == "volume":
        return
    if action.verb == "update" and action.kind == "endpoint" and container_body(manifest).keys() & action.body.keys():
        say("  RunPod replaces the workers one by one; until then an old one may answer")
    volumes = [str(objects["volume"]["id"])] if manifest.volume else []
    wanted = wanted_template(manifest) if action.kind == "template" else wanted_endpoint(manifest, volumes)
    for change in changes(wanted, objects[action.kind], manifest.env):
        say(f"  RunPod has {change.key}: {change.before or 'nothing'}, but {change.after or 'nothing'} was requested")
