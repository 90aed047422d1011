"""Judges whether a worker that has just started is fit to serve: facts in, checks out. It reads nothing itself.

A worker on the wrong machine often still serves, but ten times slower at the same price. So the settings are compared
with the result of the start, and each difference becomes a sentence with a next step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from worker_gguf.errors import Unfit

__all__ = ["Check", "FileFacts", "GpuFacts", "TokenFacts", "VolumeFacts", "refusal"]


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. `reason` is the finding and, unless the check is `ok`, the next step."""

    name: str
    ok: bool
    reason: str

    def as_dict(self) -> dict[str, object]:
        return {"name": self.name, "ok": self.ok, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """The GPUs as requested and as found.

    `backends` are the GPU backends of this build of llama.cpp. `n_promised` is the platform's number of GPUs. `wanted`
    is the value of N_GPU_LAYERS and `planned` that of the plan; -1 means all layers. `offloaded` is the number of
    layers on GPUs and of all layers, as llama.cpp logged them, or None. Then the memory of the GPUs is compared:
    `taken_bytes` were taken since the plan, which expected `planned_bytes`.
    """

    backends: tuple[str, ...]
    n_seen: int
    n_promised: int | None = None
    wanted: int | None = None
    planned: int = 0
    offloaded: tuple[int, int] | None = None
    taken_bytes: int = 0
    planned_bytes: int = 0

    def devices(self) -> Check:
        if self.wanted == 0:
            return Check("devices", True, "N_GPU_LAYERS=0: the model runs on the processor, as asked")
        if not self.backends:
            return self._processor_alone()
        built = " and ".join(self.backends)
        if not self.n_seen:
            return Check(
                "devices",
                False,
                f"llama.cpp is built for {built} and sees no GPU. Give the worker a GPU whose driver is new enough for "
                "this image, or set N_GPU_LAYERS=0 to run on the processor.",
            )
        if self.n_promised is not None and self.n_seen < self.n_promised:
            return Check(
                "devices",
                False,
                f"RUNPOD_GPU_COUNT={self.n_promised} and llama.cpp sees {self.n_seen}: the others are hidden "
                "(CUDA_VISIBLE_DEVICES) or broken. Unset what hides them, or start another worker.",
            )
        return Check("devices", True, f"{self.n_seen} by {built}")

    def _processor_alone(self) -> Check:
        why = f"N_GPU_LAYERS={self.wanted}" if self.wanted else f"RUNPOD_GPU_COUNT={self.n_promised}"
        if not self.wanted and not self.n_promised:
            return Check("devices", True, "none: llama.cpp is built for the processor alone")
        return Check(
            "devices",
            False,
            f"{why}, and this llama.cpp is built for the processor alone: a GPU would be paid for and idle. Use an "
            "image for GPUs, or set N_GPU_LAYERS=0 to run on the processor.",
        )

    def offload(self) -> Check:
        if self.wanted == 0 or not self.n_seen:
            return Check("offload", True, "none asked for")
        if self.planned == 0:
            return Check(
                "offload",
                False,
                "There is a GPU and not one layer of the model fits on it: it is too small, or its memory is taken. "
                "Choose a larger GPU or a smaller quantisation, or set N_GPU_LAYERS=0 to run on the processor.",
            )
        if self.offloaded is None:
            return self._offload_by_memory()
        n, total = self.offloaded
        planned = total if self.planned < 0 else min(self.planned, total)
        if n < planned:
            return Check(
                "offload",
                False,
                f"llama.cpp put {n} of {total} layers on the GPU where {planned} were planned. Its log has the reason; "
                "start another worker, or set N_GPU_LAYERS to what fits.",
            )
        return Check("offload", True, f"{n} of {total} layers")

    def _offload_by_memory(self) -> Check:
        if self.taken_bytes * 2 < self.planned_bytes:
            planned, taken = self.planned_bytes >> 20, self.taken_bytes >> 20
            return Check(
                "offload",
                False,
                f"{planned} MiB of the model were planned on the GPU and {taken} MiB of its memory were taken. "
                "Start another worker, or set N_GPU_LAYERS=0 to run on the processor.",
            )
        return Check("offload", True, f"{self.taken_bytes >> 20} MiB of GPU memory taken")


@dataclass(frozen=True, slots=True)
class FileFacts:
    """One file of the model.

    `needed_bytes` is the end of its last tensor according to its header. `digest` is the result of comparing its
    SHA-256 with the one in the cache, or None if that was not asked for or the cache has none.
    """

    name: str
    size_bytes: int
    needed_bytes: int
    digest: Literal["unasked", "unknown", "right", "wrong"] = "unasked"


def model(files: Iterable[FileFacts]) -> Check:
    files = tuple(files)
    for file in files:
        if file.size_bytes < file.needed_bytes:
            why = f"has {file.size_bytes} bytes, and by its own header {file.needed_bytes}"
        elif file.digest == "wrong":
            why = "has another SHA-256 than the cache records"
        else:
            continue
        return Check("model", False, f"{file.name} {why}: it is damaged. Delete it, and it is fetched again.")
    size_bytes = sum(file.size_bytes for file in files)
    said = {
        "unasked": "as long as its header requires",
        "unknown": "as long as its header requires; the cache has no SHA-256 of it",
        "right": "SHA-256 as in the cache",
    }
    worst = next(kind for kind in ("unasked", "unknown", "right") if any(file.digest == kind for file in files))
    return Check("model", True, f"{size_bytes} bytes, {said[worst]}")


@dataclass(frozen=True, slots=True)
class VolumeFacts:
    """The cache that models are written to. `place` describes it for the public, without a path. `error` is the reason
    why it could not be written, or None.
    """

    place: str
    error: str | None = None
    is_full: bool = False

    def check(self) -> Check:
        place = self.place[:1].upper() + self.place[1:]
        if self.error is None:
            return Check("volume", True, f"{self.place} can be written")
        if self.is_full:  # this model is on disk: a worker that cannot fetch another one can serve it
            return Check("volume", True, f"{self.place} is full ({self.error}): no other model can be fetched")
        return Check(
            "volume",
            False,
            f"{place} cannot be written ({self.error}). Mount the volume for writing, mend its rights, or set "
            "MODEL_CACHE_DIR to another folder.",
        )


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """The first token.

    `logprob` is its log-probability, which is not finite if a logit is not; it is None if no token could be drawn
    although none was banned. `error` is the reason why nothing was computed.
    """

    logprob: float | None = None
    error: str | None = None

    def check(self) -> Check:
        if self.error is not None:
            return Check("token", False, f"{self.error} Start another worker; if it stays, the file is faulty.")
        if self.logprob is None or not math.isfinite(self.logprob):
            return Check(
                "token",
                False,
                "The model computes no finite numbers: the file, the GPU or this build is faulty. Verify the file with "
                "VERIFY_MODEL=sha256, try FLASH_ATTN=off, or start another worker.",
            )
        return Check("token", True, "one was generated")


def refusal(checks: Iterable[Check]) -> Unfit | None:
    """Return the error of the checks that failed, or None."""
    checks = tuple(checks)
    failed = [check.reason for check in checks if not check.ok]
    return Unfit.of(" ".join(failed), (check.as_dict() for check in checks)) if failed else None
