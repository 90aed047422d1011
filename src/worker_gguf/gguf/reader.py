"""Reads the header of a GGUF file: keys and tensors in file order.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Final

from msgspec.structs import replace

from worker_gguf.errors import DownloadError, ModelNotFound
from worker_gguf.gguf.cursor import Cursor
from worker_gguf.gguf.header import ArrayInfo, ModelHeader, TensorInfo, Value, describe
from worker_gguf.gguf.preconditions import check_parts, check_sound
from worker_gguf.gguf.types import GGML_TYPES

__all__ = ["read_header", "read_headers", "read_texts"]

# Bounds of a header. Real ones stay far below (60 keys, 20,000 tensors).
MAX_KEYS: Final = 65_536
MAX_TENSORS: Final = 65_536
MAX_KEPT_ARRAY: Final = 4_096
MAX_KEPT_NUMBERS: Final = 65_536
"""Numeric arrays up to MAX_KEPT_ARRAY keep their values (heads per layer, rope sections) while they fit in this."""

_STRING: Final = 8
_ARRAY: Final = 9
_SCALARS: Final[Mapping[int, tuple[str, struct.Struct]]] = MappingProxyType(
    {
        0: ("u8", struct.Struct("<B")),
        1: ("i8", struct.Struct("<b")),
        2: ("u16", struct.Struct("<H")),
        3: ("i16", struct.Struct("<h")),
        4: ("u32", struct.Struct("<I")),
        5: ("i32", struct.Struct("<i")),
        6: ("f32", struct.Struct("<f")),
        7: ("bool", struct.Struct("<?")),
        10: ("u64", struct.Struct("<Q")),
        11: ("i64", struct.Struct("<q")),
        12: ("f64", struct.Struct("<d")),
    }
)


Source = str | Path | bytes | bytearray | memoryview | BinaryIO


def read_header(source: Source, *, name: str | None = None) -> ModelHeader:
    """Read one file's header. `name` stands for a source without a path in error messages."""
    with _cursor(source, name) as cursor:
        return _parse(cursor)


def read_texts(source: Source, texts: ArrayInfo, *, name: str | None = None) -> bytes:
    """Read an array of texts from the file whose header describes it: each text follows its length, in 8 bytes."""
    begin, size_bytes = texts.span
    with _cursor(source, name) as cursor:
        cursor.skip(begin)
        return cursor.raw(size_bytes)


@contextmanager
def _cursor(source: Source, name: str | None) -> Iterator[Cursor]:
    """Open a file at its beginning. Errors of the file become those of the worker, in which `name` stands for it."""
    with ExitStack() as stack:
        if isinstance(source, str | Path):
            label = str(source)
            try:
                file: BinaryIO = stack.enter_context(Path(source).open("rb", buffering=0))
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                raise ModelNotFound(f"No model file exists at {label}. Check the path.") from error
            except OSError as error:
                raise DownloadError(f"{label} cannot be opened ({error.strerror}). Check the volume.") from error
        elif isinstance(source, bytes | bytearray | memoryview):
            label, file = "the model", io.BytesIO(source)
        else:
            label, file = getattr(source, "name", "the model"), source
        try:
            yield Cursor(file, name or str(label))
        except OSError as error:
            raise DownloadError(f"{name or label} cannot be read ({error}). Check the volume.") from error


def read_headers(paths: Sequence[Path | BinaryIO], files: Sequence[BinaryIO] = ()) -> ModelHeader:
    """Read a model of one or several files: the first file's header with the tensors of all.

    `files` are the same files, already open. Pass them where a mount drops a file's cached pages on every open.
    """
    if files:
        first, *rest = (read_header(file, name=str(path)) for path, file in zip(paths, files, strict=True))
    else:
        first, *rest = (read_header(path) for path in paths)
    tensors = list(first.tensors)
    for part, header in enumerate(rest, start=1):
        tensors += (replace(tensor, part=part) for tensor in header.tensors)
    whole = replace(first, tensors=tuple(tensors), file_size=first.file_size + sum(h.file_size for h in rest))
    names = [str(source if isinstance(source, Path) else getattr(source, "name", "the model")) for source in paths]
    check_parts((first, *rest), names)
    check_sound(whole, names[0])
    return whole


