"""A GGUF file as a value that tests can change in any way and write again."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Final, Self

from worker_gguf.gguf import GGML_TYPES

__all__ = ["Key", "Tensor", "Written", "array", "number", "text"]

U32, I32, F32, BOOL, STR, ARR, U64 = 4, 5, 6, 7, 8, 9, 10
_SIZES: Final = {0: 1, 1: 1, 2: 2, 3: 2, U32: 4, I32: 4, F32: 4, BOOL: 1, U64: 8, 11: 8, 12: 8}


@dataclass(frozen=True, slots=True)
class Key:
    """`value` is as it stands in the file, behind the key's type."""

    name: bytes
    type: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Tensor:
    name: bytes
    shape: tuple[int, ...]
    type: int
    content: bytes
    offset: int | None = None
    """None: right behind the tensor before."""


@dataclass(frozen=True, slots=True)
class Written:
    keys: tuple[Key, ...]
    tensors: tuple[Tensor, ...]
    version: int = 3
    alignment: int = 32
    n_keys: int | None = None
    """What the file says, where that is not the truth."""
    n_tensors: int | None = None

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Take a sound file apart."""
        version, n_tensors, n_keys = struct.unpack_from("<IQQ", data, 4)
        at = 24
        keys = []
        for _ in range(n_keys):
            name, at = _text_at(data, at)
            kind = struct.unpack_from("<I", data, at)[0]
            end = _value_end(data, at + 4, kind)
            keys.append(Key(name, kind, data[at + 4 : end]))
            at = end
        lines = []
        for _ in range(n_tensors):
            name, at = _text_at(data, at)
            n_dims = struct.unpack_from("<I", data, at)[0]
            *dims, kind, offset = struct.unpack_from(f"<{n_dims}QIQ", data, at + 4)
            at += 4 + 8 * n_dims + 12
            lines.append((name, tuple(map(int, dims)), kind, offset))
        begin = at + -at % 32
        tensors = []
        for name, shape, kind, offset in lines:
            size = prod(shape) // GGML_TYPES[kind].block * GGML_TYPES[kind].block_bytes
            tensors.append(Tensor(name, shape, kind, data[begin + offset : begin + offset + size]))
        return cls(tuple(keys), tuple(tensors), version)

    def write(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_keys = len(self.keys) if self.n_keys is None else self.n_keys
        head = [b"GGUF", struct.pack("<IQQ", self.version, n_tensors, n_keys)]
        head += [text(key.name) + struct.pack("<I", key.type) + key.value for key in self.keys]
        weights = bytearray()
        for tensor in self.tensors:
            weights += bytes(-len(weights) % self.alignment)
            offset = len(weights) if tensor.offset is None else tensor.offset
            shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            head += [text(tensor.name), shape, struct.pack("<IQ", tensor.type, offset)]
            weights += tensor.content
        weights += bytes(-len(weights) % self.alignment)
        whole = b"".join(head)
        return whole + bytes(-len(whole) % self.alignment) + bytes(weights)

    # --- changes ------------------------------------------------------------------------------------------------------

    def key(self, name: str) -> Key:
        return next(key for key in self.keys if key.name == name.encode())

    def without(self, name: str) -> Self:
        return replace(self, keys=tuple(key for key in self.keys if key.name != name.encode()))

    def with_key(self, name: str, kind: int, value: bytes) -> Self:
        """Put the value in the place of the one that is there, or behind all others."""
        fresh = Key(name.encode(), kind, value)
        if any(key.name == fresh.name for key in self.keys):
            return replace(self, keys=tuple(fresh if key.name == fresh.name else key for key in self.keys))
        return replace(self, keys=(*self.keys, fresh))

    def tensor(self, name: str) -> Tensor:
        return next(tensor for tensor in self.tensors if tensor.name == name.encode())

    def without_tensor(self, name: str) -> Self:
        return replace(self, tensors=tuple(tensor for tensor in self.tensors if tensor.name != name.encode()))

    def change(self, name: str, how: Callable[[Tensor], Tensor]) -> Self:
        changed = tuple(how(tensor) if tensor.name == name.encode() else tensor for tensor in self.tensors)
        return replace(self, tensors=changed)


def text(value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def number(kind: int, value: float) -> bytes:
    return struct.pack("<" + {0: "B", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", 2: "H"}[kind], value)


def array(kind: int, values: Sequence[bytes], length: int | None = None) -> bytes:
    return struct.pack("<IQ", kind, len(values) if length is None else length) + b"".join(values)


def _text_at(data: bytes, at: int) -> tuple[bytes, int]:
    length = struct.unpack_from("<Q", data, at)[0]
    return data[at + 8 : at + 8 + length], at + 8 + length


def _value_end(data: bytes, at: int, kind: int) -> int:
    if kind == STR:
        return _text_at(data, at)[1]
    if kind != ARR:
        return at + _SIZES[kind]
    item, length = struct.unpack_from("<IQ", data, at)
    at += 12
    if item != STR:
        return int(at + _SIZES[item] * length)
    for _ in range(length):
        at = _text_at(data, at)[1]
    return at
