"""How much of a prompt a step computes, next to the sequences that decode."""

from __future__ import annotations

from worker_gguf.engine.costs import StepCosts
from worker_gguf.engine.memory import Memory
from worker_gguf.engine.sequence import Sequence

__all__ = ["prompt_budget", "until_checkpoint"]

# Beside running sequences, a step computes at least so many tokens of prompts.
_LEAST_CHUNK = 16
# And so many as long as the cost of prompts is unknown.
_FIRST_CHUNK = 64
# The end of a chat's prompt, which opens the answer, takes less than so many tokens.
_CHECKPOINT_BEFORE_END = 16


def prompt_budget(most: int, costs: StepCosts, n_decoding: int, n_prefilling: int) -> int:
    """Return the number of prompt tokens, at most `most`, for a step in which sequences decode.

    Prompts may take as long as the decoding itself, or longer if there are more prompts than decoding sequences: each
    sequence counts the same.
    """
    step, per_token = costs.of_rows(n_decoding), costs.per_prompt_token
    if step is None:
        return 0  # a step of nothing but decoding shows what that costs
    if not step or not per_token:
        return min(most, _FIRST_CHUNK)
    seconds = step * max(1.0, n_prefilling / n_decoding)
    return min(most, max(_LEAST_CHUNK, int(seconds / per_token)))


def until_checkpoint(sequence: Sequence, memory: Memory) -> int | None:
    """Return how many pending tokens to compute until the state should be saved, or None if it should not.

    A memory that cannot be cut can only go on from a saved state. The next turn of a chat repeats the prompt except its
    end, which opens the answer, so a state is saved there.
    """
    cache = memory.cache
    if memory.limits.prefix == "any" or cache is None or not sequence.request.cache_prompt:
        return None
    place = sequence.n_prompt - _CHECKPOINT_BEFORE_END
    is_behind = sequence.n_computed > place
    return None if is_behind or not cache.is_worth(place - (sequence.n_cached or 0)) else place - sequence.n_computed
