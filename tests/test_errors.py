from __future__ import annotations

import inspect
import re

import pytest

from worker_gguf import errors

TREE = [getattr(errors, name) for name in errors.__all__]


def test_every_class_is_exported_and_drawn_in_the_tree() -> None:
    classes = [name for name, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]
    assert classes == errors.__all__
    assert errors.__doc__ is not None
    assert [name for name in errors.__all__ if name not in errors.__doc__] == []


@pytest.mark.parametrize("error", TREE)
def test_an_error_has_the_facts_that_the_caller_needs(error: type[errors.WorkerError]) -> None:
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


def test_an_overlong_prompt_is_refused_with_its_numbers() -> None:
    error = errors.ContextLengthExceeded(5000, 4096, n_answer_tokens=100, param="messages")
    assert (error.n_prompt_tokens, error.n_ctx) == (5000, 4096)
    assert error.message.startswith(
        "This model's maximum context length is 4096 tokens. However, you requested 5100 tokens (5000 in the messages, "
        "100 in the completion). Please reduce the length of the messages or completion."
    )
    assert error.message.endswith("shorten it, or raise N_CTX.")


@pytest.mark.parametrize("n_answer_tokens", [None, 0])
def test_at_least_one_token_is_left_for_the_answer(n_answer_tokens: int | None) -> None:
    error = errors.ContextLengthExceeded(4096, 4096, n_answer_tokens=n_answer_tokens, param="prompt")
    assert "you requested 4097 tokens (4096 in the prompt, 1 in the completion)" in error.message


# What clients look for: in the whole message without regard to case, or as a pattern with numbers.
PHRASES = (
    "this model's maximum context length is",
    "exceeds the available context size",
    "reduce the length of the messages",
    "context length",
)
PATTERNS = (
    r"maximum context length is (\d+) tokens",
    r"maximum context length is (\d+).*?requested (\d+) tokens",
    r"context length[^0-9]{0,20}(\d+)",
    r"\((\d+) in the messages, (\d+) in the completion\)",
)


@pytest.mark.parametrize("phrase", PHRASES)
def test_clients_find_their_phrase_in_the_error_of_an_overlong_prompt(phrase: str) -> None:
    assert phrase in errors.ContextLengthExceeded(5000, 4096, param="messages").message.lower()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_clients_find_their_numbers_in_the_error_of_an_overlong_prompt(pattern: str) -> None:
    found = re.search(pattern, errors.ContextLengthExceeded(5000, 4096, param="messages").message)
    assert found is not None
    assert found[1] in ("4096", "5000")
