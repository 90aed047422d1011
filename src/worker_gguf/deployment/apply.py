"""Carries out a plan step by step, and reports each step. Finished steps are kept if a later one fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from worker_gguf.deployment.differences import changes
from worker_gguf.deployment.existing import Api, Existing, Kind, find
from worker_gguf.deployment.manifest import Manifest
from worker_gguf.deployment.plan import NEW_VOLUME, Action, Plan, make_plan, wanted_endpoint, wanted_template
from worker_gguf.deployment.wanted import Body, container_body
from worker_gguf.errors import DeploymentError

__all__ = ["carry_out"]

Say = Callable[[str], None]


def carry_out(api: Api, manifest: Manifest, existing: Existing, plan: Plan, say: Say) -> Body:
    """Return the endpoint in RunPod's description."""
    run = _Run(api, manifest, say)
    if plan.replaces:
        existing, plan = run.delete_endpoint(plan)
    found: dict[Kind, Body | None] = {
        "volume": existing.volume, "template": existing.template, "endpoint": existing.endpoint
    }  # fmt: skip
    run.objects.update({kind: body for kind, body in found.items() if body is not None})
    for action in plan.actions:
        try:
            run.step(action)
        except DeploymentError as error:
            raise DeploymentError(f"{error.message}\n{_progress(run.done)}") from None
    return run.objects["endpoint"]


class _Run:
    def __init__(self, api: Api, manifest: Manifest, say: Say) -> None:
        self.objects: dict[Kind, Body] = {}
        self.done: list[str] = []
        self._api = api
        self._manifest = manifest
        self._say = say

    def delete_endpoint(self, plan: Plan) -> tuple[Existing, Plan]:
        """Plan again after that: RunPod also deletes a template that is bound to the endpoint."""
        for action in plan.actions:
            if action.verb == "replace" and action.id is not None:
                self._api.delete("endpoint", action.id)
                self._report(f"endpoint {action.name} ({action.id}): deleted, will be created again")
        existing = find(self._api, self._manifest.names)
        return existing, make_plan(self._manifest, existing)

    def step(self, action: Action) -> None:
        if action.verb == "keep":
            self._say(f"{action.kind} {action.name} ({action.id}): up to date")
            return
        is_update = action.verb == "update" and action.id is not None
        body = self._with_ids(action)
        if is_update:
            found = self._api.update(action.kind, str(action.id), body)
        else:
            found = self._api.create(action.kind, body)
        if not isinstance(found.get("id"), str):
            raise DeploymentError(f"RunPod's answer has no id for the {action.kind}. Run the command again.")
        self.objects[action.kind] = found
        self._report(f"{action.kind} {action.name} ({found['id']}): {'changed' if is_update else 'created'}")
        if is_update and action.kind == "endpoint" and not container_body(self._manifest).keys().isdisjoint(body):
            self._say("  RunPod replaces the workers one by one; until then an old one may answer")
        for change in self._deviations(action.kind):
            wanted = change.after or "nothing"
            self._say(f"  RunPod has {change.key}: {change.before or 'nothing'}, but {wanted} was requested")

    def _report(self, line: str) -> None:
        self.done.append(line)
        self._say(line)

    def _with_ids(self, action: Action) -> Body:
        """The body with the ids of the objects that earlier steps created."""
        body: dict[str, Any] = dict(action.body)
        if body.get("networkVolumes") == [NEW_VOLUME]:
            body["networkVolumes"] = [self.objects["volume"]["id"]]
        if action.kind == "endpoint" and action.verb != "update":
            body["templateId"] = self.objects["template"]["id"]
        return body

    def _deviations(self, kind: Kind) -> Sequence[Any]:
        """Values that RunPod changed or ignored, for example because of an account's limit."""
        if kind == "volume":
            return ()
        volumes = [str(self.objects["volume"]["id"])] if self._manifest.volume else []
        manifest = self._manifest
        wanted = wanted_template(manifest) if kind == "template" else wanted_endpoint(manifest, volumes)
        return tuple(changes(wanted, self.objects[kind], manifest.env))


def _progress(done: Sequence[str]) -> str:
    if not done:
        return "Nothing was changed before that."
    return "Done before that, and kept: " + "; ".join(done) + ". The same command continues from there."
