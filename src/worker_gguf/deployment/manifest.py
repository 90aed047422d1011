"""The Pydantic models of deploy.yaml: its keys, their limits and defaults, and the rules between them.

Limits and defaults are from the description of version 2 of RunPod's API, if it has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

__all__ = ["Cpu", "EnvValue", "Gpu", "Manifest", "Mode", "Names", "Scaling", "Volume", "Workers"]

Mode = Literal["queue", "load_balanced"]

_IDLE_TIMEOUT_S: Final = 10
_PLACEHOLDER: Final = re.compile(r"\b(OWNER|VERSION)\b")


def _matches(pattern: str, expected: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must be {expected}, not {text!r}.")
        return text

    return AfterValidator(check)


def _no_repeats(items: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(items)) < len(items):
        raise ValueError("has the same entry twice. Remove one.")
    return items


Name = Annotated[
    str,
    # RunPod's console used to add -fb to the names of endpoints with FlashBoot.
    _matches(
        r"[A-Za-z0-9][A-Za-z0-9._ -]{0,99}(?<!-fb)",
        "1 to 100 letters, digits, spaces, dots, - and _, without -fb at the end",
    ),
]
Image = Annotated[str, _matches(r"[A-Za-z0-9][\w.:/@-]*", "the name of an image")]
Card = Annotated[str, _matches(r"[^-].*", "the name of a card without the leading -")]
CudaVersion = Annotated[str, _matches(r"\d+\.\d+", "a version such as 12.4")]
Port = Annotated[str, _matches(r"\d{1,5}/(http|tcp)", "a port such as 8000/http")]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, str_min_length=1)


@dataclass(frozen=True, slots=True)
class EnvValue:
    """A variable of the worker. The text of a secret is sent to RunPod and never shown."""

    text: str = field(repr=False)
    is_secret: bool


class Volume(_Group):
    name: str = Field(description="the volume is found by its name.")
    size_gb: int = Field(ge=10, le=4096, description="space for the model, in GB.")
    data_center: str = Field(description="the location of the volume and of the workers, such as EU-RO-1.")
    tier: Literal["standard", "high_performance"] | None = None


class Gpu(_Group):
    pools: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_no_repeats)] = Field(
        description="the pools of acceptable cards, such as [AMPERE_24, ADA_24]."
    )
    excluded_types: Annotated[tuple[Card, ...], AfterValidator(_no_repeats)] = ()
    count: int = Field(1, ge=1, le=8)
    cuda_versions: Annotated[tuple[CudaVersion, ...], AfterValidator(_no_repeats)] = ()
    min_cuda: CudaVersion | None = None

    @model_validator(mode="after")
    def _one_cuda_constraint(self) -> Self:
        if self.cuda_versions and self.min_cuda:
            raise ValueError("takes min_cuda or cuda_versions, not both. Remove one.")
        return self


class Cpu(_Group):
    flavor: str = Field(description="a flavor such as cpu5c.")
    vcpus: int = Field(2, ge=2, le=256)

    @field_validator("vcpus")
    @classmethod
    def _power_of_two(cls, vcpus: int) -> int:
        if vcpus & (vcpus - 1):
            raise ValueError("must be a power of two.")
        return vcpus


class Workers(_Group):
    min: int = Field(0, ge=0, le=1000)
    max: int = Field(default_factory=lambda values: max(3, values["min"]), ge=1, le=1000)
    idle_timeout_s: int | None = Field(None, ge=1, le=3600)

    @field_validator("max")
    @classmethod
    def _not_below_min(cls, most: int, info: ValidationInfo) -> int:
        if most < info.data.get("min", 0):
            raise ValueError(f"is {most}, less than workers.min, which is {info.data['min']}. Raise it.")
        return most


class Scaling(_Group):
    """Adds a worker when a request has waited for `queue_delay_s`, or for every `requests_per_worker` requests."""

    queue_delay_s: float | None = Field(None, ge=0.5, allow_inf_nan=False)
    requests_per_worker: int | None = Field(None, ge=1, le=100_000)

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if (self.queue_delay_s is None) == (self.requests_per_worker is None):
            raise ValueError("takes either queue_delay_s or requests_per_worker.")
        return self


class VolumeName(_Group, extra="ignore"):
    name: str


class Names(_Group, extra="ignore"):
    """The keys that `destroy` needs, which include no secrets. The endpoint and its template have the same name."""

    name: str
    volume: VolumeName | None = None


def _default_scaling(values: Mapping[str, Any]) -> Scaling:
    return Scaling(queue_delay_s=4.0) if values["mode"] == "queue" else Scaling(requests_per_worker=4)


def _default_ports(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the ports to expose to a load balancer: PORT, and PORT_HEALTH if it is different."""
    if values["mode"] == "queue":
        return ()
    texts = {name.upper(): value.text for name, value in values["env"].items()}
    port = texts.get("PORT", "80")
    return tuple(dict.fromkeys((f"{port}/http", f"{texts.get('PORT_HEALTH', port)}/http")))


