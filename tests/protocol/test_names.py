"""Tests of the names of fields: those of the common parser become those that the client sent."""

from __future__ import annotations

import pytest

from worker_gguf.errors import ContextLengthExceeded, InvalidRequest
from worker_gguf.protocol.names import AS_SENT, Names

NAMES = Names({"a": "x", "b": "y.", "c.d": "z", "e.*.f": "g.*.h"})


@pytest.mark.parametrize(
    ("common", "own"),
    [
        ("a", "x"),
        ("a.0.b", "x.0.b"),
        ("ab", "ab"),
        ("b.0.c", "y"),
        ("c", "c"),
        ("c.d.e", "z.e"),
        ("e.12.f.i", "g.12.h.i"),
        ("e.12", "e.12"),
        ("i.a", "i.a"),
    ],
)
def test_a_name_becomes_that_of_the_field_from_which_it_comes(common: str, own: str) -> None:
    assert NAMES.of(common) == own
    assert list(NAMES.all([common, "i"])) == [own, "i"]


def test_an_error_names_the_field_that_was_sent_and_keeps_all_else() -> None:
    with pytest.raises(ContextLengthExceeded) as caught, NAMES.in_errors():
        raise ContextLengthExceeded(20, 10, param="a")
    error = caught.value
    assert (error.param, error.n_prompt_tokens, error.n_ctx, error.code) == ("x", 20, 10, "context_length_exceeded")
    assert NAMES.worded(InvalidRequest("'a' excludes 'b.c', not a.", param="a")).message == "'x' excludes 'y', not a."
    plain = InvalidRequest("'a' is wrong.")
    assert NAMES.worded(plain) is plain
    assert AS_SENT.worded(error) is error
