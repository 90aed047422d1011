"""The projector of a start: its header, its wish in the plan, and the message that loads it."""

from __future__ import annotations

import logging

from msgspec import Struct

from worker_gguf.errors import ModelInvalid
from worker_gguf.gguf import ModelHeader, read_header
from worker_gguf.gguf.projector import projector_shape, why_not_for
from worker_gguf.link.messages import LoadProjector
from worker_gguf.plan import MemoryPlan, ProjectorWanted
from worker_gguf.plan.planning import first_visible, pools_for
from worker_gguf.plan.projector import why_no_images
from worker_gguf.settings import Settings
from worker_gguf.store import LocalModel

__all__ = ["ProjectorModel", "projector_for"]

logger = logging.getLogger(__name__)


class ProjectorModel(Struct, frozen=True):
    """A projector on disk that fits a model. It `is_required` if MMPROJ names it."""

    local: LocalModel
    header: ModelHeader
    is_required: bool

    @classmethod
    def of(cls, local: LocalModel, target: ModelHeader, *, is_required: bool) -> ProjectorModel | None:
        """Read the header. Returns None if it is not required and does not fit, with a warning; else ModelInvalid."""
        header = read_header(local.path)
        if (why := why_not_for(header, target)) is None:
            return cls(local, header, is_required)
        if is_required:
            raise ModelInvalid(f"{local.path.name} cannot be used as the projector (MMPROJ) of this model: {why}.")
        logger.warning("projector left out", extra={"file": local.path.name, "reason": why})
        return None

    def wanted(self, target: ModelHeader) -> ProjectorWanted:
        return ProjectorWanted(projector_shape(self.header, target), self.is_required)

    def command(self, settings: Settings, plan: MemoryPlan) -> LoadProjector:
        """Return the message that loads the projector, which the plan must have."""
        own = plan.projector
        assert own is not None
        return LoadProjector(
            path=str(self.local.path),
            n_threads=plan.n_threads_batch,
            gpu=None if own.gpu is None else first_visible(settings) + own.gpu,
            rows_bytes=own.rows_bytes,
            takes_turns=own.gpu is None and plan.n_gpu_layers == 0,
        )


def projector_for(settings: Settings, found: LocalModel | None, target: ModelHeader) -> ProjectorModel | None:
    """Return the projector of a model that is not loaded, if one is `found` on disk and the model can see with it.

    Raises ModelInvalid or SettingsError if it cannot and MMPROJ names the projector.
    """
    if found is None or why_no_images(pools_for(target, settings), is_required=settings.names_projector):
        return None
    return ProjectorModel.of(found, target, is_required=settings.names_projector)
