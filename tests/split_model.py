"""Splits a GGUF file in two, as gguf-split does."""

from __future__ import annotations

import struct
from pathlib import Path

from worker_gguf.gguf import read_header


def split_model(source: Path, folder: Path) -> list[Path]:
    """Write `source` as two files into `folder`; the first holds the keys and the first half of the tensors."""
    data = source.read_bytes()
    header = read_header(data)
    first_name = header.tensors[0].name.encode()
    infos_at = data.index(struct.pack("<Q", len(first_name)) + first_name)
    n_keys = struct.unpack_from("<Q", data, 16)[0]
    kinds = _kinds(data, infos_at, len(header.tensors))
    half = len(header.tensors) // 2
    stem = source.stem
    paths = []
    for number, part in enumerate((header.tensors[:half], header.tensors[half:])):
        keys = _key("split.no", 2, "H", number) + _key("split.count", 2, "H", 2)
        keys += _key("split.tensors.count", 5, "i", len(header.tensors))
        infos, weights = b"", b""
        for tensor in part:
            name = tensor.name.encode()
            shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            infos += struct.pack("<Q", len(name)) + name + shape + struct.pack("<IQ", kinds[tensor.name], len(weights))
            weights += _padded(data[tensor.offset : tensor.offset + tensor.size_bytes])
        own = data[24:infos_at] if number == 0 else b""
        head = b"GGUF" + struct.pack("<IQQ", 3, len(part), 3 + (n_keys if number == 0 else 0))
        path = folder / f"{stem}-{number + 1:05}-of-00002.gguf"
        path.write_bytes(_padded(head + own + keys + infos) + weights)
        paths.append(path)
    return paths


def _key(name: str, kind: int, layout: str, value: int) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + struct.pack(f"<{layout}", value)


def _kinds(data: bytes, at: int, n_tensors: int) -> dict[str, int]:
    kinds = {}
    for _ in range(n_tensors):
        length = struct.unpack_from("<Q", data, at)[0]
        name = data[at + 8 : at + 8 + length].decode()
        at += 8 + length
        n_dims = struct.unpack_from("<I", data, at)[0]
        at += 4 + 8 * n_dims
        kinds[name] = struct.unpack_from("<I", data, at)[0]
        at += 12
    return kinds


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 32)
