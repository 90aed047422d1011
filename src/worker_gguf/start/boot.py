"""The cold start of one model, read top to bottom: from settings to a service that answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from worker_gguf.observe.timeline import Timeline
from worker_gguf.settings import Settings
from worker_gguf.start.fetch import Progress, fetch
from worker_gguf.start.loaded import LoadedModel
from worker_gguf.start.open_model import Opening, open_model
from worker_gguf.start.read_ahead import ReadAhead
from worker_gguf.store import UsageMark

if TYPE_CHECKING:
    from worker_gguf.observe.metrics import Metrics
    from worker_gguf.readahead.prefetch import Prefetch

__all__ = ["boot"]


def boot(
    settings: Settings, metrics: Callable[[], Metrics], timeline: Timeline, progress: Progress, begun: Prefetch | None
) -> LoadedModel:
    """Bring the model up. Raises the WorkerError that stopped it; what was loaded by then is given back.

    `begun` is the prefetch that had a head start, if there is one. It is closed here.
    """
    with ReadAhead(settings, timeline, progress, begun) as ahead:
        local = fetch(settings, timeline, progress)
        hold = UsageMark(local.paths, settings.cache_dir())
        try:
            return open_model(Opening(settings, metrics, timeline, progress), local, hold, ahead)
        except BaseException:
            hold.release()
            raise
