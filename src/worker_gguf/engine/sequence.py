"""The state of a request: its tokens, the number of computed tokens, its slot. Owned by the scheduler."""

from __future__ import annotations

from collections.abc import Set

from msgspec import Struct, field

from worker_gguf.engine.adapters import AdapterSet
from worker_gguf.engine.request import GenerationRequest

__all__ = ["Sequence", "Slot"]


class Sequence(Struct, eq=False):
    """`tokens` is the prompt followed by all drawn tokens. The first `n_computed` of them are in the slot's memory.

    `turn` is its place in the order of all sequences: the lowest goes first. `n_cached` is the number of tokens that
    were in memory and did not have to be computed before the first token was drawn; None before the first slot.
    `n_uncached` is the number of tokens that its slot lacked. `n_drawn` is the number of tokens that the last step
    drew. `forced` has the places in `tokens` of those that a grammar forced. `n_scored` is the number of tokens of the
    prompt whose log-probabilities are known, if they are wanted; the first has none.
    """

    request: GenerationRequest
    turn: int
    start_by_s: float | None = None
    tokens: list[int] = field(default_factory=list)
    n_computed: int = 0
    n_cached: int | None = None
    n_uncached: int = 0
    n_drawn: int = 0
    forced: set[int] = field(default_factory=set)
    n_scored: int = 1
    slot: Slot | None = None

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)

    def note_held(self, n_held: int) -> None:
        """Note that its slot holds its first `n_held` tokens, and nothing else of it."""
        self.n_computed = n_held
        self.n_drawn = 0
        self.n_uncached = len(self.tokens) - n_held
        if not self.n_generated:
            self.n_cached = n_held if self.n_cached is None else min(self.n_cached, n_held)

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def adapters(self) -> AdapterSet:
        return self.request.adapters

    @property
    def slot_id(self) -> int:
        """The id of its slot, which it must have."""
        assert self.slot is not None
        return self.slot.id

    @property
    def n_prompt(self) -> int:
        return len(self.request.prompt)

    @property
    def n_generated(self) -> int:
        return len(self.tokens) - self.n_prompt

    @property
    def n_pending(self) -> int:
        return len(self.tokens) - self.n_computed

    @property
    def only_evaluates(self) -> bool:
        """The request wants no token. It only computes the prompt, so that later requests find it in memory."""
        return self.request.max_tokens == 0

    @property
    def n_unscored(self) -> int:
        """The number of prompt tokens whose log-probabilities are still wanted."""
        return 0 if self.request.prompt_logprobs is None else max(0, self.n_prompt - self.n_scored)

    def is_ended_by(self, token: int, eog: Set[int]) -> bool:
        """Return whether a drawn token ends the answer."""
        request = self.request
        # A constraint says where the answer ends.
        counts = not request.sampling.ignore_eos or request.constraint is not None
        return (token in eog and counts) or token in request.stop_tokens

    @property
    def is_unbegun(self) -> bool:
        """The sequence has never had a slot. After its first slot, it must not be refused for waiting too long."""
        return self.n_cached is None

    @property
    def is_decoding(self) -> bool:
        """Only the tokens drawn in the last step remain to be computed: one token, unless the step drew several."""
        return 0 < self.n_pending <= self.n_drawn


class Slot(Struct, eq=False):
    """A slot of the model's memory. `tokens` is its content, with or without a running sequence.

    Its content cannot be cut to fewer than `n_uncut` tokens, unless it is emptied. It was computed with `adapters`.
    """

    id: int
    tokens: list[int] = field(default_factory=list)
    sequence: Sequence | None = None
    last_used: int = 0
    n_uncut: int = 0
    adapters: AdapterSet = ()

    @property
    def is_idle(self) -> bool:
        return self.sequence is None
