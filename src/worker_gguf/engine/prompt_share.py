"""How much of a prompt a step computes, next to the sequences that decode."""

from __future__ import annotations

from worker_gguf.engine.costs import StepCosts
from worker_gguf.engine.memory import Memory
from worker_gguf.engine.sequence import Sequence

__all__ = ["PromptShare", "until_checkpoint"]

# A prompt that takes longer is computed in parts next to sequences that decode.
_LONG_S = 0.25
# The time of these parts, as a share of the time of the decoding.
_SHARE = 1.5
# The time of the rows of images that are divided, as a share of the time of the decoding.
_SHARE_OF_ROWS = 0.6
# A part with less than so many rows may take most of its time for the pass through the weights that it needs. So it has
# as many, unless it would then take more than this share.
_EFFICIENT_ROWS = 24
_MOST_SHARE_OF_ROWS = 2.0
# A part has at least so many tokens, because each part may need a pass of its own through the weights.
_LEAST_CHUNK = 8
# And at first, or as long as the costs are unknown, so many.
_FIRST_CHUNK = 64
# The end of a chat's prompt, which opens the answer, takes less than so many tokens.
_CHECKPOINT_BEFORE_END = 16


class PromptShare:
    """The tokens of prompts for one step. Long prompts share a number of tokens; others are not limited here.

    Long prompts may take half as long again as the decoding of the step, or longer if there are more of them than
    decoding sequences: then each sequence counts the same. Where images are divided, their rows share a number of their
    own, which takes less time.
    """

    def __init__(
        self,
        running: list[Sequence],
        decoding: list[Sequence],
        costs: StepCosts,
        prefill_chunk: int,
        *,
        divides_images: bool = False,
    ) -> None:
        self._costs = costs
        self._n_decoding = len(decoding)
        prompts = [sequence for sequence in running if not sequence.is_decoding] if decoding else []
        self._images = {sequence for sequence in prompts if divides_images and _is_at_rows(sequence)}
        most = _most_at_once(costs, prefill_chunk) if prompts else 0
        self._long = {sequence for sequence in prompts if sequence.n_uncached > most} - self._images
        self._left = self._tokens(has_others=len(prompts) > len(self._long)) if self._long else 0
        self._left_of_images = self._rows() if self._images else 0

    def most(self, sequence: Sequence, budget: int) -> int:
        """Return the largest number of tokens of a prompt for this step, at most `budget`."""
        if sequence in self._images:
            return min(budget, self._left_of_images)
        if sequence not in self._long:
            return budget
        # The estimate may be wrong until it has seen such parts, so they grow step by step.
        n_done = sequence.n_uncached - sequence.n_pending
        return min(budget, self._left, max(_FIRST_CHUNK, n_done))

    def take(self, sequence: Sequence, n_tokens: int) -> None:
        if sequence in self._images:
            self._left_of_images -= n_tokens
        elif sequence in self._long:
            self._left -= n_tokens

    def _tokens(self, *, has_others: bool) -> int:
        """Return how many tokens of long prompts the step computes."""
        if self._costs.of_rows(self._n_decoding) is None and not has_others:
            return 0  # this step shows what decoding alone costs
        if (n_equal := self._n_equal()) is None:
            return _FIRST_CHUNK
        # Each part corrects the cost of a token that the next one is sized with, and so the parts keep to their time,
        # although they also have a fixed cost.
        return max(_LEAST_CHUNK, int(n_equal * max(_SHARE, len(self._long) / self._n_decoding)))

    def _rows(self) -> int:
        """Return how many rows of images the step computes."""
        if (n_equal := self._n_equal()) is None:
            return _FIRST_CHUNK
        share = max(_SHARE_OF_ROWS, len(self._images) / self._n_decoding)
        return max(1, min(_EFFICIENT_ROWS, int(n_equal * _MOST_SHARE_OF_ROWS)), int(n_equal * share))

    def _n_equal(self) -> float | None:
        """Return how many tokens of prompts take as long as the decoding of the step; None if that is unknown."""
        step = self._costs.of_rows(self._n_decoding)
        per_token = self._costs.per_part_token or self._costs.per_prompt_token
        return step / per_token if step and per_token else None


def _is_at_rows(sequence: Sequence) -> bool:
    return sequence.tokens[sequence.n_computed] < 0


def _most_at_once(costs: StepCosts, prefill_chunk: int) -> float:
    """Return how many tokens of a prompt may be computed at once next to sequences that decode."""
    per_token = costs.per_prompt_token
    return _LONG_S / per_token if per_token else prefill_chunk


def until_checkpoint(sequence: Sequence, memory: Memory) -> int | None:
    """Return how many pending tokens to compute until the state should be saved, or None if it should not.

    A memory that cannot be cut can only go on from a saved state. The next turn of a chat repeats the prompt except its
    end, which opens the answer, so a state is saved there.
    """
    cache = memory.cache
    if memory.limits.prefix == "any" or cache is None or not sequence.request.cache_prompt:
        return None
    place = sequence.n_prompt - _CHECKPOINT_BEFORE_END
    place = next((run.start for run in sequence.request.runs if run.start < place < run.end), place)
    is_behind = sequence.n_computed > place
    return None if is_behind or not cache.is_worth(place - (sequence.n_cached or 0)) else place - sequence.n_computed
