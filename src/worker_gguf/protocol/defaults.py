"""The defaults of requests, from the settings of the worker."""

from __future__ import annotations

from msgspec import Struct, field

from worker_gguf.engine.request import SamplingParams

__all__ = ["Defaults"]


class Defaults(Struct, frozen=True):
    """The defaults of requests. `strict` refuses parameters that would be ignored.

    With `spm_infill`, the text after a gap comes first in the prompt that fills it.
    """

    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None
    strict: bool = False
    spm_infill: bool = False
