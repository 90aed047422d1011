"""Tests of messages in channels."""

from __future__ import annotations

from tests.markup.reading import read
from worker_gguf.markup.known_formats import GPT_OSS


def test_channels_are_told_apart() -> None:
    start = "<|start|>assistant"
    call = "<|channel|>commentary to=functions.look_up <|constrain|>json<|message|>"
    assert read(GPT_OSS, f'{call}{{"n": 1}}<|call|>{start}{call}{{"n": 2}}', start)[2] == [
        ("look_up", {"n": 1}),
        ("look_up", {"n": 2}),
    ]
    unknown = "<|channel|>commentary to=functions.unknown<|message|>{}"
    assert read(GPT_OSS, unknown, start) == ("{}", "", [])
    assert read(GPT_OSS, "Yes.", f"{start}<|channel|>final<|message|>Well, ") == ("Yes.", "", [])
