"""Serves several models as one. Residence decides which requests wait for their model; Loader carries that out."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from worker_gguf.engine.stats import EngineStats
from worker_gguf.errors import DeadlineExceeded, NotReady, WorkerError
from worker_gguf.fleet.loader import Loader
from worker_gguf.fleet.model import FleetModel
from worker_gguf.fleet.residence import Admit, Effect, Refuse, Residence, Rules
from worker_gguf.fleet.status import counts_of, describe, status_of
from worker_gguf.generation.engine import Engine
from worker_gguf.latch import Latch
from worker_gguf.observe.metrics import Metrics, ModelCounts
from worker_gguf.protocol.calls import ReadyCall
from worker_gguf.protocol.models import ModelCard, ModelStatus, SlotUse, card_meant, names_meant
from worker_gguf.protocol.route import Listing, Task
from worker_gguf.service.adapters import check_adapters
from worker_gguf.service.images import check_images
from worker_gguf.service.request import Answer, Request, Stream
from worker_gguf.service.service import (
    check_ability,
    is_able,
    list_models,
    none_able,
    not_served,
    parse,
    ready,
    slots_of,
)
from worker_gguf.service.time_limit import time_limit_s
from worker_gguf.start.loaded import describe_machine
from worker_gguf.start.start import SHUTTING_DOWN

__all__ = ["Fleet"]


class _Waiter:
    """A request that waits for its model."""

    def __init__(self) -> None:
        self.latch = Latch()
        self.refusal: WorkerError | None = None


class Fleet:
    """Serves `models`. The first one answers requests that name no model. Call `start()` once and `stop()` once."""

    def __init__(
        self,
        models: Mapping[str, FleetModel],
        rules: Rules,
        loader: Loader,
        leaving: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`models` are keyed by name. `stop` sets `leaving`."""
        self.models = models
        self._first = next(iter(models.values()))
        self._n_parallel = self._first.loaded.n_parallel if self._first.loaded else 1
        self._loader = loader
        self._clock = clock
        self._leaving = leaving
        self._lock = threading.Lock()
        self._residence = Residence(models, rules, loader.fits)
        self._tickets = itertools.count()
        self._waiters: dict[int, _Waiter] = {}
        self._on_idle: list[Latch] = []

    def start(self) -> None:
        self._loader.start(self._tell, self._residence)

    def stop(self) -> None:
        """End the running requests as cancelled, refuse the waiting ones, and free all memory and files."""
        self._leaving.set()
        with self._lock:
            self._carry_out(self._residence.give_up(NotReady(SHUTTING_DOWN)))
        self._loader.stop()

    # --- requests -------------------------------------------------------------------------------------------------

    async def answer(self, request: Request) -> Answer | Stream:
        task = request.route.task
        if isinstance(task, Listing):
            models = [(model.card, self._status(model)) for model in self.models.values()]
            return list_models(task, request, models, self._card_of, self._slots_of, self._first.defaults)
        name = _model_named_in(request.body)
        model = self._able(task) if name is None else self._named(name)
        call = await parse(task, request.body, model.defaults)
        if isinstance(call, ReadyCall) and not call.needs_model:
            return ready(call, model.card, request)
        # No model is loaded for a request that any model would refuse.
        check_ability(model.card, task)
        check_adapters(model.card, call)
        if model.found is not None:  # before that, it is not known whether the model sees
            check_images(model.card, call)
        account = request.account
        limit_s = time_limit_s(call.timeout_s, model.settings.request_timeout_s)
        try:
            ticket = await self._enter(model, limit_s, account.started_s)
        finally:
            account.model_wait_s = time.monotonic() - account.started_s
        loaded = model.loaded
        if loaded is None:  # the fleet is stopping and unloaded the model after it admitted this request
            self._end(ticket)
            raise NotReady(SHUTTING_DOWN)
        return await loaded.service.perform(call, request, on_ended=partial(self._end, ticket))

    async def _enter(self, model: FleetModel, limit_s: float | None, started_s: float) -> int:
        """Wait until the model is loaded, and keep it loaded until `_end`. Return the ticket of the request.

        The request may take `limit_s` seconds from its arrival at `started_s`. Raises DeadlineExceeded after that, and
        the error of Residence if it refuses the request.
        """
        waiter = _Waiter()
        with self._lock:
            if self._leaving.is_set():
                raise NotReady(SHUTTING_DOWN)
            ticket = next(self._tickets)
            effects = self._residence.request(ticket, model.name, self._clock())
            self._waiters[ticket] = waiter
            self._carry_out(effects)
        try:
            async with asyncio.timeout(None if limit_s is None else limit_s - (time.monotonic() - started_s)):
                await waiter.latch.wait()
            if waiter.refusal is not None:
                raise waiter.refusal
        except TimeoutError:
            self._end(ticket)
            raise DeadlineExceeded(
                f"The model {model.name!r} was not loaded within the {limit_s:g} s that this request may "
                "take. Try again, or raise REQUEST_TIMEOUT_S."
            ) from None
        except BaseException:
            self._end(ticket)
            raise
        return ticket

    def _end(self, ticket: int) -> None:
        """End a request. A second call does nothing."""

        def ended(now_s: float) -> list[Effect]:
            # This needs the lock, because another thread may be carrying out an effect for the same ticket.
            self._waiters.pop(ticket, None)
            return self._residence.ended(ticket, now_s)

        self._tell(ended)

    def _able(self, task: Task) -> FleetModel:
        """Return the first model that can do what a route does. Raises UnsupportedParameter if there is none."""
        for model in self.models.values():
            if is_able(model.card, task):
                return model
        raise none_able([model.card for model in self.models.values()], task)

    def _named(self, name: str | None) -> FleetModel:
        if name is None:
            return self._first
        for meant in names_meant(name):
            for model in self.models.values():
                if model.name.lower() == meant:
                    return model
            for model in self.models.values():
                if model.card.goes_by(meant):
                    return model
        for model in self.models.values():
            if card_meant(model.card, name) is not None:
                return model
        raise not_served(name, [own.id for model in self.models.values() for own in model.card.with_adapters()])

    def _card_of(self, name: str | None) -> tuple[ModelCard, ModelStatus | None]:
        model = self._named(name)
        card = None if name is None else card_meant(model.card, name)
        return card or model.card, self._status(model)

    def _slots_of(self, name: str | None) -> SlotUse:
        loaded = self._named(name).loaded
        return SlotUse() if loaded is None else slots_of(loaded.stats)

    def _status(self, model: FleetModel) -> ModelStatus:
        return status_of(self._residence.places[model.name])

    # --- events and effects ---------------------------------------------------------------------------------------

    def _tell(self, event: Callable[[float], list[Effect]]) -> None:
        """Report an event to Residence and carry out the effects. Can be called from any thread."""
        with self._lock:
            self._carry_out(event(self._clock()))
            on_idle, self._on_idle = ([], self._on_idle) if self._residence.n_open else (self._on_idle, [])
        for latch in on_idle:
            latch.set()

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Admit(ticket):
                    self._waiters.pop(ticket).latch.set()
                case Refuse(ticket, why):
                    waiter = self._waiters.pop(ticket)
                    waiter.refusal = why
                    waiter.latch.set()
                case _:
                    self._loader.do(effect)

    # --- called by the worker ----------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._first.name

    @property
    def n_parallel(self) -> int:
        """The number of sequences that the first model runs at the same time.

        If this worker took more jobs from the queue, they would wait here although another worker could run them.
        """
        return self._n_parallel

    @property
    def stats(self) -> EngineStats:
        return self._loader.stats()

    def counts(self) -> list[ModelCounts]:
        """Return the state and the counters of each model, for the metrics."""
        return [counts_of(model, self._residence.places[model.name]) for model in self.models.values()]

    async def idle(self) -> None:
        """Return when no request waits or runs."""
        with self._lock:
            if not self._residence.n_open:
                return
            latch = Latch()
            self._on_idle.append(latch)
        await latch.wait()

    def cut_off(self, error: WorkerError) -> None:
        """End all waiting and running requests with `error`."""
        with self._lock:
            self._carry_out(self._residence.give_up(error))
        for model in self.models.values():
            if (loaded := model.loaded) is not None:
                loaded.cut_off(error)

    def engines(self) -> list[Engine]:
        return [loaded.engine for model in self.models.values() if (loaded := model.loaded) is not None]

    @property
    def is_reloading(self) -> bool:
        return False  # /health has the state of each model; the others go on

    def watch(self, on_given_up: Callable[[WorkerError], None]) -> None:
        """Do nothing: a model that is given up counts as failed, and the others go on."""

    def publish(self, metrics: Metrics) -> None:
        """Publish the metrics of the first model's start once, and the counts of every model at each scrape."""
        metrics.watch_models(self.counts)
        if self._first.loaded is not None:
            self._first.loaded.publish(metrics)

    def describe(self) -> dict[str, Any]:
        stats = self.stats
        models = [describe(model, self._residence.places[model.name], self._clock()) for model in self.models.values()]
        return {
            "models": models,
            "unloads": self._residence.n_unloads,
            "slots": {"total": stats.n_slots, "busy": stats.busy_slots},
            "queue": {"waiting": stats.waiting + sum(model["waiting"] for model in models)},
            "memory": {"held_tokens": stats.held_tokens, "cells": stats.n_cells},
            "machine": describe_machine(self._loader.machine),
        }


def _model_named_in(body: object) -> str | None:
    """Return the model that a body names, or None. Parsing the body later refuses a name that is not a string.

    An empty name is none: SillyTavern sends it until the user chooses a model.
    """
    name: Any = body.get("model") if isinstance(body, dict) else None
    return name if isinstance(name, str) and name else None
