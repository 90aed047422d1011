"""Carries out the decisions of Residence: fetches, loads and unloads models, and accounts for their memory.

One thread loads and unloads models, one at a time. Each model that is not on disk is fetched in a separate thread, so
that a download delays only the requests for that model.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from queue import Empty, SimpleQueue
from typing import NamedTuple

from worker_gguf.engine.machine import Machine
from worker_gguf.engine.stats import EngineStats
from worker_gguf.errors import WorkerError
from worker_gguf.fleet.model import FleetModel
from worker_gguf.fleet.residence import Effect, Fetch, Load, Residence, Unload, Wake
from worker_gguf.fleet.room import Footprint, Room, footprint_of, least
from worker_gguf.fleet.status import public
from worker_gguf.fleet.totals import of_the_past, total
from worker_gguf.start.loaded import LoadedModel

__all__ = ["Loader", "Tell"]

logger = logging.getLogger(__name__)

Tell = Callable[[Callable[[float], list[Effect]]], None]
"""Reports an event to Residence under the lock and carries out the effects. Can be called from any thread."""


class _GivenUp(NamedTuple):
    """The engine processes of a model do not last."""

    name: str
    why: WorkerError


class Loader:
    """Loads and unloads the models of a fleet.

    Call `start()` once and `stop()` once. `fits` and `do` can be called from any thread.
    """

    def __init__(
        self,
        models: Mapping[str, FleetModel],
        first_machine: Machine,
        leaving: threading.Event,
        clock: Callable[[], float],
    ) -> None:
        """`first_machine` is the machine before any model was loaded. The fleet sets `leaving` when it stops."""
        self.machine = first_machine
        self._past = EngineStats()
        self._ending: tuple[EngineStats, ...] = ()
        self._counting = threading.Lock()  # without it, `stats` could miss the counters of an engine being unloaded
        self._models = models
        self._leaving = leaving
        self._clock = clock
        self._room = Room(first_machine)
        self._work: SimpleQueue[Load | Unload | Wake | _GivenUp | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="fleet", daemon=True)

    def start(self, tell: Tell, residence: Residence) -> None:
        """Report the models that are already loaded, then look for the others on disk in another thread."""
        self._tell, self._residence = tell, residence
        self._note_memory()
        for model in self._models.values():
            if model.loaded:
                self._watch(model, model.loaded)
                tell(partial(residence.loaded_now, model.name))
        self._thread.start()
        threading.Thread(target=self._look, name="fleet-look", daemon=True).start()

    def stop(self) -> None:
        """Unload all models and return. Work that has not started is dropped."""
        self._work.put(None)
        self._thread.join()
        for model in self._models.values():
            model.shut_down()

    def do(self, effect: Fetch | Load | Unload | Wake) -> None:
        """Carry out an effect in another thread, and report its outcome to Residence."""
        if isinstance(effect, Fetch):
            threading.Thread(target=self._fetch, args=(effect.name,), name="fleet-fetch", daemon=True).start()
        else:
            self._work.put(effect)

    def stats(self) -> EngineStats:
        """Return the sum of the loaded models' stats and the counters of the unloaded ones."""
        with self._counting:
            current = [loaded.stats for model in self._models.values() if (loaded := model.loaded)]
            return total([of_the_past((self._past, *self._ending)), *current])

    def fits(self, name: str, others: frozenset[str]) -> bool:
        """Return whether the model fits, at its planned size, next to the models `others`, for Residence.

        Raises NotEnoughMemory if it does not even fit alone.
        """
        found = self._models[name].found
        assert found is not None
        return self._room.fits(name, found.need, others)

    def preload(self, model: FleetModel) -> None:
        """Load a model during the start if it fits at its planned size next to the loaded ones.

        Raises the WorkerError that prevents it.
        """
        self._note_memory()
        model.find()
        if self.fits(model.name, frozenset(self._room.taken)):
            model.open(self._left_by_loaded, self._clock)

    # --- threads --------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        for model in self._models.values():
            if not self._leaving.is_set():
                model.look()
                if model.found is not None:
                    self._tell(partial(self._residence.found, model.name))

    def _fetch(self, name: str) -> None:
        if self._try(name, self._models[name].find):
            self._tell(partial(self._residence.found, name))

    def _run(self) -> None:
        wake_s: float | None = None
        while not self._leaving.is_set():
            try:
                work = self._work.get(timeout=None if wake_s is None else max(0.0, wake_s - self._clock()))
            except Empty:
                wake_s = None
                self._tell(self._residence.tick)
                continue
            if work is None:
                return
            if isinstance(work, Wake):
                wake_s = work.at_s if wake_s is None else min(wake_s, work.at_s)
            elif isinstance(work, Unload):
                self._unload(self._models[work.name])
            elif isinstance(work, _GivenUp):
                self._drop(self._models[work.name], work.why)
            else:
                self._load(self._models[work.name])

    def _load(self, model: FleetModel) -> None:
        if self._try(model.name, partial(model.open, self._left_by_loaded, self._clock)):
            self._note_memory()
            if model.loaded:
                self._watch(model, model.loaded)
            logger.info("model loaded", extra={"model": model.name, "seconds": round(model.last_load_s, 3)})
            self._tell(partial(self._residence.loaded_now, model.name))

    def _watch(self, model: FleetModel, loaded: LoadedModel) -> None:
        loaded.watch(lambda why: self._work.put(_GivenUp(model.name, why)))

    def _drop(self, model: FleetModel, why: WorkerError) -> None:
        """Count a model as failed whose engine processes do not last."""
        if self._close(model):
            logger.error("model failed", extra={"model": model.name, "code": why.code, "error": why.message})
            self._tell(partial(self._residence.failed, model.name, public(model.name, why)))

    def _close(self, model: FleetModel) -> bool:
        """Close the model and keep its counters. Returns False if it was not loaded."""
        with self._counting:
            if loaded := model.detach():
                self._ending = (loaded.stats,)
        if loaded is None:
            return False
        model.close(loaded)
        with self._counting:
            self._past, self._ending = of_the_past((self._past, *self._ending)), ()
        self._note_memory()
        return True

    def _unload(self, model: FleetModel) -> None:
        self._close(model)
        model.n_unloads += 1
        logger.info("model unloaded", extra={"model": model.name})
        self._tell(partial(self._residence.unloaded_now, model.name))

    def _try(self, name: str, act: Callable[[], object]) -> bool:
        """Call `act` and return whether it succeeded. A failure ends the requests that wait for the model."""
        try:
            act()
        except WorkerError as error:
            why = error
        except Exception as error:
            logger.exception("model could not be brought up", extra={"model": name})
            why = WorkerError(f"It could not be loaded ({type(error).__name__}); the worker's log has the traceback.")
        else:
            return True
        if not self._leaving.is_set():
            logger.error("model failed", extra={"model": name, "code": why.code, "error": why.message})
        self._tell(partial(self._residence.failed, name, public(name, why)))
        return False

    # --- memory ---------------------------------------------------------------------------------------------------

    def _left_by_loaded(self, machine: Machine) -> Machine:
        """Return the memory that the loaded models leave. `machine` was read now, by a process that loads a model."""
        self._room = room = Room.of(self.machine, machine, self._taken())
        return least(machine, room.left_by(room.taken))

    def _note_memory(self) -> None:
        """Update the memory that models take. The boot thread calls this, and later only the loader's own thread."""
        self._room = Room(self._room.empty, self._taken())

    def _taken(self) -> dict[str, Footprint]:
        return {
            model.name: footprint_of(model.loaded.plan, self.machine, model.settings)
            for model in self._models.values()
            if model.loaded
        }
