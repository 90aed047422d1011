"""What is opened beside a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from worker_gguf.start.adapters import Adapters

if TYPE_CHECKING:
    from worker_gguf.start.draft import DraftModel
    from worker_gguf.start.projector import ProjectorModel
    from worker_gguf.store import OriginalTokenizer

__all__ = ["Companions"]


class Companions(Struct, frozen=True):
    """`original` has special tokens that replace those of the model's file. `draft` guesses for the model, `adapters`
    change its answers, and `projector` sees for it.
    """

    original: OriginalTokenizer | None = None
    draft: DraftModel | None = None
    adapters: Adapters = Adapters()
    projector: ProjectorModel | None = None
