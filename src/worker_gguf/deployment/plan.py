"""The steps that bring RunPod to the manifest, as a value made from both. Reads nothing and does nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from worker_gguf.deployment.differences import Change, changes, patch
from worker_gguf.deployment.existing import Existing, Kind
from worker_gguf.deployment.manifest import Manifest, Volume
from worker_gguf.deployment.wanted import Body, container_body, endpoint_body, template_body, volume_body
from worker_gguf.errors import DeploymentError

__all__ = ["NEW_VOLUME", "Action", "Plan", "Verb", "make_plan", "wanted_endpoint", "wanted_template"]

Verb = Literal["create", "update", "keep", "replace"]

NEW_VOLUME: Final = "(the new volume)"
"""Stands in a body for the id of a volume that is yet to be made."""
_ONLY_ON_CREATE: Final = frozenset({"type", "name"})


@dataclass(frozen=True, slots=True)
class Action:
    """`body` is sent, secrets included; everything else may be shown. `id` is None for a new object."""

    verb: Verb
    kind: Kind
    name: str
    id: str | None
    reason: str
    changes: tuple[Change, ...] = ()
    body: Body = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """In the order in which they are carried out."""

    actions: tuple[Action, ...]

    @property
    def changes_nothing(self) -> bool:
        return all(action.verb == "keep" for action in self.actions)

    @property
    def replaces(self) -> bool:
        return any(action.verb == "replace" for action in self.actions)


def make_plan(manifest: Manifest, existing: Existing) -> Plan:
    """Raise DeploymentError where RunPod cannot change what differs and making it anew would lose data."""
    volume = [_volume(manifest.volume, existing.volume)] if manifest.volume else []
    return Plan((*volume, _template(manifest, existing.template), _endpoint(manifest, existing)))


def wanted_template(manifest: Manifest) -> Body:
    """The part of a template that follows the manifest; the other fields count only when it is created."""
    return {**container_body(manifest), "category": template_body(manifest)["category"]}


def wanted_endpoint(manifest: Manifest, volume_ids: list[str]) -> Body:
    body = endpoint_body(manifest, volume_ids)
    return {**container_body(manifest), **{key: value for key, value in body.items() if key not in _ONLY_ON_CREATE}}


def _volume(volume: Volume, found: Body | None) -> Action:
    where = f"{volume.size_gb} GB in {volume.data_center}, billed until it is destroyed"
    if found is None:
        return Action("create", "volume", volume.name, None, where, body=volume_body(volume))
    place, size_gb = found.get("dataCenter"), int(found.get("size", 0))
    if place != volume.data_center:
        raise DeploymentError(
            f"The volume {volume.name!r} is in {place} and cannot be moved to {volume.data_center}. Write data_center: "
            f"{place}, or give the volume another name and its model is fetched again."
        )
    if volume.tier and found.get("type", volume.tier.upper()) != volume.tier.upper():
        raise DeploymentError(
            f"The volume {volume.name!r} is {str(found['type']).lower()} and its tier cannot be changed. Remove "
            "volume.tier, or give the volume another name."
        )
    if size_gb > volume.size_gb:
        raise DeploymentError(
            f"The volume {volume.name!r} has {size_gb} GB and RunPod cannot shrink it to {volume.size_gb} GB. Write "
            f"size_gb: {size_gb}, or give the volume another name."
        )
    if size_gb == volume.size_gb:
        return _kept("volume", found)
    change = Change("size", f"{size_gb} GB", f"{volume.size_gb} GB")
    return Action("update", "volume", volume.name, _id(found), where, (change,), {"size": volume.size_gb})


def _template(manifest: Manifest, found: Body | None) -> Action:
    if found is None:
        reason = "image, disk and variables, as a new endpoint takes them"
        return Action("create", "template", manifest.name, None, reason, body=template_body(manifest))
    if not found.get("serverless", True):
        raise DeploymentError(
            f"The template {manifest.name!r} ({found.get('id')}) is one for Pods. Choose another name in deploy.yaml."
        )
    return _updated("template", manifest, wanted_template(manifest), found)


def _endpoint(manifest: Manifest, existing: Existing) -> Action:
    volume_ids = [] if manifest.volume is None else [_id(existing.volume) if existing.volume else NEW_VOLUME]
    body, found = endpoint_body(manifest, volume_ids), existing.endpoint
    if found is None:
        return Action("create", "endpoint", manifest.name, None, _size(manifest), body=body)
    if reason := _cannot_stay(body, found):
        return Action("replace", "endpoint", manifest.name, _id(found), reason, body=body)
    return _updated("endpoint", manifest, wanted_endpoint(manifest, volume_ids), found)


def _cannot_stay(body: Body, found: Body) -> str | None:
    """Return why the endpoint must be created again: the changes that an update does not accept."""
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
    return Action("update", kind, manifest.name, _id(found), reason, lines, body)


def _kept(kind: Kind, found: Body) -> Action:
    return Action("keep", kind, str(found.get("name")), _id(found), "as it should be")


def _size(manifest: Manifest) -> str:
    if manifest.gpu:
        place = f"{manifest.gpu.count} GPU of {' or '.join(manifest.gpu.pools)}"
    else:
        place = " or ".join(f"{cpu.flavor} with {cpu.vcpus} vCPUs" for cpu in manifest.cpus)
    workers = manifest.workers
    return f"{manifest.mode}, {workers.min} to {workers.max} workers, each {place}"


def _id(found: Body) -> str:
    return str(found["id"])
