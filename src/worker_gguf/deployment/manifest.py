"""The wishes of one deploy.yaml, as frozen values. Knows nothing of YAML, of RunPod's field names or of HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Cpu", "EnvValue", "FlashBoot", "Gpu", "Manifest", "Mode", "Names", "Scaling", "Volume", "Workers"]

Mode = Literal["queue", "load_balanced"]
FlashBoot = Literal["off", "on", "priority"]


@dataclass(frozen=True, slots=True)
class EnvValue:
    """A variable of the worker. A secret's text goes to RunPod and nowhere else: into no repr, plan or error."""

    text: str = field(repr=False)
    is_secret: bool


@dataclass(frozen=True, slots=True)
class Volume:
    name: str
    size_gb: int
    data_center: str
    tier: Literal["standard", "high_performance"] | None
    """None takes the data centre's first size."""


@dataclass(frozen=True, slots=True)
class Gpu:
    pools: tuple[str, ...]
    excluded_types: tuple[str, ...] = ()
    count: int = 1
    cuda_versions: tuple[str, ...] = ()
    min_cuda: str | None = None


@dataclass(frozen=True, slots=True)
class Cpu:
    flavor: str
    vcpus: int


@dataclass(frozen=True, slots=True)
class Workers:
    min: int
    max: int
    idle_timeout_s: int | None
    """None where RunPod takes none: a queue that scales by requests."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """One more worker when a request waited `queue_delay_s`, or for each `requests_per_worker`: one of both is set."""

    queue_delay_s: float | None
    requests_per_worker: int | None


@dataclass(frozen=True, slots=True)
class Names:
    """The names by which a deployment's objects are found. The endpoint and its template share the first."""

    deployment: str
    volume: str | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """Exactly one of `gpu` and `cpus` is given. `data_centers` None: RunPod chooses, and its choice is left alone."""

    name: str
    mode: Mode
    image: str
    env: dict[str, EnvValue]
    gpu: Gpu | None
    cpus: tuple[Cpu, ...]
    workers: Workers
    scaling: Scaling
    timeout_s: int
    flashboot: FlashBoot
    disk_gb: int
    args: str
    ports: tuple[str, ...]
    registry: str | None
    volume: Volume | None
    data_centers: tuple[str, ...] | None
    notes: tuple[str, ...]
    """Hints for the plan: values that are passed on unchanged, or that may surprise."""

    @property
    def names(self) -> Names:
        return Names(self.name, self.volume.name if self.volume else None)
