"""Hostile GGUF headers, and the time and memory that reading each takes: `python -m tests.gguf.hostile`.

Each is read from a file by a forked process that may not grow beyond LIMIT_BYTES.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from tests.gguf.gguf_value import ARR, STR, U32, U64, Key, Tensor, Written, array, number, text
from worker_gguf.errors import WorkerError
from worker_gguf.gguf import read_header

__all__ = ["HOSTILE", "Reading"]

LIMIT_BYTES: Final = 256 << 20
"""Of growth, beyond what the interpreter has mapped by then."""
HUGE: Final = 1 << 63
LLAMA: Final = Key(b"general.architecture", STR, text("llama"))
SMALL: Final = Written((LLAMA,), ())
W: Final = Tensor(b"w", (32,), 0, bytes(128))


@dataclass(frozen=True, slots=True)
class Reading:
    name: str
    error: str
    message: str
    seconds: float
    grown_bytes: int


def _keys(*keys: Key) -> bytes:
    return replace(SMALL, keys=(LLAMA, *keys)).write()


def _tensors(*tensors: Tensor) -> bytes:
    return replace(SMALL, tensors=tensors).write()


def _raw(n_tensors: int, n_keys: int, tail: bytes = bytes(1000)) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", 3, n_tensors, n_keys) + tail


def _array(kind: int, length: int, tail: bytes = b"") -> Key:
    return Key(b"k", ARR, struct.pack("<IQ", kind, length) + tail)


HOSTILE: Final[dict[str, Callable[[], bytes]]] = {
    "ten million keys": lambda: _raw(0, 10_000_000),
    "ten million keys that are there": lambda: _raw(0, 10_000_000, bytes(40 << 20)),
    "keys of 2^63": lambda: _raw(0, HUGE),
    "tensors of 2^63": lambda: _raw(HUGE, 0),
    "tensors of 2^64-1": lambda: _raw((1 << 64) - 1, 0),
    "a key's name of 2^63": lambda: _raw(0, 1, struct.pack("<Q", HUGE) + bytes(1000)),
    "a text of 2^63": lambda: _keys(Key(b"k", STR, struct.pack("<Q", HUGE))),
    "a text of 2^32": lambda: _keys(Key(b"k", STR, struct.pack("<Q", 1 << 32))),
    "texts without end": lambda: _keys(_array(STR, HUGE)),
    "millions of empty texts": lambda: _keys(_array(STR, 7_000_000, bytes(56_000_000))),
    "millions of short texts": lambda: _keys(_array(STR, 1_900_000, (struct.pack("<Q", 1) + b"a") * 1_900_000)),
    "a text of 2^63 among many": lambda: _keys(_array(STR, 100_000, text("a") * 50_000 + struct.pack("<Q", HUGE))),
    "a text that leads back": lambda: _keys(_array(STR, 3, struct.pack("<Q", (1 << 64) - 8) * 8)),
    "numbers without end": lambda: _keys(_array(U64, HUGE)),
    "numbers of 2^61": lambda: _keys(_array(U64, 1 << 61)),
    "an array in an array": lambda: _keys(_array(ARR, 1, array(U32, [number(U32, 1)]))),
    "arrays a thousand deep": lambda: _keys(Key(b"k", ARR, struct.pack("<IQ", ARR, 1) * 1000)),
    "an unknown type": lambda: _keys(Key(b"k", 13, bytes(8))),
    "a type of 2^31": lambda: _keys(Key(b"k", 1 << 31, bytes(8))),
    "a key twice": lambda: _keys(LLAMA),
    "keys without names": lambda: _keys(*[Key(b"", U32, bytes(4))] * 2),
    "tensors without names": lambda: _tensors(*[replace(W, name=b"")] * 2),
    "a tensor twice": lambda: _tensors(W, W),
    "five dimensions": lambda: _tensors(replace(W, shape=(2,) * 5)),
    "2^32-1 dimensions": lambda: _raw(1, 0, text("w") + struct.pack("<I", (1 << 32) - 1) + bytes(100)),
    "no dimension": lambda: _tensors(replace(W, shape=())),
    "an empty dimension": lambda: _tensors(replace(W, shape=(32, 0))),
    "a dimension of 2^63": lambda: _tensors(replace(W, shape=(HUGE,))),
    "dimensions beyond 2^64": lambda: _tensors(replace(W, shape=(1 << 32, 1 << 32))),
    "dimensions that come to nothing": lambda: _tensors(replace(W, shape=(1 << 32, 1 << 30, 4))),
    "a tensor outside": lambda: _tensors(replace(W, offset=1 << 20)),
    "an offset of 2^64-32": lambda: _tensors(replace(W, offset=(1 << 64) - 32)),
    "tensors in one another": lambda: _tensors(W, replace(W, name=b"v", offset=64)),
    "a tensor between its places": lambda: _tensors(replace(W, offset=1)),
    "an unknown tensor type": lambda: _tensors(replace(W, type=99)),
    "a tensor type that was removed": lambda: _tensors(replace(W, type=4)),
    "an alignment of 0": lambda: _keys(Key(b"general.alignment", U32, number(U32, 0))),
    "an alignment of 2^31": lambda: _keys(Key(b"general.alignment", U32, number(U32, 1 << 31))),
    "an alignment of 33": lambda: _keys(Key(b"general.alignment", U32, number(U32, 33))),
    "an alignment that is true": lambda: _keys(Key(b"general.alignment", 7, b"\1")),
    "the magic of another": lambda: b"GGML" + bytes(1000),
    "bytes swapped": lambda: struct.pack(">4sIQQ", b"GGUF", 3, 0, 0) + bytes(100),
    "the magic swapped": lambda: b"FUGG" + bytes(1000),
    "a version of the future": lambda: replace(SMALL, version=4).write(),
    "version 0": lambda: replace(SMALL, version=0).write(),
    "65,536 keys and no architecture": lambda: _raw(
        0, 65_536, b"".join(text(f"k{i}") + struct.pack("<II", U32, i) for i in range(65_536))
    ),
    "65,536 tensors outside": lambda: _raw(
        65_536, 1, text(LLAMA.name) + struct.pack("<I", STR) + LLAMA.value
        + b"".join(text(f"t{i}") + struct.pack("<IQIQ", 1, 32, 0, 1 << 40) for i in range(65_536)),
    ),
}  # fmt: skip


def measure(name: str, path: Path) -> Reading:
    """Read in a forked process of bounded size."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writes, json.dumps(asdict(_read(name, path))).encode())
        finally:
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads, "rb") as pipe:
        answer = pipe.read()
    status = os.waitpid(pid, 0)[1]
    return Reading(**json.loads(answer)) if answer else Reading(name, f"status {status}", "", 0.0, 0)


def _read(name: str, path: Path) -> Reading:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + LIMIT_BYTES, mapped + LIMIT_BYTES))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: a fork inherits its parent's
    before = _peak_bytes()
    begun_s = time.process_time()
    try:
        read_header(path)
        error, message = "", ""
    except WorkerError as refusal:
        error, message = type(refusal).__name__, refusal.message
    seconds = time.process_time() - begun_s
    return Reading(name, error, message, round(seconds, 4), max(0, _peak_bytes() - before))


def _peak_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hostile.gguf"
        for name, make in HOSTILE.items():
            path.write_bytes(make())
            print(json.dumps(asdict(measure(name, path))), flush=True)


if __name__ == "__main__":
    main()
