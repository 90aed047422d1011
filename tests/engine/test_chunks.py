"""Tests of chunks: each token of a prompt is scored once, whatever else runs and however often the prompt must wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.test_scheduler import Drive
from tests.fakes import foretold, limits
from worker_gguf.engine.updates import Scored, Update


class Scoring(Drive):
    def take(self, updates: list[Update]) -> None:
        super().take(updates)
        for update in updates:
            if isinstance(update, Scored):
                self.scored.setdefault(update.sequence.id, []).extend(entry.token for entry in update.logprobs)

    scored: dict[str, list[int]]


def driven(**changes: object) -> Scoring:
    drive = Scoring(limits(**changes), prefill_chunk=8)
    drive.scored = {}
    return drive


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
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 4), st.booleans()), min_size=1, max_size=5),
    st.integers(2, 6),
    st.lists(st.booleans(), max_size=20),
)
def test_every_prompt_is_scored_once_beside_others_and_after_it_had_to_wait(
    asked: list[tuple[int, int, bool]], n_rows: int, refusals: list[bool]
) -> None:
    drive = driven(n_rows=n_rows, n_cells=40)
    for n, (length, max_tokens, scores) in enumerate(asked):
        prompt = [1 + (n * 7 + at) % 50 for at in range(length)]
        drive.add(str(n), prompt, max_tokens=max_tokens, prompt_logprobs=0 if scores else None, cache_prompt=not scores)
    for refuse in refusals:
        drive.step(refuse=refuse)
    drive.finish()
    for n, (length, max_tokens, scores) in enumerate(asked):
        prompt = [1 + (n * 7 + at) % 50 for at in range(length)]
        assert drive.scored.get(str(n), []) == (prompt[1:] if scores else [])
        assert drive.tokens.get(str(n), []) == foretold(prompt, max_tokens)
