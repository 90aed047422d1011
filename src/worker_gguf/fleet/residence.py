"""Decides which models are loaded and which requests wait: events in, effects out.

This module has no clock, no thread and no event loop: each event carries its time, and each answer is a list of
effects. The caller holds one lock around all calls. The rules, in order:

1. A request for a model that is loaded and open runs immediately. Any other waits, in order of arrival for each model.
2. One model is loaded at a time: the one whose first request has waited longest.
3. It is loaded when it fits, at its planned size, next to the models that stay. To make room, idle models are
   unloaded, least recently used first, none before it has been in memory for `min_residence_s`.
4. When that is not enough, busy models whose `turn_s` is over are closed: their running requests finish, new ones wait,
   and they are unloaded once they are idle. Then all requests that waited for the next model run, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from worker_gguf.errors import NotEnoughMemory, NotReady, QueueFull, WorkerError
from worker_gguf.fleet.eviction import eviction_for

__all__ = ["Admit", "Effect", "Fetch", "Load", "Place", "Refuse", "Residence", "Rules", "State", "Unload", "Wake"]

State = Literal["unloaded", "fetching", "loading", "loaded", "unloading", "failed"]
_LONGEST_PAUSE_S = 300.0


@dataclass(frozen=True, slots=True)
class Rules:
    """`most_loaded` is the maximum number of loaded models; None means as many as fit. `most_waiting` is the maximum
    number of requests that wait for one model. A model that could not be loaded is not tried again for `retry_s`, which
    doubles with each failure.
    """

    min_residence_s: float
    turn_s: float
    most_loaded: int | None = None
    most_waiting: int = 128
    retry_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Admit:
    """Run the request. Its model is loaded and stays loaded until `ended`."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """End a waiting request with this error."""

    ticket: int
    why: WorkerError


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetch the files of a model, then report `found` or `failed`. Several fetches may run at the same time."""

    name: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Close an idle model, then report `unloaded_now`."""

    name: str


@dataclass(frozen=True, slots=True)
class Load:
    """Load the model, then report `loaded_now` or `failed`."""

    name: str


@dataclass(frozen=True, slots=True)
class Wake:
    """Call `tick` at this time."""

    at_s: float


Effect = Admit | Refuse | Fetch | Unload | Load | Wake


@dataclass(slots=True)
class Place:
    """The state of a model in the fleet. Only Residence writes it."""

    name: str
    state: State = "unloaded"
    is_found: bool = False
    """Its files are here, so its size is known."""
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
    """Applies the rules to events and returns effects.

    `fits(name, others)` returns whether a model fits, at its planned size, next to other loaded models. It raises
    NotEnoughMemory, with the reason, if the model does not even fit alone. Ticket numbers rise from request to request.
    """

    def __init__(self, names: Iterable[str], rules: Rules, fits: Callable[[str, frozenset[str]], bool]) -> None:
        self.rules = rules
        self.places = {name: Place(name) for name in names}
        self.n_unloads = 0
        self._fits = fits
        self._target: Place | None = None  # the model that is loading, or that other models are unloaded for
        self._closed: frozenset[str] = frozenset()

    @property
    def loaded(self) -> frozenset[str]:
        return frozenset(place.name for place in self.places.values() if place.state == "loaded")

    @property
    def n_open(self) -> int:
        return sum(len(place.running) + len(place.waiting) for place in self.places.values())

    # --- events ---------------------------------------------------------------------------------------------------

    def request(self, ticket: int, name: str, now_s: float) -> list[Effect]:
        """Add a request. Raises QueueFull, or the error of a model that failed recently."""
        place = self.places[name]
        if place.state == "loaded" and name not in self._closed:
            place.running.add(ticket)
            return [Admit(ticket)]
        if place.state == "failed":
            self._try_again(place, now_s)
        if len(place.waiting) >= self.rules.most_waiting:
            raise QueueFull(
                f"{len(place.waiting)} requests wait for this model to be loaded, as many as may. Try again later, or "
                "raise MAX_QUEUE.",
                retry_after_s=1,
            )
        place.waiting[ticket] = None
        if place.state == "unloaded" and not place.is_found:
            place.state = "fetching"
            return [Fetch(name)]
        return self._advance(now_s)

    def ended(self, ticket: int, now_s: float) -> list[Effect]:
        """Note that a request has ended or that its client has left. Does nothing if the ticket has ended already."""
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
        """Note that the files of a model are on disk, after a Fetch or without one."""
        place = self.places[name]
        place.is_found = True
        if place.state == "fetching":
            place.state = "unloaded"
        return self._advance(now_s)

    def loaded_now(self, name: str, now_s: float) -> list[Effect]:
        """Note that a model is loaded, after a Load or at the start of the worker."""
        place = self.places[name]
        place.state, place.is_found = "loaded", True
        place.since_s = place.used_s = now_s
        place.failure, place.n_failures = None, 0
        if self._target is place:
            self._target = None
        # Before any other decision: the model might otherwise be unloaded for the next one before it served a request.
        admitted = self._admit(place)
        return [*admitted, *self._advance(now_s)]

    def unloaded_now(self, name: str, now_s: float) -> list[Effect]:
        self.places[name].state = "unloaded"
        self.n_unloads += 1
        if self._target is None or any(place.state == "unloading" for place in self.places.values()):
            return []
        return self._load_or_drop(self._target, now_s)

    def failed(self, name: str, why: WorkerError, now_s: float) -> list[Effect]:
        """Note that a model could not be fetched or loaded. Its waiting requests fail; those of other models are not
        affected.
        """
        place = self.places[name]
        if self._target is place:
            self._target = None
        place.state, place.failure = "failed", why
        place.n_failures += 1
        place.retry_s = now_s + min(_LONGEST_PAUSE_S, self.rules.retry_s * 2 ** min(place.n_failures - 1, 16))
        refused = self._refuse(place, why)
        return [*refused, *self._advance(now_s)]

    def tick(self, now_s: float) -> list[Effect]:
        return self._advance(now_s)

    def give_up(self, why: WorkerError) -> list[Effect]:
        """Refuse all waiting requests. Running requests are not affected."""
        return [effect for place in self.places.values() for effect in self._refuse(place, why)]

    # --- decisions ------------------------------------------------------------------------------------------------

    def _advance(self, now_s: float) -> list[Effect]:
        """Begin the next swap if its time has come, and admit all requests that may run."""
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
        asked = [place for place in self.places.values() if place.waiting and place.state == "unloaded"]
        return min((place for place in asked if place.is_found), key=lambda place: place.first, default=None)

    def _make_room(self, target: Place, now_s: float) -> list[Effect]:
        loaded = [place for place in self.places.values() if place.state == "loaded"]
        rested = [place for place in loaded if now_s >= self._rested_s(place)]
        idle = sorted((place for place in rested if not place.running), key=lambda place: place.used_s)
        if (gone := self._evict(target, idle)) is not None:
            return self._begin(target, gone, now_s)
        over = [place for place in rested if place.running and now_s >= self._turn_over_s(place)]
        over.sort(key=lambda place: place.since_s)
        gone = self._evict(target, [*idle, *over])
        self._closed = frozenset(name for name in gone or () if self.places[name].running)
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

    def _begin(self, target: Place, gone: tuple[str, ...], now_s: float) -> list[Effect]:
        self._target = target
        target.state = "loading"
        for name in gone:
            self.places[name].state = "unloading"
        return [Unload(name) for name in gone] or self._load_or_drop(target, now_s)

    def _load_or_drop(self, target: Place, now_s: float) -> list[Effect]:
        if target.waiting:
            return [Load(target.name)]
        self._target, target.state = None, "unloaded"  # all waiting clients left while other models were unloaded
        return self._advance(now_s)

    def _try_again(self, place: Place, now_s: float) -> None:
        """Make a failed model available again. Raises its error while the pause after the failure lasts."""
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
