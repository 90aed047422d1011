"""Tests of images in prompts: which rows are computed together, and what two prompts with images share."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.test_scheduler import Drive, fair_engine
from tests.fakes import foretold, limits
from worker_gguf.engine.image_runs import (
    IMAGE,
    MOST_ROWS,
    ImageRun,
    at_start_of_run,
    in_one_run,
    number_of,
    row_ids,
    row_of,
)
from worker_gguf.engine.slots import reusable

Piece = int | tuple[int, int]
"""Tokens of a text, or the number of an image and of its rows."""


def prompt_of(pieces: list[Piece], *, is_whole: bool = False) -> tuple[list[int], tuple[ImageRun, ...]]:
    """Return a prompt and its runs of rows. A text of n tokens is n times the token n."""
    tokens: list[int] = []
    runs: list[ImageRun] = []
    for piece in pieces:
        if isinstance(piece, int):
            tokens += [piece] * piece
            continue
        runs.append(ImageRun(len(tokens), piece[1], is_whole))
        tokens += row_ids(*piece)
    return tokens, tuple(runs)


def add(drive: Drive, request_id: str, pieces: list[Piece], *, is_whole: bool = False, **changes: object) -> list[int]:
    tokens, runs = prompt_of(pieces, is_whole=is_whole)
    drive.add(request_id, tokens, runs=runs, **changes)
    return tokens


def computed(drive: Drive, slot: int = 0) -> list[list[int]]:
    """Return the chunks of a slot so far."""
    return [chunk.tokens for batch in drive.runner.batches for chunk in batch.chunks if chunk.slot == slot]


@given(st.integers(0, 10**9), st.integers(0, MOST_ROWS - 1))
def test_the_id_of_a_row_tells_its_run_and_its_place_in_it(number: int, row: int) -> None:
    token = row_ids(number, MOST_ROWS)[row]
    assert token < IMAGE
    assert (number_of(token), row_of(token)) == (number, row)


def test_rows_and_tokens_are_never_computed_in_one_chunk() -> None:
    drive = Drive(limits(n_batch=64))
    tokens = add(drive, "a", [3, (7, 5), (8, 4), 2])
    drive.finish()
    assert computed(drive)[:4] == [[3] * 3, list(row_ids(7, 5)), list(row_ids(8, 4)), [2] * 2]
    assert drive.tokens["a"] == foretold(tokens, 4)


def test_an_image_whose_rows_look_back_alone_is_computed_in_parts() -> None:
    drive = Drive(limits(n_batch=4))
    add(drive, "a", [1, (7, 10), 1])
    drive.finish()
    assert [len(tokens) for tokens in computed(drive)[:5]] == [1, 4, 4, 2, 1]


def test_an_image_whose_rows_see_each_other_is_computed_at_once_beside_answers() -> None:
    drive = Drive(limits(n_batch=16), prefill_chunk=4)
    add(drive, "answers", [1], max_tokens=20)
    drive.step()
    add(drive, "a", [1, (7, 14), 1], is_whole=True)
    drive.finish()
    assert list(row_ids(7, 14)) in computed(drive, 1)
    assert len(drive.tokens["answers"]) == 20


def rows_of_steps(drive: Drive, request_id: str) -> list[int]:
    """Run until a request has ended, and return the number of rows of images in each step."""
    sizes: list[int] = []
    while request_id not in drive.endings:
        drive.step()
        sizes.append(sum(token < 0 for chunk in drive.runner.batches[-1].chunks for token in chunk.tokens))
    return sizes


@pytest.mark.parametrize(("fixed", "least", "most"), [(0.0, 50, 60), (0.003, 24, 45), (0.01, 24, 45)])
def test_a_divided_image_takes_six_tenths_of_the_time_of_the_answers_beside_it(
    fixed: float, least: int, most: int
) -> None:
    drive = fair_engine(fixed, divides_images=True)
    add(drive, "image", [3, (7, 900), 2], max_tokens=1)
    sizes = [size for size in rows_of_steps(drive, "image") if size]
    assert sum(sizes) == 900
    # Decoding takes 10 ms, and a row 0.1 ms beside the fixed cost. However high that is, parts have 24 rows.
    assert max(sizes) <= most
    assert min(sizes[10:-1]) >= least


def test_rows_that_cost_as_much_as_tokens_of_answers_take_at_most_twice_as_long_as_these() -> None:
    drive = fair_engine(divides_images=True)
    drive.runner.seconds = lambda n_rows, n_prompt: 0.002 + 0.001 * n_rows + 0.003 * n_prompt
    add(drive, "image", [3, (7, 100), 2], max_tokens=1)
    sizes = [size for size in rows_of_steps(drive, "image") if size]
    assert max(sizes[5:]) <= 7
    assert min(sizes[5:-1]) >= 5


def test_an_image_that_is_not_divided_is_computed_at_once_beside_answers() -> None:
    drive = fair_engine()
    add(drive, "image", [3, (7, 400), 2], max_tokens=1)
    assert max(rows_of_steps(drive, "image")) == 400


def test_an_image_and_an_older_long_prompt_do_not_wait_for_each_other() -> None:
    def steps_of_prompt(*, with_image: bool) -> tuple[int, int]:
        drive = fair_engine(divides_images=True)
        drive.take(drive.scheduler.finish("s0", "cancelled"))
        drive.add("long", [7] * 4000, max_tokens=1)
        drive.step()
        if with_image:
            add(drive, "image", [3, (7, 100), 2], max_tokens=1)
        ends: dict[str, int] = {}
        n_steps = 0
        while "long" not in drive.endings:
            drive.step()
            n_steps += 1
            if "image" in drive.endings:
                ends.setdefault("image", n_steps)
        return n_steps, ends.get("image", 0)

    alone, _ = steps_of_prompt(with_image=False)
    beside, image = steps_of_prompt(with_image=True)
    assert 0 < image <= 6
    assert beside <= alone + 2


def test_images_are_computed_at_once_where_nothing_decodes() -> None:
    drive = Drive(limits(n_ctx=1000, n_cells=2000, n_batch=512))
    add(drive, "a", [3, (7, 400), 2])
    drive.finish()
    assert list(row_ids(7, 400)) in computed(drive)


def test_an_image_is_reused_whole() -> None:
    first, _ = prompt_of([3, (7, 5), 2])
    assert reusable(first, [*first, 9], n_uncut=0) == len(first)
    assert reusable(first, prompt_of([3, (7, 5), 1])[0], n_uncut=0) == 8
    assert reusable(first, prompt_of([3, (8, 5), 2])[0], n_uncut=0) == 3


def test_a_part_of_an_image_is_not_reused() -> None:
    tokens, _ = prompt_of([3, (7, 5), 2])
    assert reusable(tokens[:6], tokens, n_uncut=0) == 3
    # Nor is an image at the end of a prompt, whose last row is computed for its logits.
    assert reusable(tokens, tokens[:8], n_uncut=0) == 3


def test_the_next_turn_of_a_chat_computes_only_what_follows_the_image() -> None:
    drive = Drive(limits())
    add(drive, "a", [3, (7, 5), 2])
    drive.finish()
    add(drive, "b", [3, (7, 5), 4])
    drive.finish()
    (ending,) = drive.endings["b"]
    assert ending.sequence.n_cached == 8
    assert drive.tokens["b"] == foretold(prompt_of([3, (7, 5), 4])[0], 4)


def test_a_cancel_inside_an_image_leaves_what_is_before_it() -> None:
    drive = Drive(limits(n_batch=4))
    add(drive, "a", [4, (7, 10), 1])
    drive.step()
    drive.step()
    drive.take(drive.scheduler.finish("a", "cancelled"))
    add(drive, "b", [4, (7, 10), 1])
    drive.finish()
    (ending,) = drive.endings["b"]
    assert ending.sequence.n_cached == 4
    assert drive.tokens["b"] == foretold(prompt_of([4, (7, 10), 1])[0], 4)


def test_a_state_is_saved_before_an_image_and_not_inside_it() -> None:
    drive = Drive(
        limits(n_ctx=600, n_cells=1200, n_batch=600, prefix="whole", saved_prefix="whole"),
        cache_bytes=10_000,
        seconds=lambda n_rows, n_prompt: 0.01 * (n_rows + n_prompt),
    )
    add(drive, "first", [20], max_tokens=4)
    drive.finish()
    tokens = add(drive, "a", [21, 22, (7, 30), 5])
    drive.finish()
    assert drive.runner.states
    assert all(at_start_of_run(tokens, len(state)) == len(state) for state in drive.runner.states.values())
    assert drive.tokens["a"] == foretold(tokens, 4)


def test_no_row_of_an_image_is_ever_guessed() -> None:
    def repeating(history: object) -> int:
        # Three tokens that also stand before the image.
        return 5

    drive = Drive(limits(n_rows=16, n_ctx=128, n_cells=256), draw=repeating, seconds=lambda rows, prompt: 1.0)
    add(drive, "a", [5, (7, 6), 3], max_tokens=40)
    drive.finish()
    guessed = [token for batch in drive.runner.batches for chunk in batch.chunks for token in chunk.guesses]
    assert guessed
    assert min(guessed) > 0


@pytest.mark.parametrize("is_whole", [False, True])
def test_together_ends_at_the_next_boundary(is_whole: bool) -> None:
    runs = (ImageRun(3, 5, is_whole), ImageRun(8, 2, is_whole))
    assert in_one_run(runs, 0, 20) == 3
    assert in_one_run(runs, 1, 1) == 1
    assert in_one_run(runs, 3, 4) == (5 if is_whole else 4)
    assert in_one_run(runs, 8, 9) == 2
    assert in_one_run(runs, 10, 9) == 9


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.lists(st.one_of(st.integers(1, 6), st.tuples(st.integers(0, 2), st.just(7))), min_size=1, max_size=4),
            st.integers(0, 6),
        ),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
    st.booleans(),
    st.integers(8, 30),
)
def test_every_prompt_with_images_is_answered_as_alone(
    prompts: list[tuple[list[Piece], int]], is_whole: bool, partitioned: bool, n_batch: int
) -> None:
    drive = Drive(limits(n_batch=n_batch, n_slots=3, n_rows=9, partitioned=partitioned), prefill_chunk=5)
    asked: dict[str, list[int]] = {}
    for i, (pieces, n_steps) in enumerate(prompts):
        asked[str(i)] = add(drive, str(i), [*pieces, 1], is_whole=is_whole)
        for _ in range(n_steps):
            drive.step()
    drive.finish()
    for request_id, tokens in asked.items():
        assert drive.tokens[request_id] == foretold(tokens, 4)
    for chunks in (computed(drive, slot) for slot in range(3)):
        for one, other in pairwise(chunks):
            inside = at_start_of_run([*one, *other], len(one)) < len(one) and number_of(one[-1]) == number_of(other[0])
            assert not (is_whole and one[-1] < 0 and inside)
