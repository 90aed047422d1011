"""Starts a worker with several models. The first model starts in the same way as in a worker with one model."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from worker_gguf.errors import NotReady, WorkerError
from worker_gguf.fleet.fleet import Fleet
from worker_gguf.fleet.loader import Loader
from worker_gguf.fleet.model import FleetModel
from worker_gguf.fleet.residence import Rules
from worker_gguf.fleet.roster import read_roster
from worker_gguf.settings import Settings
from worker_gguf.start.boot import boot
from worker_gguf.start.start import CANCELLED, Start

if TYPE_CHECKING:
    from worker_gguf.start.head_start import HeadStart

__all__ = ["boot_fleet"]

logger = logging.getLogger(__name__)


def boot_fleet(start: Start, head_start: HeadStart | None) -> Fleet:
    """Load the first model, and as many others as MODELS_PRELOAD allows.

    Raises the WorkerError of the first model if it cannot be loaded. The failure of another model is only logged.
    """
    settings = start.settings
    try:
        roster = read_roster(settings)
    except BaseException:
        if head_start is not None:
            head_start.close()
        raise
    leaving, is_up = threading.Event(), threading.Event()
    n_others = min(settings.models_preload, settings.models_max or len(roster), len(roster)) - 1
    n_preloaded = 0

    def go_on() -> bool:
        return not leaving.is_set() and (is_up.is_set() or start.gate("preload", n_preloaded / n_others))

    created_s = int(time.time())
    models = {entry.name: FleetModel(entry, go_on, created_s) for entry in roster}
    first, *others = models.values()
    started_s = time.monotonic()
    loaded = boot(replace(start, settings=first.settings, shares_memory=True), head_start)
    try:
        first.adopt(loaded, time.monotonic() - started_s)
        loader = Loader(models, loaded.machine, leaving, time.monotonic)
        fleet = Fleet(models, _rules(settings), loader, leaving)
        for model in others[:n_others]:
            with start.phase("preload"):
                _preload(loader, model, go_on)
            n_preloaded += 1
            start.gate("preload", n_preloaded / n_others)
        is_up.set()
        fleet.start()
    except BaseException:
        leaving.set()
        for model in models.values():
            model.shut_down()
        raise
    return fleet


def _rules(settings: Settings) -> Rules:
    # A worker with a single model also takes one request for each slot and MAX_QUEUE more.
    most_waiting = settings.max_queue + (settings.n_parallel or 1)
    return Rules(
        min_residence_s=settings.model_min_residence_s,
        turn_s=settings.model_turn_s,
        most_loaded=settings.models_max,
        most_waiting=most_waiting,
    )


def _preload(loader: Loader, model: FleetModel, go_on: Callable[[], bool]) -> None:
    try:
        loader.preload(model)
    except WorkerError as error:
        if not go_on():
            raise NotReady(CANCELLED) from None
        logger.error("model not preloaded", extra={"model": model.name, "code": error.code, "error": error.message})
    except Exception:
        logger.exception("model not preloaded", extra={"model": model.name})
