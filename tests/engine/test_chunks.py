"""Tests of chunks: each token of a prompt is scored once, whatever else runs and however often the prompt must wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.test_scheduler import Drive
from tests.fakes import foretold, limits, successor
from worker_gguf.engine.updates import Scored, Update


class Scoring(Drive):
    def take(self, updates: list[Update]) -> None:
        super().take(updates)
        for update in updates:
            if isinstance(update, Scored):
                self.scored.setdefault(update.sequence.id, []).extend(entry.token for entry in update.logprobs)

    scored: dict[str, list[int]]


def driven(draw: Callable[[Sequence[int]], int] = successor, **changes: object) -> Scoring:
    drive = Scoring(limits(**changes), prefill_chunk=8, draw=draw, seconds=lambda *_: 1.0)
    drive.scored = {}
    return drive


def repeating(history: Sequence[int]) -> int:
    """Return the next token of an answer that repeats three tokens, so that guesses are right."""
    return 1 + len(history) % 3


@pytest.mark.parametrize("n_rows", [2, 3, 5, 100])
@pytest.mark.parametrize("max_tokens", [0, 1, 4])
def test_all_tokens_of_a_prompt_but_the_first_are_scored_in_order(n_rows: int, max_tokens: int) -> None:
    drive = driven(n_rows=n_rows)
    prompt = list(range(1, 20))
    drive.add("a", prompt, max_tokens=max_tokens, prompt_logprobs=0, cache_prompt=False)
    drive.finish()
    assert drive.scored["a"] == prompt[1:]
    assert drive.tokens.get("a", []) == foretold(prompt, max_tokens)


def test_a_prompt_of_one_token_has_nothing_to_score() -> None:
    drive = driven()
    drive.add("a", [7], max_tokens=2, prompt_logprobs=3, cache_prompt=False)
    drive.finish()
    assert drive.scored == {}
    assert drive.tokens["a"] == foretold([7], 2)


@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 30), st.booleans()), min_size=1, max_size=5),
    st.integers(2, 12),
    st.lists(st.booleans(), max_size=20),
    st.sampled_from([successor, repeating]),
)
def test_every_prompt_is_scored_once_beside_others_and_after_it_had_to_wait(
    asked: list[tuple[int, int, bool]], n_rows: int, refusals: list[bool], draw: Callable[[Sequence[int]], int]
) -> None:
    drive = driven(draw, n_rows=n_rows, n_cells=64)
    for n, (length, max_tokens, scores) in enumerate(asked):
        prompt = [1 + (n * 7 + at) % 50 for at in range(length)]
        drive.add(str(n), prompt, max_tokens=max_tokens, prompt_logprobs=0 if scores else None, cache_prompt=not scores)
    for refuse in refusals:
        drive.step(refuse=refuse)
    drive.finish()
    for n, (length, max_tokens, scores) in enumerate(asked):
        prompt = [1 + (n * 7 + at) % 50 for at in range(length)]
        assert drive.scored.get(str(n), []) == (prompt[1:] if scores else [])
        assert drive.tokens.get(str(n), []) == foretold(prompt, max_tokens, draw)


def test_guesses_take_only_rows_that_a_scored_prompt_leaves() -> None:
    drive = driven(repeating, n_ctx=400, n_cells=800, n_batch=64, n_rows=12)
    drive.add("a", [1, 2], max_tokens=300)
    while len(drive.tokens.get("a", ())) < 100:
        drive.step()
    assert [chunk.n_outputs for chunk in drive.runner.batches[-1].chunks] == [12]
    drive.add("b", list(range(5, 60)), max_tokens=0, prompt_logprobs=0, cache_prompt=False)
    n_before = len(drive.runner.batches)
    while "b" not in drive.endings:
        drive.step()
    rows = [[chunk.n_outputs for chunk in batch.chunks] for batch in drive.runner.batches[n_before:]]
    assert max(map(sum, rows)) == 12
    assert drive.scored["b"] == list(range(6, 60))


def test_a_prompt_that_draws_nothing_takes_no_row_from_guesses() -> None:
    drive = driven(repeating, n_ctx=400, n_cells=800, n_batch=64, n_rows=12)
    drive.add("a", [1, 2], max_tokens=300)
    while len(drive.tokens.get("a", ())) < 100:
        drive.step()
    drive.add("b", [7, 8], max_tokens=0)
    drive.step()
    assert [chunk.n_outputs for chunk in drive.runner.batches[-1].chunks] == [12, 0]