class Manifest(_Group):
    name: Name = Field(description="the endpoint and its template are found by their name.")
    mode: Mode = "queue"
    image: Image = Field(description="the worker's image with its tag, such as ghcr.io/you/worker-gguf:0.1.0-cu118.")
    model: str | None = None
    env: dict[str, EnvValue] = Field(default_factory=dict)
    """Includes MODE and MODEL (variables.read_env)."""
    gpu: Gpu | None = None
    cpu: tuple[Cpu, ...] = ()
    workers: Workers = Workers()
    scaling: Scaling = Field(default_factory=_default_scaling)
    timeout_s: int = Field(600, ge=5, le=7 * 86_400)
    flashboot: Literal["off", "on", "priority"] = "on"
    container_disk_gb: int = Field(20, ge=1, le=4096)
    args: str = Field("", min_length=0)
    ports: Annotated[tuple[Port, ...], AfterValidator(_no_repeats)] = Field(default_factory=_default_ports)
    registry: str | None = None
    volume: Volume | None = None
    data_centers: Annotated[tuple[str, ...], AfterValidator(_no_repeats)] | None = Field(
        default_factory=lambda values: (values["volume"].data_center,) if values["volume"] else None
    )
    """If None, RunPod chooses, and its choice is kept."""

    @property
    def idle_timeout_s(self) -> int | None:
        """The idle timeout in seconds, or None for a queue that scales by requests, which supports none."""
        if self.mode == "queue" and self.scaling.requests_per_worker:
            return None
        return self.workers.idle_timeout_s or _IDLE_TIMEOUT_S

    @field_validator("image")
    @classmethod
    def _no_placeholder(cls, image: str) -> str:
        if found := _PLACEHOLDER.search(image):
            raise ValueError(f"still contains the example's {found[0]}. Replace it with your own.")
        return image

    @field_validator("cpu")
    @classmethod
    def _different_cpus(cls, cpus: tuple[Cpu, ...]) -> tuple[Cpu, ...]:
        if len(set(cpus)) < len(cpus):
            raise ValueError("has the same flavor and vcpus twice. Remove one.")
        return cpus

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.gpu is None) == (not self.cpu):
            raise ValueError("one of gpu and cpu is needed, and not both.")
        if self.mode == "load_balanced" and self.scaling.queue_delay_s is not None:
            raise ValueError("scaling.queue_delay_s needs a queue. Use requests_per_worker with a load balancer.")
        if self.idle_timeout_s is None and self.workers.idle_timeout_s is not None:
            raise ValueError(
                "workers.idle_timeout_s is not accepted by RunPod for a queue with requests_per_worker. Remove it, or "
                "use queue_delay_s."
            )
        if self.mode == "load_balanced" and "ports" not in self.model_fields_set:
            for name, value in self.env.items():
                if name.upper() in ("PORT", "PORT_HEALTH") and value.is_secret:
                    raise ValueError(f"env.{name} must be a number and not a reference: the port is exposed.")
        if self.volume and self.data_centers and set(self.data_centers) != {self.volume.data_center}:
            raise ValueError(
                f"data_centers must be [{self.volume.data_center}], the location of the volume. Remove the line."
            )
        return self
