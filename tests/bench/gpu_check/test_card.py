"""Tests of reading nvidia-smi's answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.gpu_check import card
from bench.gpu_check.card import NoCard, read_cards

Install = Callable[..., None]


def test_one_card_is_read(nvidia_smi: Install) -> None:
    nvidia_smi("NVIDIA H200, 580.159.03, 143771, 4")
    cards = read_cards()
    assert tuple(cards) == (("NVIDIA H200",), "580.159.03", 143771, 4)
    assert cards.slug == "nvidia-h200"


def test_the_memory_of_several_cards_is_added_up(nvidia_smi: Install) -> None:
    nvidia_smi("NVIDIA GeForce RTX 4090, 550.1, 24564, 10\nNVIDIA GeForce RTX 4090, 550.1, 24564, 3000")
    cards = read_cards()
    assert (cards.total_mib, cards.used_mib) == (49128, 3010)
    assert cards.slug == "2x-nvidia-geforce-rtx-4090"


@pytest.mark.parametrize(
    ("says", "code", "sentence"),
    [
        ("No devices were found", 6, "nvidia-smi says: No devices were found"),
        ("", 9, "nvidia-smi says: exit code 9"),
        ("NVIDIA H100, 550.1, [N/A], [N/A]", 0, "cannot be read: 'NVIDIA H100, 550.1, [N/A], [N/A]'"),
    ],
)
def test_without_a_card_there_is_a_sentence(nvidia_smi: Install, says: str, code: int, sentence: str) -> None:
    nvidia_smi(says, code)
    with pytest.raises(NoCard) as caught:
        read_cards()
    assert sentence in str(caught.value)


def test_without_the_driver_there_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(card, "_PLACES", ())
    with pytest.raises(NoCard, match="nvidia-smi, which comes with the driver, is missing"):
        read_cards()
