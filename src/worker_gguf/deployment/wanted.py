"""A Manifest in the words of RunPod's API, version 2: the three objects as they are to be. Compares nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from worker_gguf.deployment.manifest import Gpu, Manifest, Volume

__all__ = ["Body", "container_body", "endpoint_body", "template_body", "volume_body"]

Body = Mapping[str, Any]

_TYPES: Final = {"queue": "QUEUE", "load_balanced": "LOAD_BALANCER"}
_FLASHBOOT: Final = {"off": "OFF", "on": "FLASHBOOT", "priority": "PRIORITY_FLASHBOOT"}


def volume_body(volume: Volume) -> Body:
    tier = {"type": volume.tier.upper()} if volume.tier else {}
    return {"name": volume.name, "size": volume.size_gb, "dataCenter": volume.data_center, **tier}


def container_body(manifest: Manifest) -> Body:
    """The fields that the template and the endpoint share. None is left to a default that RunPod may change."""
    return {
        "image": manifest.image,
        "args": manifest.args,
        "disk": manifest.disk_gb,
        "ports": list(manifest.ports),
        "registry": manifest.registry,
        "env": {name: value.text for name, value in manifest.env.items()},
    }


def template_body(manifest: Manifest) -> Body:
    return {
        "name": manifest.name,
        **container_body(manifest),
        "serverless": True,
        "public": False,
        "category": "NVIDIA" if manifest.gpu else "CPU",
        "startSsh": False,
        "startJupyter": False,
    }


def endpoint_body(manifest: Manifest, volume_ids: list[str]) -> Body:
    """The fields of the endpoint besides its container."""
    workers: dict[str, int] = {"min": manifest.workers.min, "max": manifest.workers.max}
    if manifest.workers.idle_timeout_s is not None:
        workers["idleTimeout"] = manifest.workers.idle_timeout_s
    centers = {} if manifest.data_centers is None else {"dataCenterIds": list(manifest.data_centers)}
    return {
        "name": manifest.name,
        "type": _TYPES[manifest.mode],
        **({"gpu": _gpu(manifest.gpu)} if manifest.gpu else {"cpu": _cpus(manifest)}),
        "workers": workers,
        "scaling": _scaling(manifest),
        **centers,
        "networkVolumes": volume_ids,
        "timeout": manifest.timeout_s * 1000,
        "flashboot": _FLASHBOOT[manifest.flashboot],
    }


def _gpu(gpu: Gpu) -> Body:
    # An empty set means no constraint and may accompany a minimum; on create, no minimum is a missing key.
    floor = {"minCudaVersion": gpu.min_cuda} if gpu.min_cuda else {}
    return {
        "pools": list(gpu.pools),
        "excludedTypes": list(gpu.excluded_types),
        "count": gpu.count,
        "allowedCudaVersions": list(gpu.cuda_versions),
        **floor,
    }


def _cpus(manifest: Manifest) -> list[Body]:
    return [{"id": cpu.flavor, "vcpuCount": cpu.vcpus} for cpu in manifest.cpus]


def _scaling(manifest: Manifest) -> Body:
    if manifest.scaling.requests_per_worker is not None:
        return {"type": "REQUEST_COUNT", "requestCount": manifest.scaling.requests_per_worker}
    return {"type": "QUEUE_DELAY", "queueDelay": manifest.scaling.queue_delay_s}
