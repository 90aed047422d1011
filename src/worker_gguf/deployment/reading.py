"""Reads deploy.yaml into a Manifest. A fault is a ManifestError that names the key. Makes no request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from worker_gguf.deployment.document import parse
from worker_gguf.deployment.manifest import (
    Cpu,
    EnvValue,
    FlashBoot,
    Gpu,
    Manifest,
    Mode,
    Names,
    Scaling,
    Volume,
    Workers,
)
from worker_gguf.deployment.section import Section
from worker_gguf.deployment.variables import notes_on, read_env
from worker_gguf.errors import ManifestError

__all__ = ["read_manifest", "read_names"]

# RunPod's names and defaults of its API's version 2, its limits where the description has them.
_IDLE_TIMEOUT_S: Final = 10
_TIMEOUT_S: Final = 600
_QUEUE_DELAY_S: Final = 4.0
_REQUESTS: Final = 4
_DISK_GB: Final = 20
_HTTP_PORT: Final = "80"
_MOST_WORKERS: Final = 1000

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,99}")
_IMAGE: Final = re.compile(r"[A-Za-z0-9][\w.:/@-]*")
_PLACEHOLDER: Final = re.compile(r"\b(OWNER|VERSION)\b")
_CUDA: Final = re.compile(r"\d+\.\d+")
_PORT: Final = re.compile(r"\d{1,5}/(http|tcp)")

# Names of RunPod's API, its SDK and console, and what stands for them here.
_ELSEWHERE: Final = {
    "type": "write mode: queue or mode: load_balanced.",
    "gpuTypeIds": "RunPod's API takes pools: write gpu.pools, and gpu.excluded_types for cards you do not want.",
    "gpuIds": "write gpu.pools.",
    "gpuCount": "write gpu.count.",
    "gpus": "write gpu.",
    "cpus": "write cpu.",
    "computeType": "write gpu or cpu.",
    "cpuFlavorIds": "write cpu.",
    "allowedCudaVersions": "write gpu.cuda_versions.",
    "minCudaVersion": "write gpu.min_cuda.",
    "workersMin": "write workers.min.",
    "workersMax": "write workers.max.",
    "idleTimeout": "write workers.idle_timeout_s.",
    "scalerType": "write scaling.queue_delay_s or scaling.requests_per_worker.",
    "scalerValue": "write scaling.queue_delay_s or scaling.requests_per_worker.",
    "executionTimeoutMs": "write timeout_s.",
    "networkVolumeId": "write volume; it is found by its name.",
    "networkVolumes": "write volume; it is found by its name.",
    "dataCenterIds": "write data_centers.",
    "templateId": "the template is made from this file.",
    "containerDiskInGb": "write container_disk_gb.",
    "imageName": "write image.",
    "dockerStartCmd": "write args.",
    "cached_model": "RunPod's API does not offer it. Set the cached model in the console, or use a volume.",
    "modelName": "RunPod's API does not offer cached models. Set it in the console, or write model.",
}


def read_manifest(path: Path, environ: Mapping[str, str], *, image: str | None = None) -> Manifest:
    """Read the file; `environ` is environment.given(), where ${NAME} is looked up; `image` wins over the file's."""
    top = _open(path)
    manifest = _manifest(top, environ, image)
    top.close(_ELSEWHERE)
    return manifest


def read_names(path: Path) -> Names:
    """Return the names of the deployment's objects, for a removal, which needs no secret and no image."""
    top = _open(path)
    volume = top.section("volume")
    return Names(top.need("name", "the endpoint is found by it."), volume.need("name", "") if volume else None)


def _open(path: Path) -> Section:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ManifestError(
            f"{path} cannot be read: {said}. Name the file, or begin with a copy of deploy/deploy.yaml."
        ) from None
    return Section(path.name, "", parse(text, path.name))


def _manifest(top: Section, environ: Mapping[str, str], image: str | None) -> Manifest:
    name = top.need("name", "the endpoint and its template are found by it.")
    if not _NAME.fullmatch(name) or name.endswith("-fb"):
        # RunPod's console used to add -fb to the names of endpoints with FlashBoot.
        raise top.fault("name", "must be 1 to 100 letters, digits, spaces, dots, - and _, and may not end with -fb.")
    mode = _mode(top)
    env = read_env(top, mode, environ)
    volume = _volume(top)
    gpu, cpus = _compute(top)
    scaling = _scaling(top, mode)
    made = Manifest(
        name=name,
        mode=mode,
        image=_image(top, image),
        env=env,
        gpu=gpu,
        cpus=cpus,
        workers=_workers(top, mode, scaling),
        scaling=scaling,
        timeout_s=_or(top.whole("timeout_s", 5, 7 * 86_400), _TIMEOUT_S),
        flashboot=_flashboot(top),
        disk_gb=_or(top.whole("container_disk_gb", 1, 4096), _DISK_GB),
        args=top.text("args") or "",
        ports=_ports(top, mode, env),
        registry=top.text("registry"),
        volume=volume,
        data_centers=_data_centers(top, volume),
        notes=(),
    )
    return replace(made, notes=tuple(notes_on(env, mode)))


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _mode(top: Section) -> Mode:
    word = top.word("mode", ("queue", "load_balanced"))
    return "load_balanced" if word == "load_balanced" else "queue"


def _flashboot(top: Section) -> FlashBoot:
    word = top.word("flashboot", ("off", "on", "priority")) or "on"
    return "off" if word == "off" else "priority" if word == "priority" else "on"


