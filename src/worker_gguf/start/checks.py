"""Decides from facts whether a worker that has just started is fit to serve. Pure functions.

A worker on the wrong machine often works, but ten times slower at the same price. So the settings are compared with the
result of the start. Each difference becomes a sentence that tells the user what to do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from worker_gguf.errors import Unfit

__all__ = ["Check", "FileFacts", "GpuFacts", "TokenFacts", "VectorFacts", "VolumeFacts", "refusal"]


class Check(Struct, frozen=True):
    """The result of one check. `reason` is the finding and, if the check failed, the next step for the user."""

    name: str
    ok: bool
    reason: str

    def as_dict(self) -> dict[str, object]:
        return {"name": self.name, "ok": self.ok, "reason": self.reason}


class GpuFacts(Struct, frozen=True):
    """The requested GPUs and the GPUs that are used.

    `backends` are the GPU backends of llama.cpp, even without a GPU. `n_seen` is the number of GPUs that llama.cpp
    sees, and `n_promised` the number that the platform states. `wanted` is N_GPU_LAYERS, and `planned` the number of
    layers in the plan; -1 means all. `offloaded` is the number of layers on GPUs and of all layers, from llama.cpp's
    log. If llama.cpp logged neither, GPU memory is compared: `taken_bytes` is the memory taken since the plan was made,
    and `planned_bytes` the memory in the plan.
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
            return Check("devices", True, "N_GPU_LAYERS=0: the model runs on the processor, as requested")
        if not self.backends:
            return self._processor_alone()
        built = " and ".join(self.backends)
        if not self.n_seen:
            return Check(
                "devices",
                False,
                f"llama.cpp is built for {built} but finds no GPU. Give the worker a GPU whose driver is new enough "
                "for this image, or set N_GPU_LAYERS=0 to run on the processor.",
            )
        if self.n_promised is not None and self.n_seen < self.n_promised:
            return Check(
                "devices",
                False,
                f"RUNPOD_GPU_COUNT={self.n_promised} but llama.cpp finds {self.n_seen} GPUs: the others are hidden "
                "(CUDA_VISIBLE_DEVICES) or broken. Unset CUDA_VISIBLE_DEVICES, or start another worker.",
            )
        return Check("devices", True, f"{self.n_seen} with {built}")

    def _processor_alone(self) -> Check:
        why = f"N_GPU_LAYERS={self.wanted}" if self.wanted else f"RUNPOD_GPU_COUNT={self.n_promised}"
        if not self.wanted and not self.n_promised:
            return Check("devices", True, "none: llama.cpp is built for the processor only")
        return Check(
            "devices",
            False,
            f"{why}, but this llama.cpp is built for the processor only: a GPU would cost money and stay idle. Use an "
            "image for GPUs, or set N_GPU_LAYERS=0 to run on the processor.",
        )

    def offload(self) -> Check:
        if self.wanted == 0 or not self.n_seen:
            return Check("offload", True, "none requested")
        if self.planned == 0:
            return Check(
                "offload",
                False,
                "No layer of the model fits on the GPU: it is too small, or other processes use its memory. Choose a "
                "larger GPU or a smaller quantisation, or set N_GPU_LAYERS=0 to run on the processor.",
            )
        if self.offloaded is None:
            return self._offload_by_memory()
        n, total = self.offloaded
        planned = total if self.planned < 0 else min(self.planned, total)
        if n < planned:
            return Check(
                "offload",
                False,
                f"llama.cpp put {n} of {total} layers on the GPU, but {planned} were planned. Its log has the reason. "
                "Start another worker, or set N_GPU_LAYERS to a number that fits.",
            )
        return Check("offload", True, f"{n} of {total} layers")

    def _offload_by_memory(self) -> Check:
        if self.taken_bytes * 2 < self.planned_bytes:
            planned, taken = self.planned_bytes >> 20, self.taken_bytes >> 20
            return Check(
                "offload",
                False,
                f"{planned} MiB of the model were planned for the GPU, but only {taken} MiB of its memory were taken. "
                "Start another worker, or set N_GPU_LAYERS=0 to run on the processor.",
            )
        return Check("offload", True, f"{self.taken_bytes >> 20} MiB of GPU memory taken")


