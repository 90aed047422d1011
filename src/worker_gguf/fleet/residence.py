"""Decides which models are in memory and which requests wait. Takes events and returns effects.

Uses no clock, thread, event loop or llama.cpp: each event has its time as an argument, and each method returns a list
of effects. The caller holds one lock around all calls. The rules, in order:

1. A request runs immediately if its model is loaded and open. Other requests wait, in order of arrival for each model.
2. One model is loaded at a time: the one whose first request has waited longest.
3. It is loaded when it fits, at its planned size, next to the models that stay. To make room, idle models are
unloaded, least recently used first. A model stays in memory for at least `min_residence_s`.
4. If that is not enough, busy models whose `turn_s` is over are closed: their running requests finish, new ones wait,
and the models are unloaded once they are idle. Then all requests that waited for the next model run, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from msgspec import Struct, field

from worker_gguf.errors import NotEnoughMemory, NotReady, QueueFull, WorkerError
from worker_gguf.fleet.eviction import eviction_for

__all__ = ["Admit", "Effect", "Fetch", "Load", "Place", "Refuse", "Residence", "Rules", "State", "Unload", "Wake"]

State = Literal["unloaded", "fetching", "loading", "loaded", "unloading", "failed"]
_LONGEST_PAUSE_S = 300.0


class Rules(Struct, frozen=True):
    """The limits of a fleet.

    `min_residence_s` and `turn_s` are explained above. `most_loaded` is the number of models in memory at the same
    time, or None for as many as fit. `most_waiting` is the number of requests that may wait for one model. After a
    failed load, a model is not tried again for `retry_s`, which doubles with each failure up to 5 minutes.
    """

    min_residence_s: float
    turn_s: float
    most_loaded: int | None = None
    most_waiting: int = 128
    retry_s: float = 10.0


class Admit(Struct, frozen=True):
    """Run the request: its model is loaded and stays loaded until `ended`."""

    ticket: int


class Refuse(Struct, frozen=True):
    """End the waiting request with this error."""

    ticket: int
    why: WorkerError


class Fetch(Struct, frozen=True):
    """Fetch the model's files, then call `found` or `failed`. Several models can be fetched at the same time."""

    name: str


class Unload(Struct, frozen=True):
    """Close the idle model, then call `unloaded_now`."""

    name: str


class Load(Struct, frozen=True):
    """Load the model, then call `loaded_now` or `failed`."""

    name: str


class Wake(Struct, frozen=True):
    """Call `tick` at this time, because the next decision depends only on time."""

    at_s: float


Effect = Admit | Refuse | Fetch | Unload | Load | Wake


class Place(Struct):
    """The state of one model in the fleet. Only Residence changes it.

    `running` and `waiting` hold the tickets of requests. The model was loaded at `since_s` and last used at `used_s`.
    After a failure, `failure` is its error, and the model may be tried again at `retry_s`.
    """

    name: str
    state: State = "unloaded"
    is_found: bool = False
    """Its files are on disk, so its size is known."""
    running: set[int] = field(default_factory=set)
    waiting: dict[int, None] = field(default_factory=dict)
    since_s: float = 0.0
    used_s: float = 0.0
    failure: WorkerError | None = None
    retry_s: float = 0.0
    n_failures: int = 0

    @property
    def first(self) -> int:
        """The ticket that has waited longest."""
        return next(iter(self.waiting))


