"""Tests of the settings' part in a load. The plan itself is tested in test_plan.py."""

from __future__ import annotations

import pytest

from worker_gguf.plan.planning import repacks
from worker_gguf.settings import Settings


@pytest.mark.parametrize(
    ("repack", "processor", "expected"),
    [
        ("auto", "x86_64", False),
        ("auto", "aarch64", True),
        ("on", "x86_64", True),
        ("off", "aarch64", False),
    ],
)
def test_weights_are_rearranged_where_it_pays_or_where_it_is_asked_for(
    repack: str, processor: str, expected: bool
) -> None:
    assert repacks(Settings.load({"REPACK": repack}), processor) is expected
