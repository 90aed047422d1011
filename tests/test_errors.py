from __future__ import annotations

import inspect

import pytest

from worker_gguf import errors

TREE = [getattr(errors, name) for name in errors.__all__]


def test_every_class_is_exported_and_drawn_in_the_tree() -> None:
    classes = [name for name, _ in inspect.getmembers(errors, inspect.isclass)]
    assert classes == errors.__all__
    assert errors.__doc__ is not None
    assert [name for name in errors.__all__ if name not in errors.__doc__] == []


@pytest.mark.parametrize("error", TREE)
def test_an_error_says_what_the_caller_needs(error: type[errors.WorkerError]) -> None:
    assert issubclass(error, errors.WorkerError)
    assert error.code
    assert error.code == error.code.lower()
    assert 400 <= error.status < 600
    assert error.kind.endswith("_error")


@pytest.mark.parametrize("error", [error for error in TREE if issubclass(error, errors.RequestError)])
def test_what_the_caller_can_mend_is_a_4xx(error: type[errors.WorkerError]) -> None:
    assert 400 <= error.status < 500


@pytest.mark.parametrize("error", [error for error in TREE if not issubclass(error, errors.RequestError)])
def test_what_the_caller_cannot_mend_is_a_5xx(error: type[errors.WorkerError]) -> None:
    assert error.status >= 500


def test_leaves_have_codes_of_their_own() -> None:
    leaves = [error for error in TREE if not error.__subclasses__()]
    assert len({error.code for error in leaves}) == len(leaves)


def test_an_error_carries_its_message_and_field() -> None:
    error = errors.QueueFull("64 requests wait already. Send again in 2 s.", param="n", retry_after_s=2)
    assert str(error) == error.message == "64 requests wait already. Send again in 2 s."
    assert (error.param, error.retry_after_s) == ("n", 2)


def test_an_overlong_prompt_is_refused_with_both_numbers() -> None:
    error = errors.ContextLengthExceeded(5000, 4096)
    assert "5000" in error.message
    assert "4096" in error.message
    assert (error.n_prompt_tokens, error.n_ctx) == (5000, 4096)