def _image(top: Section, given: str | None) -> str:
    image = given or top.need("image", "the worker's image with its tag, such as ghcr.io/you/worker-gguf:0.1.0-cu118.")
    top.raw("image")
    if not _IMAGE.fullmatch(image):
        raise top.fault("image", f"is not the name of an image: {image!r}.")
    if found := _PLACEHOLDER.search(image):
        raise top.fault("image", f"still has the example's {found[0]}. Put your own in its place.")
    return image


def _compute(top: Section) -> tuple[Gpu | None, tuple[Cpu, ...]]:
    gpu, cpus = top.section("gpu"), top.sections("cpu")
    if (gpu is None) == (not cpus):
        raise top.fault("gpu", "and cpu: write one of them, and not both.")
    if gpu is not None:
        return _gpu(gpu), ()
    found = []
    for section in cpus:
        found.append(Cpu(section.need("flavor", "such as cpu5c."), _or(section.whole("vcpus", 2, 256), 2)))
        section.close()
        if found[-1].vcpus & (found[-1].vcpus - 1):
            raise section.fault("vcpus", "must be a power of two.")
    if len(set(found)) < len(found):
        raise top.fault("cpu", "names the same flavor and vcpus twice. Remove one.")
    return None, tuple(found)


def _gpu(section: Section) -> Gpu:
    pools = section.words("pools")
    if not pools:
        raise section.fault("pools", "is missing: the pools whose cards will do, such as [AMPERE_24, ADA_24].")
    versions, least = section.words("cuda_versions") or (), section.text("min_cuda")
    excluded = section.words("excluded_types") or ()
    count = _or(section.whole("count", 1, 8), 1)
    section.close({"types": "write pools, and excluded_types for cards you do not want.", **_ELSEWHERE})
    for version in (*versions, *([least] if least else [])):
        if not _CUDA.fullmatch(version):
            raise section.fault("cuda_versions", f"or min_cuda: {version!r} is not a version such as 12.4.")
    if versions and least:
        raise section.fault("min_cuda", "and cuda_versions exclude each other. Remove one.")
    if bad := next((name for name in excluded if name.startswith("-")), None):
        raise section.fault("excluded_types", f"has {bad!r}: write the card's name without the leading -.")
    return Gpu(pools, excluded, count, versions, least)


def _scaling(top: Section, mode: Mode) -> Scaling:
    section = top.section("scaling")
    if section is None:
        return Scaling(_QUEUE_DELAY_S, None) if mode == "queue" else Scaling(None, _REQUESTS)
    delay_s, requests = section.number("queue_delay_s", 0.5), section.whole("requests_per_worker", 1, 100_000)
    section.close(_ELSEWHERE)
    if (delay_s is None) == (requests is None):
        raise top.fault("scaling", "takes one of queue_delay_s and requests_per_worker.")
    if delay_s is not None and mode == "load_balanced":
        raise section.fault("queue_delay_s", "needs a queue. Write requests_per_worker for a load_balanced endpoint.")
    return Scaling(delay_s, requests)


def _workers(top: Section, mode: Mode, scaling: Scaling) -> Workers:
    section = top.section("workers") or Section(top.title, "workers", {})
    least, most = section.whole("min", 0, _MOST_WORKERS), section.whole("max", 1, _MOST_WORKERS)
    idle_s = section.whole("idle_timeout_s", 1, 3600)
    section.close(_ELSEWHERE)
    made = Workers(_or(least, 0), _or(most, max(3, _or(least, 0))), idle_s)
    if made.min > made.max:
        raise section.fault("min", f"is {made.min} and max is {made.max}. Raise max.")
    if mode == "queue" and scaling.requests_per_worker:
        if idle_s is not None:
            raise section.fault(
                "idle_timeout_s", "is not taken by RunPod for a queue with requests_per_worker. Use queue_delay_s."
            )
        return made
    return replace(made, idle_timeout_s=_or(idle_s, _IDLE_TIMEOUT_S))


def _ports(top: Section, mode: Mode, env: Mapping[str, EnvValue]) -> tuple[str, ...]:
    """A load balancer reaches the ports that are exposed: PORT, and PORT_HEALTH where it is another."""
    ports = top.words("ports")
    if ports is None:
        if mode == "queue":
            return ()
        port = _port(top, env, "PORT") or _HTTP_PORT
        return tuple(dict.fromkeys((f"{port}/http", f"{_port(top, env, 'PORT_HEALTH') or port}/http")))
    for port in ports:
        if not _PORT.fullmatch(port):
            raise top.fault("ports", f"has {port!r}: write for example 8000/http.")
    return ports


def _port(top: Section, env: Mapping[str, EnvValue], name: str) -> str | None:
    value = next((value for known, value in env.items() if known.upper() == name), None)
    if value is not None and value.is_secret:
        raise top.fault(f"env.{name}", "decides what is exposed and cannot be a reference. Write the number.")
    return value.text if value else None


def _volume(top: Section) -> Volume | None:
    section = top.section("volume")
    if section is None:
        return None
    size_gb = section.whole("size_gb", 10, 4096)
    if size_gb is None:
        raise section.fault("size_gb", "is missing: room for the model, in GB.")
    name = section.need("name", "the volume is found by it.")
    data_center = section.need("data_center", "where the volume lies, such as EU-RO-1. The workers run there, too.")
    tier = section.word("tier", ("standard", "high_performance"))
    section.close()
    kind: Literal["standard", "high_performance"] | None = None
    if tier is not None:
        kind = "standard" if tier == "standard" else "high_performance"
    return Volume(name, size_gb, data_center, kind)


def _data_centers(top: Section, volume: Volume | None) -> tuple[str, ...] | None:
    centers = top.words("data_centers")
    if volume is None:
        return centers
    if centers and set(centers) != {volume.data_center}:
        raise top.fault("data_centers", f"must be [{volume.data_center}], where the volume is. Remove the line.")
    return (volume.data_center,)
