"""The cold start of one model, read top to bottom: from settings to a service that answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker_gguf.start.fetch import fetch
from worker_gguf.start.loaded import LoadedModel
from worker_gguf.start.open_model import open_model
from worker_gguf.start.read_ahead import ReadAhead
from worker_gguf.start.start import Start
from worker_gguf.store import UsageMark

if TYPE_CHECKING:
    from worker_gguf.readahead.prefetch import Prefetch

__all__ = ["boot"]


def boot(start: Start, head_start: Prefetch | None) -> LoadedModel:
    """Load the model. Raises the WorkerError of a failure; nothing stays loaded then.

    `head_start` is a prefetch that is running already, or None. It is closed here.
    """
    with ReadAhead(start, head_start) as ahead:
        local = fetch(start)
        usage_mark = UsageMark(local.paths, start.settings.cache_dir())
        try:
            return open_model(start, local, usage_mark, ahead)
        except BaseException:
            usage_mark.release()
            raise
