"""Tests of variables whose names are nearly the name of a setting."""

from __future__ import annotations

import pytest

from worker_gguf.settings import Settings
from worker_gguf.settings.typos import meant, misspellings


@pytest.mark.parametrize(
    ("name", "setting"),
    [("N_CTXX", "N_CTX"), ("API_KEY", "API_KEYS"), ("n_paralel", "N_PARALLEL"), ("LOGLEVEL", "LOG_LEVEL")],
)
def test_a_slip_is_recognised(name: str, setting: str) -> None:
    assert meant(name) == setting


def test_no_setting_is_taken_for_another() -> None:
    assert not misspellings(known.upper() for known in Settings.model_fields)


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "HOME",
        "HOSTNAME",
        "TEMP",
        "OMP_NUM_THREADS",
        "HF_XET_CACHE",
        "HF_HUB_OFFLINE",
        "RUNPOD_POD_IDS",
        "CUDA_VISIBLE_DEVICES",
        "KUBERNETES_PORT",
        "KUBERNETES_SERVICE_HOST",
        "TOKENIZERS_PARALLELISM",
        "MODELS_DIR",
    ],
)
def test_what_others_set_is_let_alone(name: str) -> None:
    assert meant(name) is None


def test_only_names_in_capital_letters_are_judged() -> None:
    assert misspellings(["n_ctxx", "N_CTXX", "N_CTX"]) == {"N_CTXX": "N_CTX"}
