"""Translates a Manifest into the three objects of RunPod's API, version 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """Return the keys that the template and the endpoint share. All are sent, because RunPod's defaults may change."""
    return {
        "image": manifest.image,
        "args": manifest.args,
        "disk": manifest.container_disk_gb,
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


def endpoint_body(manifest: Manifest, volume_ids: Sequence[str]) -> Body:
    """Return the endpoint without the keys of its container."""
    workers, delay_s = manifest.workers, manifest.scaling.queue_delay_s
    idle = {} if manifest.idle_timeout_s is None else {"idleTimeout": manifest.idle_timeout_s}
    by_requests = {"type": "REQUEST_COUNT", "requestCount": manifest.scaling.requests_per_worker}
    cpus = [{"id": cpu.flavor, "vcpuCount": cpu.vcpus} for cpu in manifest.cpu]
    return {
        "name": manifest.name,
        "type": _TYPES[manifest.mode],
        **({"gpu": _gpu(manifest.gpu)} if manifest.gpu else {"cpu": cpus}),
        "workers": {"min": workers.min, "max": workers.max, **idle},
        "scaling": by_requests if delay_s is None else {"type": "QUEUE_DELAY", "queueDelay": delay_s},
        **({} if manifest.data_centers is None else {"dataCenterIds": list(manifest.data_centers)}),
        "networkVolumes": list(volume_ids),
        "timeout": manifest.timeout_s * 1000,
        "flashboot": _FLASHBOOT[manifest.flashboot],
    }


def _gpu(gpu: Gpu) -> Body:
    return {
        "pools": list(gpu.pools),
        "excludedTypes": list(gpu.excluded_types),
        "count": gpu.count,
        # An empty list is no constraint and can be sent with a minimum. Without a minimum, its key is left out.
        "allowedCudaVersions": list(gpu.cuda_versions),
        **({"minCudaVersion": gpu.min_cuda} if gpu.min_cuda else {}),
    }
