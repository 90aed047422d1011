"""Runs the cold start of one model: finds or downloads its files, then opens it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker_gguf.start.engine_start import EngineStart
from worker_gguf.start.fetch import fetch, fetch_draft, fetch_projector
from worker_gguf.start.loaded import LoadedModel
from worker_gguf.start.open_model import open_model
from worker_gguf.start.read_ahead import ReadAhead
from worker_gguf.start.start import Start
from worker_gguf.store import UsageMark

if TYPE_CHECKING:
    from worker_gguf.start.head_start import HeadStart

__all__ = ["boot"]


def boot(start: Start, head_start: HeadStart | None) -> LoadedModel:
    """Load the model of the settings. Raises the WorkerError of a failure, after which nothing stays loaded.

    `head_start` is what has begun already, or None. This function closes it.
    """
    prefetch, process, look = head_start or (None, None, None)
    with (
        ReadAhead(start, prefetch, look) as ahead,
        ReadAhead(start, phase="draft prefetch") as draft_ahead,
        EngineStart(process) as engine_start,
    ):
        engine_start.begin()
        local = fetch(start, engine_start.machine)
        usage_mark = UsageMark(local.paths, start.settings.cache_dir())
        try:
            drafted = fetch_draft(start, engine_start.machine)
            projector = fetch_projector(start, engine_start.machine, local)
            if others := [other for other in (drafted, projector) if other is not None]:
                first_mark = usage_mark
                paths = (path for other in (local, *others) for path in other.paths)
                usage_mark = UsageMark(tuple(paths), start.settings.cache_dir())
                first_mark.release()
            drafting = (drafted, draft_ahead) if drafted is not None else None
            return open_model(start, local, usage_mark, ahead, engine_start, drafting=drafting, projector=projector)
        except BaseException:
            usage_mark.release()
            raise
