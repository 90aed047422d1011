"""Tests that a hostile header is refused quickly and with little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.gguf.gguf_value import U32, Key, Written, number
from tests.gguf.hostile import HOSTILE, LLAMA, SMALL, Reading, W
from worker_gguf.errors import ModelInvalid
from worker_gguf.gguf import read_header, read_headers

MOST_S = 2.0
"""Processor time, ten times what it takes where nothing else runs: it grows with nothing the file says."""
MOST_BYTES = 32 << 20
SOUND = {"millions of short texts"}
"""Large, and nothing is wrong with it."""


@pytest.fixture(scope="module")
def readings() -> dict[str, Reading]:
    done = subprocess.run([sys.executable, "-m", "tests.gguf.hostile"], stdout=subprocess.PIPE, check=True, text=True)
    return {(reading := Reading(**json.loads(line))).name: reading for line in done.stdout.splitlines()}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused_in_one_sentence_and_bounded_memory(
    name: str, readings: dict[str, Reading]
) -> None:
    reading = readings[name]
    assert reading.error == ("" if name in SOUND else "ModelInvalid"), reading
    assert reading.grown_bytes < MOST_BYTES
    assert reading.seconds < MOST_S
    assert "\n" not in reading.message
    assert len(reading.message) < 400


def test_a_file_cut_at_any_byte_is_refused() -> None:
    whole = replace(SMALL, tensors=(W, replace(W, name=b"v"))).write()
    assert len(read_header(whole).tensors) == 2
    for size in range(len(whole)):
        with pytest.raises(ModelInvalid):
            read_header(whole[:size])


def _part(number_: int, no: int, count: int, n_tensors: int, tensor: str) -> bytes:
    own = (LLAMA, Key(b"llama.block_count", U32, number(U32, 1))) if number_ == 0 else ()
    said = {"split.no": no, "split.count": count, "split.tensors.count": n_tensors}
    keys = (Key(name.encode(), U32, number(U32, value)) for name, value in said.items())
    return Written((*own, *keys), (replace(W, name=tensor.encode()),)).write()


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([(0, 2, 2, "a"), (1, 2, 2, "b")], None),
        ([(0, 3, 2, "a"), (1, 3, 2, "b")], "model of 3 files, and 2 were found"),
        ([(0, 2, 2, "a"), (0, 2, 2, "b")], "should be part 2 of 2"),
        ([(1, 2, 2, "a"), (0, 2, 2, "b")], "should be part 1 of 2"),
        ([(0, 2, 2, "a"), (1, 5, 2, "b")], "should be part 2 of 2"),
        ([(0, 2, 2, "a"), (1, 2, 2, "a")], "1 different tensors, and 2 were expected"),
        ([(0, 2, 7, "a"), (1, 2, 7, "b")], "2 different tensors, and 7 were expected"),
    ],
)
def test_parts_that_are_not_of_one_model_are_refused(
    parts: list[tuple[int, int, int, str]], says: str | None, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{n}.gguf" for n in range(len(parts))]
    for n, (path, part) in enumerate(zip(paths, parts, strict=True)):
        path.write_bytes(_part(n, *part))
    if says is None:
        assert len(read_headers(paths).tensors) == 2
        return
    with pytest.raises(ModelInvalid, match=says):
        read_headers(paths)
