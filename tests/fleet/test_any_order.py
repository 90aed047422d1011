"""Tests that hold in any order of events: models of any size, requests, disconnects and failures."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from worker_gguf.errors import ModelInvalid, NotEnoughMemory, NotReady, QueueFull
from worker_gguf.fleet.residence import Admit, Effect, Fetch, Load, Refuse, Residence, Rules, Unload, Wake

NAMES = "abcd"
ROOM = 10


class World:
    """Carries effects out one by one, whenever it is asked to, and holds what happens against what was promised."""

    def __init__(self, sizes: dict[str, int], rules: Rules) -> None:
        self.sizes = sizes
        self.now_s = 0.0
        self.residence = Residence(sizes, rules, self.fits)
        self.rules = rules
        self.todo: list[Fetch | Load | Unload] = []
        self.wake_s: float | None = None
        self.up: dict[str, float] = {}
        self.waiting: dict[int, str] = {}
        self.running: dict[int, str] = {}
        self.endings: dict[int, str] = {}
        self.n_tickets = 0
        self.n_unloads = 0

    def fits(self, name: str, others: frozenset[str]) -> bool:
        if self.sizes[name] > ROOM:
            raise NotEnoughMemory("It is too large.")
        return self.sizes[name] + sum(self.sizes[other] for other in others) <= ROOM

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Admit(ticket):
                    name = self.waiting.pop(ticket)
                    assert name in self.up, "admitted to a model that is not loaded"
                    ahead = [other for other, its in self.waiting.items() if its == name and other < ticket]
                    assert not ahead, "one that came later runs before one that came first"
                    self.running[ticket] = name
                case Refuse(ticket, _):
                    del self.waiting[ticket]
                    self.endings[ticket] = "refused"
                case Wake(at_s):
                    assert at_s > self.now_s
                    self.wake_s = at_s if self.wake_s is None else min(at_s, self.wake_s)
                case Unload(name):
                    assert name in self.up
                    assert name not in self.running.values(), "unloaded while it generates"
                    assert self.now_s >= self.up[name] + self.rules.min_residence_s, "unloaded before its time"
                    self.todo.append(effect)
                case Load(name):
                    assert name not in self.up
                    assert not any(isinstance(other, Load | Unload) for other in self.todo)
                    assert self.sizes[name] + sum(self.sizes[other] for other in self.up) <= ROOM, "too much loaded"
                    self.todo.append(effect)
                case Fetch():
                    assert effect not in self.todo
                    self.todo.append(effect)

    def ask(self, name: str) -> None:
        ticket = self.n_tickets = self.n_tickets + 1
        self.waiting[ticket] = name
        try:
            self.take(self.residence.request(ticket, name, self.now_s))
        except (QueueFull, NotReady):
            del self.waiting[ticket]
            self.endings[ticket] = "not taken"

    def end(self, which: int) -> None:
        """End a running request, or let a waiting client leave."""
        tickets = sorted([*self.running, *self.waiting])
        if tickets:
            ticket = tickets[which % len(tickets)]
            self.running.pop(ticket, None)
            self.waiting.pop(ticket, None)
            self.endings[ticket] = "ended"
            self.take(self.residence.ended(ticket, self.now_s))

    def work(self, *, goes_well: bool) -> None:
        if not self.todo:
            return
        effect = self.todo.pop(0)
        name = effect.name
        if isinstance(effect, Unload):
            del self.up[name]
            self.n_unloads += 1
            self.take(self.residence.unloaded_now(name, self.now_s))
        elif not goes_well:
            self.take(self.residence.failed(name, ModelInvalid("It is broken."), self.now_s))
        elif isinstance(effect, Load):
            self.up[name] = self.now_s
            self.take(self.residence.loaded_now(name, self.now_s))
        else:
            self.take(self.residence.found(name, self.now_s))

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        if self.wake_s is not None and self.now_s >= self.wake_s:
            self.wake_s = None
            self.take(self.residence.tick(self.now_s))

    def settle(self) -> None:
        """Let every step succeed from now on: all waiting requests must be served."""
        for _ in range(10 * (self.n_tickets + 10)):
            if self.todo:
                self.work(goes_well=True)
            elif self.running:
                self.end(0)
            elif self.wake_s is not None:
                self.pass_time(max(0.0, self.wake_s - self.now_s))
            else:
                break
        assert not self.waiting, "somebody waits for nothing"
        assert not self.running


STEPS = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(NAMES)),
    st.tuples(st.just("end"), st.integers(0, 20)),
    st.tuples(st.just("work"), st.booleans()),
    st.tuples(st.just("time"), st.sampled_from([0.0, 0.5, 1.0, 5.0, 30.0])),
)


@settings(max_examples=250)
@given(
    sizes=st.fixed_dictionaries({name: st.integers(1, 11) for name in NAMES}),
    floor_s=st.sampled_from([0.0, 1.0, 3.0]),
    turn_s=st.sampled_from([0.0, 2.0, 10.0]),
    most_loaded=st.sampled_from([None, 1, 2]),
    steps=st.lists(STEPS, max_size=60),
)
def test_none_is_lost_and_every_promise_kept(
    sizes: dict[str, int],
    floor_s: float,
    turn_s: float,
    most_loaded: int | None,
    steps: list[tuple[str, object]],
) -> None:
    world = World(sizes, Rules(floor_s, turn_s, most_loaded, most_waiting=5, retry_s=1))
    for act, value in steps:
        if act == "ask":
            world.ask(str(value))
        elif act == "end":
            assert isinstance(value, int)
            world.end(value)
        elif act == "work":
            world.work(goes_well=bool(value))
        else:
            assert isinstance(value, float)
            world.pass_time(value)
        assert most_loaded is None or len(world.up) <= most_loaded
    world.settle()
    assert set(world.endings) == set(range(1, world.n_tickets + 1))
    n_at_once = most_loaded or len(NAMES)
    if floor_s:
        assert world.n_unloads <= n_at_once * (world.now_s / floor_s + 1)
