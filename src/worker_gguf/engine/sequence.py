"""A request on its way: its tokens, how many of them are computed, where it lies. Owned by the scheduler."""

from __future__ import annotations

from dataclasses import dataclass, field

from worker_gguf.engine.request import GenerationRequest

__all__ = ["Sequence", "Slot"]


@dataclass(slots=True, eq=False)
class Sequence:
    """`tokens` is the prompt and all that was drawn; the first `n_computed` of them are in the slot's memory.

    `n_drawn` counts the tokens that the last step drew.
    """

    request: GenerationRequest
    arrival: int
    start_by_s: float | None = None
    tokens: list[int] = field(default_factory=list)
    n_computed: int = 0
    n_cached: int | None = None
    n_drawn: int = 0
    slot: Slot | None = None

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)

    @property
    def id(self) -> str:
        return self.request.id

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
        """No token is wanted: the prompt is computed, so that later requests find it in memory."""
        return self.request.max_tokens == 0

    @property
    def is_unbegun(self) -> bool:
        """It never had a slot: one that has, and waits for another, is not to be refused any more."""
        return self.n_cached is None

    @property
    def is_decoding(self) -> bool:
        """Only the tokens of the last step are left to compute: one, unless several were drawn at once."""
        return 0 < self.n_pending <= self.n_drawn


@dataclass(slots=True, eq=False)
class Slot:
    """A place in the model's memory. `tokens` is its content, with or without a running sequence."""

    id: int
    tokens: list[int] = field(default_factory=list)
    sequence: Sequence | None = None
    last_used: int = 0

    @property
    def is_idle(self) -> bool:
        return self.sequence is None
