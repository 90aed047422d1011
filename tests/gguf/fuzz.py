"""Damages models at random and brings each up: `make fuzz-gguf`, or `python -m tests.gguf.fuzz --seconds 600 --seed 1`.

Half of the files have flipped bytes; the others are written whole, with keys and tensors that are not true. None may
end the process without a sentence, none may keep it busy.
"""

from __future__ import annotations

import argparse
import collections
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Final

from tests.gguf.gguf_value import ARR, BOOL, F32, STR, U32, Written, array, number, text
from tests.gguf.loading import Outcome, load_apart
from worker_gguf.embedded import MODEL_PATH

__all__ = ["Tally", "damaged", "fuzz"]

SOUND: Final = MODEL_PATH.read_bytes()
PARTS: Final = Written.read(SOUND)
HEADER_BYTES: Final = len(SOUND) - sum(len(tensor.content) for tensor in PARTS.tensors)
NUMBERS: Final = (0, 1, 2, 3, 5, 8, 31, 33, 64, 128, 255, 512, 1024, 65_535, 1 << 20, 1 << 31, (1 << 32) - 1)
FLOATS: Final = (0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"))
TEXTS: Final = ("", "x", "llama", "gpt2", "bert", "t5", "rwkv", "no_vocab", "mamba", "gemma3", "qwen3moe", "clip")
MORE: Final = (
    "attention.key_length", "attention.value_length", "attention.sliding_window", "expert_shared_count",
    "expert_group_count", "leading_dense_block_count", "nextn_predict_layers", "pooling_type", "expert_gating_func",
)  # fmt: skip


@dataclass(slots=True)
class Tally:
    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    broken: list[tuple[int, Outcome]] = field(default_factory=list)
    """What ended without a sentence, with the seed that makes the file again."""
    slowest_s: float = 0.0
    seconds: float = 0.0

    def __str__(self) -> str:
        ends = ", ".join(f"{n} {name}" for name, n in self.outcomes.most_common())
        return (
            f"gguf fuzz: {sum(self.outcomes.values())} damaged models: {ends}; {len(self.broken)} ended without a "
            f"sentence; {self.slowest_s:.1f} s at most; {self.seconds:.0f} s"
        )


def damaged(seed: int) -> bytes:
    """Return the sound model with some damage, the same for the same seed."""
    chance = random.Random(seed)
    return _flipped(chance) if chance.random() < 0.5 else _rewritten(chance).write()


def fuzz(seconds: float, seed: int, folder: Path) -> Tally:
    tally, path, begun_at = Tally(), folder / "damaged.gguf", time.monotonic()
    while time.monotonic() - begun_at < seconds:
        path.write_bytes(damaged(seed))
        outcome = load_apart(path)
        tally.outcomes[outcome.error or ("llama.cpp stopped" if outcome.is_typed else "nothing said")] += 1
        tally.slowest_s = max(tally.slowest_s, outcome.seconds)
        if not outcome.is_typed or outcome.error.startswith("unexpected"):
            tally.broken.append((seed, outcome))
            print(f"  seed {seed}: {outcome}", file=sys.stderr, flush=True)
        seed += 1
    tally.seconds = time.monotonic() - begun_at
    return tally


def _flipped(chance: random.Random) -> bytes:
    data = bytearray(SOUND)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        at = chance.randrange(HEADER_BYTES)
        if chance.random() < 0.5:
            data[at] = chance.randrange(256)
        else:
            data[at : at + 8] = chance.choice((0, 1, 1 << 31, 1 << 62, (1 << 64) - 1)).to_bytes(8, "little")
    return bytes(data[: chance.randrange(len(data))] if chance.random() < 0.1 else data)


def _rewritten(chance: random.Random) -> Written:
    written = PARTS
    for _ in range(chance.choice((1, 1, 2, 3))):
        change = chance.choice((_with_another_key, _with_another_key, _with_another_tensor, _with_one_more))
        written = change(written, chance)
    return written


def _with_another_key(written: Written, chance: random.Random) -> Written:
    key = chance.choice(written.keys)
    name = key.name.decode()
    if chance.random() < 0.2:
        return written.without(name)
    kind = key.type if chance.random() < 0.7 else chance.choice((U32, F32, BOOL, STR, ARR))
    return written.with_key(name, kind, _value(kind, chance))


def _with_one_more(written: Written, chance: random.Random) -> Written:
    return written.with_key(f"llama.{chance.choice(MORE)}", U32, number(U32, chance.choice(NUMBERS)))


def _with_another_tensor(written: Written, chance: random.Random) -> Written:
    if not written.tensors:
        return written
    tensor = chance.choice(written.tensors)
    name = tensor.name.decode()
    match chance.randrange(5):
        case 0:
            return written.without_tensor(name)
        case 1:
            return written.change(name, lambda t: replace(t, type=chance.choice((0, 1, 2, 8, 12, 24, 26, 28, 30, 39))))
        case 2:
            return written.change(name, lambda t: replace(t, content=chance.randbytes(len(t.content))))
        case 3:
            return written.change(name, lambda t: replace(t, offset=chance.choice((0, 32, 1 << 20, (1 << 64) - 32))))
        case _:
            shape = tuple(chance.choice((n, n, 1, 32, n * 2, n // 2)) for n in tensor.shape)
            return written.change(name, lambda t: replace(t, shape=shape, type=0, content=bytes(4 * prod(shape))))


def _value(kind: int, chance: random.Random) -> bytes:
    if kind == STR:
        return text(chance.choice(TEXTS))
    if kind == ARR:
        item = chance.choice((U32, F32, STR))
        return array(item, [_value(item, chance)] * chance.choice((0, 1, 4, 1024)))
    if kind == F32:
        return number(F32, chance.choice(FLOATS))
    return number(kind, chance.choice((0, 1)) if kind == BOOL else chance.choice(NUMBERS))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=None)
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if args.seed is None else args.seed
    print(f"  seed {seed}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        tally = fuzz(args.seconds, seed, Path(folder))
    print(tally)
    return 1 if tally.broken else 0


if __name__ == "__main__":
    sys.exit(main())
