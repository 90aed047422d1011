"""The draft model of a start: its files, and the messages that load it and open its context."""

from __future__ import annotations

import os
from dataclasses import dataclass

from worker_gguf.engine.params import ContextParams, ModelParams
from worker_gguf.errors import ModelInvalid
from worker_gguf.gguf import ModelHeader, abilities_of, read_headers
from worker_gguf.link.messages import LoadDraft
from worker_gguf.plan import DraftPlan, MemoryPlan
from worker_gguf.plan.planning import first_visible, repacks
from worker_gguf.settings import Settings
from worker_gguf.start.read_ahead import ReadAhead
from worker_gguf.store import LocalModel

__all__ = ["DraftModel", "draft_context"]


@dataclass(frozen=True, slots=True)
class DraftModel:
    """A draft model on disk. `ahead` reads it into the page cache, and has its files open."""

    local: LocalModel
    header: ModelHeader
    ahead: ReadAhead

    @classmethod
    def begin(cls, local: LocalModel, ahead: ReadAhead, target: LocalModel) -> DraftModel:
        """Begin to read the files. Raises ModelInvalid if the model cannot generate text."""
        ahead.follow(local)
        header = read_headers(local.paths, ahead.files())
        if not abilities_of(header).generates:
            raise ModelInvalid(
                f"{local.path.name} cannot draft for {target.path.name}: it does not generate text. Unset DRAFT_MODEL."
            )
        return cls(local, header, ahead)

    def fd(self) -> int | None:
        """Return the descriptor from which to load the model, or None if it must be loaded by its path."""
        return self.ahead.fd(self.header.data_offset)

    def command(self, settings: Settings, plan: DraftPlan, *, has_file: bool) -> LoadDraft:
        """Return the message that loads the model."""
        params = ModelParams(
            n_gpu_layers=0 if plan.gpu is None else -1,
            load_mode=settings.load_mode,
            split_mode="layer" if plan.gpu is None else "none",
            main_gpu=0 if plan.gpu is None else first_visible(settings) + plan.gpu,
            repack=repacks(settings, os.uname().machine),
        )
        return LoadDraft(path=str(self.local.path), params=params, has_file=has_file)


def draft_context(settings: Settings, plan: MemoryPlan) -> ContextParams | None:
    """Return the parameters of the draft model's context, which has a sequence for each one of the served model."""
    draft = plan.draft
    if draft is None:
        return None
    n_ctx = min(draft.n_ctx, plan.n_ctx)
    return ContextParams(
        n_ctx=n_ctx,
        n_parallel=plan.n_parallel,
        n_cells=n_ctx * plan.n_parallel,
        n_batch=draft.n_ubatch,
        n_ubatch=draft.n_ubatch,
        n_threads=plan.n_threads,
        n_threads_batch=plan.n_threads_batch,
        unified=plan.n_parallel == 1,
        flash_attn=settings.flash_attn,
        n_rows=plan.n_parallel,
    )
