"""Tests of the errors that clients get for a model that failed."""

from __future__ import annotations

import pytest

from worker_gguf.errors import ModelInvalid, ModelNotFound
from worker_gguf.fleet.status import public


@pytest.mark.parametrize(
    "text",
    [
        "No model file exists at /mnt/secret/x.gguf.",
        "CHAT_TEMPLATE='/mnt/a b' is neither a template",
        "MODEL=~/secret/x.gguf is not there",
        "(../secret.gguf) is damaged",
        "https://host/x.gguf?token=abc answered 403",
    ],
)
def test_a_path_or_an_address_stays_in_the_log(text: str) -> None:
    told = public("m", ModelInvalid(text))
    assert told.message == "The model 'm' could not be brought up (model_invalid). The worker's log has the reason."
    assert isinstance(told, ModelInvalid)


@pytest.mark.parametrize("text", ["org/repo has no Q4_K_M and/or Q8_0.", "x.gguf is damaged: 3/4 of it is there."])
def test_any_other_reason_is_reported_unchanged(text: str) -> None:
    why = ModelNotFound(text)
    assert public("m", why) is why
