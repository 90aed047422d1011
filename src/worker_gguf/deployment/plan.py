"""Plans the changes from RunPod's objects to the wanted ones, and describes them. Sends no requests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from worker_gguf.deployment.differences import Change, changes, patch
from worker_gguf.deployment.existing import Existing, Kind
from worker_gguf.deployment.manifest import Manifest, Volume
from worker_gguf.deployment.redactor import MASK
from worker_gguf.deployment.variables import is_shown, notes_on
from worker_gguf.deployment.wanted import Body, container_body, endpoint_body, template_body, volume_body
from worker_gguf.errors import DeploymentError

__all__ = ["NEW_VOLUME", "Action", "Plan", "Verb", "describe", "make_plan", "wanted_endpoint", "wanted_template"]

Verb = Literal["create", "update", "keep", "replace"]

NEW_VOLUME: Final = "(the new volume)"
"""A placeholder in a body for the id of a volume that is not created yet."""
_ONLY_ON_CREATE: Final = frozenset({"type", "name"})
_SIGNS: Final[dict[Verb, str]] = {"create": "+", "update": "~", "keep": "=", "replace": "!"}
_LONGEST: Final = 160


@dataclass(frozen=True, slots=True)
class Action:
    """One step of a plan. `id` is None for a new object. `body` is sent and contains secrets; other fields do not."""

    verb: Verb
    kind: Kind
    name: str
    id: str | None
    reason: str
    changes: tuple[Change, ...] = ()
    body: Body = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """The actions in the order of their execution."""

    actions: tuple[Action, ...]

    @property
    def changes_nothing(self) -> bool:
        return all(action.verb == "keep" for action in self.actions)

    @property
    def replaces(self) -> bool:
        return any(action.verb == "replace" for action in self.actions)


def make_plan(manifest: Manifest, existing: Existing) -> Plan:
    """Plan the changes. Raises DeploymentError if RunPod cannot make a change and a replacement would lose data."""
    volume = [_volume(manifest.volume, existing.volume)] if manifest.volume else []
    return Plan((*volume, _template(manifest, existing.template), _endpoint(manifest, existing)))


def wanted_template(manifest: Manifest) -> Body:
    """Return the template keys that are updated from the manifest. Other keys are only set when it is created."""
    return {**container_body(manifest), "category": template_body(manifest)["category"]}


def wanted_endpoint(manifest: Manifest, volume_ids: list[str]) -> Body:
    """Return the endpoint keys that are updated from the manifest."""
    body = endpoint_body(manifest, volume_ids)
    return {**container_body(manifest), **{key: value for key, value in body.items() if key not in _ONLY_ON_CREATE}}


def describe(plan: Plan, manifest: Manifest) -> Iterator[str]:
    """Yield the plan as lines of text, without secrets."""
    for action in plan.actions:
        id_ = f" ({action.id})" if action.id else ""
        yield f"{_SIGNS[action.verb]} {action.verb:7} {action.kind:8} {action.name}{id_}: {action.reason}"
        if action.kind == "template" and action.verb == "create":
            yield f"    image: {manifest.image}"
            for name, value in manifest.env.items():
                yield f"    env.{name}: {_line(value.text) if is_shown(name, value) else MASK}"
        for change in action.changes:
            before, after = _line(change.before), _line(change.after)
            if change.before == change.after:
                yield f"    {change.key}: {after} (another value)"
            elif after:
                yield f"    {change.key}: {before or 'nothing'} -> {after}"
            else:
                yield f"    {change.key}: {before} removed"
    yield from (f"note: {note}" for note in notes_on(manifest))


def _line(text: str) -> str:
    """Return a value as one line. A long one, for example a chat template, is cut off."""
    short = " ".join(text.split())
    return short if len(short) <= _LONGEST else f"{short[:_LONGEST]}..."


def _volume(volume: Volume, found: Body | None) -> Action:
    reason = f"{volume.size_gb} GB in {volume.data_center}, billed until it is destroyed"
    if found is None:
        return Action("create", "volume", volume.name, None, reason, body=volume_body(volume))
    place, size_gb = found.get("dataCenter"), int(found.get("size", 0))
    problem = None
    if place != volume.data_center:
        problem = f"is in {place} and cannot be moved to {volume.data_center}. Use data_center: {place}"
    elif volume.tier and found.get("type", volume.tier.upper()) != volume.tier.upper():
        problem = f"has the tier {str(found['type']).lower()}, which cannot be changed. Remove volume.tier"
    elif size_gb > volume.size_gb:
        problem = f"has {size_gb} GB, and RunPod cannot shrink it to {volume.size_gb} GB. Use size_gb: {size_gb}"
    if problem:
        raise DeploymentError(
            f"The volume {volume.name!r} {problem}, or choose another name for it; the model is then downloaded again."
        )
    if size_gb == volume.size_gb:
        return _kept("volume", found)
    change = Change("size", f"{size_gb} GB", f"{volume.size_gb} GB")
    return Action("update", "volume", volume.name, str(found["id"]), reason, (change,), {"size": volume.size_gb})


def _template(manifest: Manifest, found: Body | None) -> Action:
    if found is None:
        reason = "image, disk and variables for a new endpoint"
        return Action("create", "template", manifest.name, None, reason, body=template_body(manifest))
    if not found.get("serverless", True):
        raise DeploymentError(
            f"The template {manifest.name!r} ({found.get('id')}) is for Pods. Choose another name in deploy.yaml."
        )
    return _updated("template", manifest, wanted_template(manifest), found)


def _endpoint(manifest: Manifest, existing: Existing) -> Action:
    volume_ids = [] if manifest.volume is None else [str(existing.volume["id"]) if existing.volume else NEW_VOLUME]
    body, found = endpoint_body(manifest, volume_ids), existing.endpoint
    if found is None:
        return Action("create", "endpoint", manifest.name, None, _size(manifest), body=body)
    if reason := _reason_to_replace(body, found):
        return Action("replace", "endpoint", manifest.name, str(found["id"]), reason, body=body)
    return _updated("endpoint", manifest, wanted_endpoint(manifest, volume_ids), found)


def _reason_to_replace(body: Body, found: Body) -> str | None:
    """Return why the endpoint must be replaced, or None. An update cannot change its type or move it to GPU or CPU."""
    if (kind := found.get("type", "QUEUE")) != body["type"]:
        return f"its type cannot be changed: {kind} to {body['type']}"
    is_on_cpu = bool(found.get("cpu"))
    if is_on_cpu != ("cpu" in body):
        return f"it cannot be moved: {'CPU to GPU' if is_on_cpu else 'GPU to CPU'}"
    return None


def _updated(kind: Kind, manifest: Manifest, wanted: Body, found: Body) -> Action:
    body = patch(wanted, found)
    if not body:
        return _kept(kind, found)
    lines = tuple(changes(wanted, found, manifest.env))
    reason = "1 difference" if len(lines) == 1 else f"{len(lines)} differences"
    return Action("update", kind, manifest.name, str(found["id"]), reason, lines, body)


def _kept(kind: Kind, found: Body) -> Action:
    return Action("keep", kind, str(found.get("name")), str(found["id"]), "up to date")


def _size(manifest: Manifest) -> str:
    place = " or ".join(f"{cpu.flavor} with {cpu.vcpus} vCPUs" for cpu in manifest.cpu)
    if manifest.gpu:
        place = f"{manifest.gpu.count} GPU from {' or '.join(manifest.gpu.pools)}"
    return f"{manifest.mode}, {manifest.workers.min} to {manifest.workers.max} workers, each with {place}"