def _parse(cursor: Cursor) -> ModelHeader:
    version = _read_version(cursor)
    n_tensors, n_keys = cursor.u64(), cursor.u64()
    if n_keys > MAX_KEYS or n_tensors > MAX_TENSORS:
        cursor.fail(f"{n_keys} keys and {n_tensors} tensors. The file is damaged: download it again.")
    metadata: dict[str, Value] = {}
    n_kept = 0
    for _ in range(n_keys):
        key = cursor.string()
        if key in metadata:
            cursor.fail(f"the key {key[:80]!r} comes twice.")
        metadata[key] = value = _read_value(cursor, key, n_kept <= MAX_KEPT_NUMBERS)
        n_kept += len(value.values or ()) if isinstance(value, ArrayInfo) else 0
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1) or alignment > 1 << 20:
        cursor.fail(f"general.alignment is {alignment!r}, not a power of two.")
    lines = [_read_tensor(cursor, alignment) for _ in range(n_tensors)]
    data_offset = -(-cursor.at // alignment) * alignment
    tensors = tuple(
        TensorInfo(name, shape, kind, size_bytes, data_offset + offset)
        for name, shape, kind, size_bytes, offset in lines
    )
    _check_tensors(cursor, tensors)
    return describe(cursor, version, data_offset, metadata, tensors)


def _read_version(cursor: Cursor) -> int:
    if cursor.size < 24:
        cursor.fail(f"it has only {cursor.size} bytes. Download it again.")
    magic = cursor.u32().to_bytes(4, "little")
    if magic != b"GGUF":
        cursor.fail(
            f"it begins with {magic!r}, not with b'GGUF'. Check that it is a GGUF file and not a page or a pointer."
        )
    version = cursor.u32()
    if version in (0x02000000, 0x03000000):
        cursor.fail("it is big-endian. Choose a little-endian file.")
    if version < 2:
        cursor.fail(f"its GGUF version {version} is not supported any more. Convert the model again.")
    if version > 3:
        cursor.fail(f"its GGUF version is {version} and this worker knows 2 and 3. Update the worker.")
    return version


def _read_value(cursor: Cursor, key: str, keep: bool) -> Value:
    kind = cursor.u32()
    if kind == _STRING:
        return cursor.string()
    if kind == _ARRAY:
        return _read_array(cursor, key, keep)
    if kind not in _SCALARS:
        cursor.fail(f"the key {key[:80]!r} has the unknown type {kind}.")
    return cursor.read(_SCALARS[kind][1])


def _read_array(cursor: Cursor, key: str, keep: bool) -> ArrayInfo:
    kind, length = cursor.u32(), cursor.u64()
    if kind == _STRING:
        begin = cursor.at
        cursor.skip_strings(length)
        return ArrayInfo("str", length, span=(begin, cursor.at - begin))
    if kind not in _SCALARS:
        cursor.fail(f"the key {key[:80]!r} is an array of the type {kind}, which is not known.")
    name, layout = _SCALARS[kind]
    if length > MAX_KEPT_ARRAY or not keep:
        cursor.skip(length * layout.size)
        return ArrayInfo(name, length)
    return ArrayInfo(name, length, cursor.numbers(layout, length))


def _read_tensor(cursor: Cursor, alignment: int) -> tuple[str, tuple[int, ...], str, int, int]:
    """Read one tensor's line: name, shape, type, bytes and its offset from the start of the weights."""
    name = cursor.string()
    n_dims = cursor.u32()
    if not 1 <= n_dims <= 4:
        cursor.fail(f"the tensor {name[:80]!r} has {n_dims} dimensions.")
    shape = tuple(cursor.u64() for _ in range(n_dims))
    kind, offset = cursor.u32(), cursor.u64()
    if kind not in GGML_TYPES:
        cursor.fail(f"the tensor {name[:80]!r} has the type {kind}, which was removed or is newer than this worker.")
    ggml = GGML_TYPES[kind]
    if shape[0] % ggml.block:
        cursor.fail(f"the tensor {name[:80]!r} has rows of {shape[0]}, which {ggml.name} cannot hold.")
    if 0 in shape:
        cursor.fail(f"the tensor {name[:80]!r} is empty.")
    if offset % alignment:
        cursor.fail(f"the tensor {name[:80]!r} begins at byte {offset} of the weights, not a multiple of {alignment}.")
    return name, shape, ggml.name, prod(shape) // ggml.block * ggml.block_bytes, offset


def _check_tensors(cursor: Cursor, tensors: tuple[TensorInfo, ...]) -> None:
    if len({tensor.name for tensor in tensors}) != len(tensors):
        cursor.fail("two of its tensors have the same name.")
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        if tensor.offset < end:
            cursor.fail(f"the tensor {tensor.name[:80]!r} begins before the one in front of it ends.")
        end = tensor.offset + tensor.size_bytes
    if end > cursor.size:
        cursor.fail(f"it has {cursor.size} bytes of the {end} its header asks for. It is cut short: download it again.")
