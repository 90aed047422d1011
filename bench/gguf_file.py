"""Writes GGUF files, as far as the models of the benchmarks and of the tests need the format."""

import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

Value: TypeAlias = str | bool | int | float | Sequence[str] | NDArray[np.int32] | NDArray[np.float32]
Chunks: TypeAlias = Iterable[NDArray[np.uint8]]

ALIGNMENT = 32


class TensorType(IntEnum):
    F32 = 0
    Q8_0 = 8
    Q4_K = 12
    Q6_K = 14


# elements in a block, bytes in a block
BLOCKS = {TensorType.F32: (1, 4), TensorType.Q8_0: (32, 34), TensorType.Q4_K: (256, 144), TensorType.Q6_K: (256, 210)}


class ValueType(IntEnum):
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9


@dataclass(frozen=True, slots=True)
class Tensor:
    """`shape` begins with the row's length, as ggml counts; `chunks` yields the bytes when the file is written."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    chunks: Callable[[], Chunks]

    @property
    def size_bytes(self) -> int:
        elements, size_bytes = BLOCKS[self.type]
        if self.shape[0] % elements:
            raise ValueError(f"{self.name}: rows of {self.shape[0]} do not divide into blocks of {elements}")
        return prod(self.shape) // elements * size_bytes


def write(path: Path, metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> None:
    """Write to a temporary file and rename it, so that a file with the final name is always complete."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            file.write(_header(metadata, tensors))
            for tensor in tensors:
                _pad(file)
                for chunk in tensor.chunks():
                    file.write(chunk.data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _header(metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> bytes:
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    parts += [_string(key) + _value(value) for key, value in metadata.items()]
    offset = 0
    for tensor in tensors:
        n_dims = len(tensor.shape)
        parts.append(_string(tensor.name))
        parts.append(struct.pack(f"<I{n_dims}QIQ", n_dims, *tensor.shape, tensor.type, offset))
        offset = _aligned(offset + tensor.size_bytes)
    header = b"".join(parts)
    return header.ljust(_aligned(len(header)), b"\0")


def _value(value: Value) -> bytes:
    match value:
        case str():
            return struct.pack("<I", ValueType.STRING) + _string(value)
        case bool():
            return struct.pack("<I?", ValueType.BOOL, value)
        case int():
            return struct.pack("<II", ValueType.UINT32, value)
        case float():
            return struct.pack("<If", ValueType.FLOAT32, value)
        case np.ndarray():
            kind = ValueType.FLOAT32 if value.dtype == np.float32 else ValueType.INT32
            return struct.pack("<IIQ", ValueType.ARRAY, kind, len(value)) + value.tobytes()
        case _:
            head = struct.pack("<IIQ", ValueType.ARRAY, ValueType.STRING, len(value))
            return head + b"".join(map(_string, value))


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % ALIGNMENT))
