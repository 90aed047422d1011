"""Whose turn it is to compute, where requests use different LoRA adapters.

llama.cpp computes a whole step with one set of adapters. After a change of the set, it plans its graphs and buffers
again, which takes 1 ms for a small model on a processor and up to 0.5 s for a large one on a GPU. So a set computes for
several steps before another one does. Pure: the seconds are those that steps report.
"""

from __future__ import annotations

from worker_gguf.engine.adapters import AdapterSet
from worker_gguf.engine.batch import StepResult
from worker_gguf.engine.sequence import Sequence

__all__ = ["MOST_STEPS", "AdapterTurns"]

MOST_STEPS = 64
"""A turn has at most so many steps while others wait."""
# A turn takes so many times as long as a switch, but at least _LEAST_S, which no reader of a stream notices. It takes
# at most _MOST_S, so that no stream stands still for longer, unless switches would take a quarter of the time.
_PER_SWITCH, _LEAST_PER_SWITCH = 10, 3
_LEAST_S, _MOST_S = 0.1, 2.0
# A turn that computes prompts may take so long: they would have waited as long for prompts of their own set.
_PROMPTS_S = 0.25
# As long as the cost of a token of a prompt is unknown, a step has at most so many while others wait to go on.
_FIRST_CHUNK = 64
# The weight of the newest switch in the mean.
_NEWEST = 0.25


class AdapterTurns:
    """Turns of the adapter sets that have running sequences.

    1. A set alone goes on.
    2. A set without sequences gives way at once, and a new sequence of the set whose turn it is joins at once.
    3. As long as no sequence has begun its answer, prompts are computed in the order in which they came.
    4. Else a turn ends after some time, which depends on the time that a switch takes.
    5. The next turn is that of the set that has waited longest. So each waits for at most `MOST_STEPS` steps of each
    other set.
    """

    def __init__(self) -> None:
        self.current: AdapterSet = ()
        """The set whose turn it is."""
        self._waiting: list[AdapterSet] = []  # the one that has waited longest first
        self._n_steps = 0
        self._seconds = 0.0
        self._switch_seconds = 0.0
        self._others_answer = False

    def active(self, running: list[Sequence]) -> list[Sequence]:
        """Return the sequences that compute in the next step, all with the set `current`."""
        if not self._waiting and all(sequence.request.adapters == self.current for sequence in running):
            self._others_answer = False
            return running
        sets = dict.fromkeys(sequence.adapters for sequence in running)
        self._waiting = [waiting for waiting in self._waiting if waiting in sets]
        self._waiting += [new for new in sets if new != self.current and new not in self._waiting]
        mine = [sequence for sequence in running if sequence.adapters == self.current]
        if self._waiting and (not mine or self._is_over(mine, running)):
            self.current = self._waiting.pop(0)
            self._n_steps, self._seconds = 0, 0.0
            mine = [sequence for sequence in running if sequence.adapters == self.current]
        self._others_answer = any(s.is_decoding for s in running if s.adapters != self.current)
        return mine

    def most_of_prompts(self, per_token: float | None) -> int | None:
        """Return the most tokens of prompts for the next step, or None if no other set waits to go on with answers.

        `per_token` is the time that one takes, if it is known.
        """
        if not self._others_answer:
            return None
        return max(_FIRST_CHUNK, int(max(_PROMPTS_S, self._turn_seconds) / per_token)) if per_token else _FIRST_CHUNK

    def note(self, result: StepResult) -> None:
        """Learn from a step that was computed."""
        self._n_steps += 1
        self._seconds += result.decode_seconds + result.sample_seconds
        if result.switch_seconds:
            known = self._switch_seconds or result.switch_seconds
            self._switch_seconds = known + _NEWEST * (result.switch_seconds - known)

    def _is_over(self, mine: list[Sequence], running: list[Sequence]) -> bool:
        if self._n_steps >= MOST_STEPS:
            return True
        if not any(sequence.is_decoding for sequence in running):
            return False
        has_prompts = not all(sequence.is_decoding for sequence in mine)
        return self._seconds >= (max(_PROMPTS_S, self._turn_seconds) if has_prompts else self._turn_seconds)

    @property
    def _turn_seconds(self) -> float:
        switch = self._switch_seconds
        return max(_LEAST_S, min(_PER_SWITCH * switch, max(_MOST_S, _LEAST_PER_SWITCH * switch)))
