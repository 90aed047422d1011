"""The chunk of a sequence in a step: tokens to compute, and rows of logits that draw or score.

The row of a token gives the log-probability of the token after it. Where the log-probabilities of a prompt are wanted,
all its rows but the last one are scored, in chunks of their own, which draw nothing.
"""

from __future__ import annotations

from collections.abc import Sequence as Tokens

from msgspec.structs import replace

from worker_gguf.engine.batch import Chunk
from worker_gguf.engine.image_runs import in_one_run
from worker_gguf.engine.sequence import Sequence

__all__ = ["chunk_of", "most_of_prompt", "with_guesses"]


def most_of_prompt(sequence: Sequence, wanted: int, n_rows: int) -> int:
    """Return how many of the `wanted` tokens of a prompt one chunk can have, if it may have `n_rows` rows.

    They are more than are wanted if the rows of an image must be computed together.
    """
    if not sequence.n_unscored:
        return in_one_run(sequence.request.runs, sequence.n_computed, wanted) if wanted > 0 else 0
    # After a sequence had to wait, the tokens that were scored before are computed again without rows.
    n_known = sequence.n_scored - 1 - sequence.n_computed
    return min(wanted, n_known or min(n_rows, sequence.n_unscored))


def chunk_of(sequence: Sequence, n: int) -> Chunk:
    """Return the next `n` tokens of a sequence, which has a slot."""
    start = sequence.n_computed
    tokens = sequence.tokens[start : start + n]
    if sequence.n_unscored and start + 1 >= sequence.n_scored:
        scored = tuple(sequence.tokens[start + 1 : start + 1 + n])
        return Chunk(sequence.slot_id, start, tokens, n, scored)
    draws = n == sequence.n_pending and not sequence.only_evaluates
    return Chunk(sequence.slot_id, start, tokens, int(draws), is_decoding=sequence.is_decoding)


def with_guesses(chunk: Chunk, guesses: Tokens[int]) -> Chunk:
    """Return a chunk that draws, followed by guesses, which draw too."""
    return replace(chunk, tokens=[*chunk.tokens, *guesses], n_outputs=1 + len(guesses))