class Residence:
    """Decides about the models of a fleet by the rules above.

    Tickets identify requests. Their numbers must rise from request to request.
    """

    def __init__(self, names: Iterable[str], rules: Rules, fits: Callable[[str, frozenset[str]], bool]) -> None:
        """`fits(name, others)` returns whether a model fits, at its planned size, next to other loaded models.

        It raises NotEnoughMemory, with the reason, if the model does not even fit alone.
        """
        self.rules = rules
        self.places = {name: Place(name) for name in names}
        self.n_unloads = 0
        self._fits = fits
        self._target: Place | None = None  # the model that is loading, or for which others are unloaded
        self._closed: frozenset[str] = frozenset()

    @property
    def loaded(self) -> frozenset[str]:
        return frozenset(place.name for place in self.places.values() if place.state == "loaded")

    @property
    def n_open(self) -> int:
        """The number of requests that wait or run."""
        return sum(len(place.running) + len(place.waiting) for place in self.places.values())

    # --- events ---------------------------------------------------------------------------------------------------

    def request(self, ticket: int, name: str, now_s: float) -> list[Effect]:
        """Add a request. Raises QueueFull, or NotReady with the reason if its model failed a short time ago."""
        place = self.places[name]
        if place.state == "loaded" and name not in self._closed:
            place.running.add(ticket)
            return [Admit(ticket)]
        if place.state == "failed":
            self._try_again(place, now_s)
        if len(place.waiting) >= self.rules.most_waiting:
            raise QueueFull(
                f"{len(place.waiting)} requests wait for this model to be loaded, and no more may wait. Try again "
                "later, or raise MAX_QUEUE.",
                retry_after_s=1,
            )
        place.waiting[ticket] = None
        if place.state == "unloaded" and not place.is_found:
            place.state = "fetching"
            return [Fetch(name)]
        return self._advance(now_s)

    def ended(self, ticket: int, now_s: float) -> list[Effect]:
        """Note that a request is over, or that its client has left. Does nothing if the ticket has already ended."""
        for place in self.places.values():
            if ticket in place.running:
                place.running.remove(ticket)
                place.used_s = now_s
                return self._advance(now_s)
            if ticket in place.waiting:
                del place.waiting[ticket]
                return self._advance(now_s)
        return []

    def found(self, name: str, now_s: float) -> list[Effect]:
        """Note that the model's files are on disk, with or without a Fetch."""
        place = self.places[name]
        place.is_found = True
        if place.state == "fetching":
            place.state = "unloaded"
        return self._advance(now_s)

    def loaded_now(self, name: str, now_s: float) -> list[Effect]:
        """Note that the model is loaded, after a Load or during the start of the worker."""
        place = self.places[name]
        place.state, place.is_found = "loaded", True
        place.since_s = place.used_s = now_s
        place.failure, place.n_failures = None, 0
        if self._target is place:
            self._target = None
        # Admit first. Otherwise another decision could unload the model before it has served a request.
        admitted = self._admit(place)
        return [*admitted, *self._advance(now_s)]

    def unloaded_now(self, name: str, now_s: float) -> list[Effect]:
        """Note that the model is unloaded, after an Unload."""
        self.places[name].state = "unloaded"
        self.n_unloads += 1
        if self._target is None or any(place.state == "unloading" for place in self.places.values()):
            return []
        return self._load_or_drop(self._target, now_s)

    def failed(self, name: str, why: WorkerError, now_s: float) -> list[Effect]:
        """Note that the model could not be fetched or loaded. All requests that wait for it are refused."""
        place = self.places[name]
        if self._target is place:
            self._target = None
        place.state, place.failure = "failed", why
        place.n_failures += 1
        place.retry_s = now_s + min(_LONGEST_PAUSE_S, self.rules.retry_s * 2 ** min(place.n_failures - 1, 16))
        refused = self._refuse(place, why)
        return [*refused, *self._advance(now_s)]

    def tick(self, now_s: float) -> list[Effect]:
        """Decide again, at the time that a Wake named."""
        return self._advance(now_s)

    def give_up(self, why: WorkerError) -> list[Effect]:
        """Refuse all waiting requests. Running requests are not affected."""
        return [effect for place in self.places.values() for effect in self._refuse(place, why)]

    # --- decisions ------------------------------------------------------------------------------------------------

    def _advance(self, now_s: float) -> list[Effect]:
        """Start the next swap if its conditions are met, and admit the requests for open models."""
        effects: list[Effect] = []
        self._closed = frozenset()
        while self._target is None and (place := self._next()) is not None:
            try:
                effects += self._make_room(place, now_s)
                break
            except NotEnoughMemory as why:
                effects += self.failed(place.name, why, now_s)
        for place in self.places.values():
            if place.state == "loaded" and place.name not in self._closed:
                effects += self._admit(place)
        return effects

    def _next(self) -> Place | None:
        wanted = [place for place in self.places.values() if place.waiting and place.state == "unloaded"]
        return min((place for place in wanted if place.is_found), key=lambda place: place.first, default=None)

    def _make_room(self, target: Place, now_s: float) -> list[Effect]:
        loaded = [place for place in self.places.values() if place.state == "loaded"]
        rested = [place for place in loaded if now_s >= self._rested_s(place)]
        idle = sorted((place for place in rested if not place.running), key=lambda place: place.used_s)
        if (evicted := self._evict(target, idle)) is not None:
            return self._begin(target, evicted, now_s)
        over = [place for place in rested if place.running and now_s >= self._turn_over_s(place)]
        over.sort(key=lambda place: place.since_s)
        evicted = self._evict(target, [*idle, *over])
        self._closed = frozenset(name for name in evicted or () if self.places[name].running)
        moments = {at_s for place in loaded for at_s in (self._rested_s(place), self._turn_over_s(place))}
        later = [at_s for at_s in moments if at_s > now_s]
        return [Wake(min(later))] if later else []

    def _rested_s(self, place: Place) -> float:
        return place.since_s + self.rules.min_residence_s

    def _turn_over_s(self, place: Place) -> float:
        return place.since_s + max(self.rules.min_residence_s, self.rules.turn_s)

    def _evict(self, target: Place, candidates: list[Place]) -> tuple[str, ...] | None:
        def fits_with(others: frozenset[str]) -> bool:
            most = self.rules.most_loaded
            return (most is None or len(others) < most) and self._fits(target.name, others)

        return eviction_for(self.loaded, [place.name for place in candidates], fits_with)

    def _begin(self, target: Place, evicted: tuple[str, ...], now_s: float) -> list[Effect]:
        self._target = target
        target.state = "loading"
        for name in evicted:
            self.places[name].state = "unloading"
        return [Unload(name) for name in evicted] or self._load_or_drop(target, now_s)

    def _load_or_drop(self, target: Place, now_s: float) -> list[Effect]:
        if target.waiting:
            return [Load(target.name)]
        self._target, target.state = None, "unloaded"  # all waiting requests have ended while others were unloaded
        return self._advance(now_s)

    def _try_again(self, place: Place, now_s: float) -> None:
        """Allow a load after a failure. Until `retry_s`, raises NotReady with the reason of the failure."""
        assert place.failure is not None
        left_s = place.retry_s - now_s
        if left_s > 0:
            wait_s = int(left_s) + 1
            raise NotReady(f"{place.failure.message} A request in {wait_s} s tries again.", retry_after_s=wait_s)
        place.state = "unloaded"

    def _admit(self, place: Place) -> list[Effect]:
        tickets = list(place.waiting)
        place.running.update(tickets)
        place.waiting.clear()
        return [Admit(ticket) for ticket in tickets]

    def _refuse(self, place: Place, why: WorkerError) -> list[Effect]:
        tickets = list(place.waiting)
        place.waiting.clear()
        return [Refuse(ticket, why) for ticket in tickets]