class FileFacts(Struct, frozen=True):
    """One file of a model.

    `needed_bytes` is the end of its last tensor according to its header. `digest` is the result of comparing its
    SHA-256 with the one in the cache: `unasked` if this was not requested, `unknown` if the cache has none.
    """

    name: str
    size_bytes: int
    needed_bytes: int
    digest: Literal["unasked", "unknown", "right", "wrong"] = "unasked"


def model(files: Iterable[FileFacts], which: str = "model") -> Check:
    """Check the files of the model, the draft model, an adapter or the projector."""
    name, files = which.replace(" ", "_"), tuple(files)
    for file in files:
        if file.size_bytes < file.needed_bytes:
            why = f"has {file.size_bytes} bytes, but its header requires {file.needed_bytes}"
        elif file.digest == "wrong":
            why = "has a different SHA-256 than the cache records"
        else:
            continue
        reason = f"The {which}'s file {file.name} {why}. Delete it, and the next start fetches it again."
        return Check(name, False, reason)
    size_bytes = sum(file.size_bytes for file in files)
    findings = {
        "unasked": "as long as its header requires",
        "unknown": "as long as its header requires; the cache has no SHA-256 of it",
        "right": "SHA-256 as in the cache",
    }
    worst = next(kind for kind in ("unasked", "unknown", "right") if any(file.digest == kind for file in files))
    return Check(name, True, f"{size_bytes} bytes, {findings[worst]}")


class VolumeFacts(Struct, frozen=True):
    """The cache to which models are written. The check is public, so `place` must describe it without a path.

    `error` is the reason why it cannot be written, or None.
    """

    place: str
    error: str | None = None
    is_full: bool = False

    def check(self) -> Check:
        place = self.place[:1].upper() + self.place[1:]
        if self.error is None:
            return Check("volume", True, f"{self.place} can be written")
        if self.is_full:  # the worker can still serve, because its model is on disk
            return Check("volume", True, f"{self.place} is full ({self.error}): no other model can be fetched")
        return Check(
            "volume",
            False,
            f"{place} cannot be written ({self.error}). Mount the volume for writing, correct its permissions, or set "
            "MODEL_CACHE_DIR to another folder.",
        )


class TokenFacts(Struct, frozen=True):
    """The result of drawing the first token.

    `logprob` is its log-probability, which is not finite if a logit is not. It is None if no token could be drawn
    although none was banned. `error` is the message of a failed computation, or None.
    """

    logprob: float | None = None
    error: str | None = None

    def check(self) -> Check:
        if self.error is not None:
            message = f"{self.error} Start another worker. If this happens again, the file is damaged."
            return Check("token", False, message)
        if self.logprob is None or not math.isfinite(self.logprob):
            return Check(
                "token",
                False,
                "The model computes no finite numbers: the file, the GPU or this build is faulty. Verify the file with "
                "VERIFY_MODEL=sha256, try FLASH_ATTN=off, or start another worker.",
            )
        return Check("token", True, "one was generated")


class VectorFacts(Struct, frozen=True):
    """The result of making the first vector, for a model that pools, or its first scores if it `ranks`.

    `length` is its Euclidean length, which is not finite if one of its numbers is not. `error` is the message of a
    failed computation, or None.
    """

    length: float | None = None
    error: str | None = None
    ranks: bool = False

    def check(self) -> Check:
        if self.error is not None:
            message = f"{self.error} Start another worker. If this happens again, the file is damaged."
            return Check("vector", False, message)
        # A score may be 0. A vector of zeros has no direction, so it can be compared with no other.
        if self.length is None or not math.isfinite(self.length) or not (self.length or self.ranks):
            return Check(
                "vector",
                False,
                "The model computes no finite numbers, or only zeros: the file, the GPU or this build is faulty. "
                "Verify the file with VERIFY_MODEL=sha256, try FLASH_ATTN=off, or start another worker.",
            )
        return Check("vector", True, "one was computed")


def refusal(checks: Iterable[Check]) -> Unfit | None:
    """Return an error with the reasons of all failed checks, or None if none failed."""
    checks = tuple(checks)
    failed = [check.reason for check in checks if not check.ok]
    return Unfit.of(" ".join(failed), (check.as_dict() for check in checks)) if failed else None
