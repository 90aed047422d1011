"""The machine that a model runs on, as its engine process reports it."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Device", "Machine"]


class Device(Struct, frozen=True):
    """A GPU and its memory in bytes.

    With `has_context`, the process that will load the model has opened its context already, so that `free_bytes` is
    without it. Reading the free memory opens it.
    """

    name: str
    free_bytes: int
    total_bytes: int
    has_context: bool = False


class Machine(Struct, frozen=True):
    """The cores that this process may use, the free bytes of main memory, and the GPUs that llama.cpp can use."""

    n_cores: int
    free_bytes: int
    gpus: tuple[Device, ...] = ()
