"""Tests that a header is read in bounded time and memory, or refused with ModelInvalid."""

from __future__ import annotations

import importlib
import io
import random
import struct
import sys
import time
import tracemalloc
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worker_gguf.embedded import MODEL_PATH
from worker_gguf.errors import ModelInvalid, ModelNotFound
from worker_gguf.gguf import GGML_TYPES, ArrayInfo, ModelHeader, TensorInfo, read_header, read_headers

VOCABULARIES: Final = Path(__file__).parents[3] / "shared" / "vocab"
U32, I32, F32, BOOL, STR, ARR, U64, F64 = 4, 5, 6, 7, 8, 9, 10, 12
_FORMATS: Final = {0: "B", 1: "b", 2: "H", 3: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", 11: "q", F64: "d"}

Key = tuple[str, int, object]
Tensor = tuple[str, Sequence[int], int, int]


def _text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def _value(kind: int, value: object) -> bytes:
    if kind == STR:
        assert isinstance(value, str | bytes)
        return _text(value)
    if kind == ARR:
        assert isinstance(value, tuple)
        item, items = value
        return struct.pack("<IQ", item, len(items)) + b"".join(_value(item, each) for each in items)
    return struct.pack(f"<{_FORMATS[kind]}", value)


def gguf_bytes(
    keys: Sequence[Key], tensors: Sequence[Tensor] = (), *, version: int = 3, magic: bytes = b"GGUF", pad: int = 0
) -> bytes:
    """Write a GGUF file: keys (name, type, value), tensors (name, shape, type, offset), `pad` bytes of weights."""
    out = magic + struct.pack("<IQQ", version, len(tensors), len(keys))
    for name, kind, value in keys:
        out += _text(name) + struct.pack("<I", kind) + _value(kind, value)
    for name, shape, kind, offset in tensors:
        out += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    return out + bytes(-len(out) % 32 + pad if pad else 0)


MOE: Final[list[Key]] = [
    ("general.architecture", STR, "llama"),
    ("general.name", STR, "Dark Champion"),
    ("general.file_type", U32, 15),
    ("llama.block_count", U32, 2),
    ("llama.context_length", U32, 131_072),
    ("llama.embedding_length", U32, 64),
    ("llama.feed_forward_length", ARR, (I32, [128, 256])),
    ("llama.attention.head_count", U32, 8),
    ("llama.attention.head_count_kv", ARR, (U32, [2, 4])),
    ("llama.attention.value_length", U32, 16),
    ("llama.expert_count", U32, 8),
    ("llama.expert_used_count", U32, 2),
    ("llama.rope.freq_base", F32, 500_000.0),
    ("llama.rope.dimension_count", U32, 8),
    ("llama.rope.scaling.type", STR, "yarn"),
    ("llama.attention.sliding_window", U32, 4096),
    ("tokenizer.ggml.tokens", ARR, (STR, ["<s>", "", "a", "ü" * 200])),
    ("tokenizer.ggml.scores", ARR, (F32, [0.0] * 4)),
    ("tokenizer.ggml.bos_token_id", U32, 0),
    ("tokenizer.ggml.eos_token_id", U32, 1),
    ("tokenizer.ggml.add_bos_token", BOOL, True),
    ("tokenizer.chat_template", STR, "{{ messages }}"),
    ("tokenizer.chat_template.tool_use", STR, "{{ tools }}"),
]
SMALL: Final = gguf_bytes(MOE, [("token_embd.weight", (64, 4), 8, 0), ("norm", (5,), 0, 288)], pad=308)


def test_facts_of_a_model_are_read() -> None:
    header = read_header(SMALL)
    assert (header.version, header.architecture, header.name) == (3, "llama", "Dark Champion")
    assert (header.n_layers, header.n_embd, header.n_head, header.n_head_kv) == (2, 64, (8, 8), (2, 4))
    assert (header.head_dim_k, header.head_dim_v, header.n_ff) == (8, 16, (128, 256))
    assert (header.n_ctx_train, header.n_vocab, header.n_experts, header.n_experts_used) == (131_072, 4, 8, 2)
    assert (header.rope.freq_base, header.rope.dimensions, header.rope.scaling) == (500_000.0, 8, "yarn")
    assert (header.bos_id, header.eos_id, header.quantisation, header.n_parts) == (0, 1, "Q4_K_M", 1)
    assert header.chat_template == "{{ messages }}"
    assert dict(header.chat_templates) == {"tool_use": "{{ tools }}"}
    assert header.file_size == len(SMALL)


def test_values_are_had_by_name() -> None:
    header = read_header(SMALL)
    assert header.get("llama.attention.sliding_window") == header.get("attention.sliding_window") == 4096
    assert header.get("tokenizer.ggml.add_bos_token") is True
    tokens = header.get("tokenizer.ggml.tokens")
    assert isinstance(tokens, ArrayInfo)
    assert (tokens.type, tokens.length, tokens.values) == ("str", 4, None)
    assert header.get("tokenizer.ggml.scores") == ArrayInfo("f32", 4, (0.0, 0.0, 0.0, 0.0))
    assert header.get("absent") is None


def test_tensors_are_read() -> None:
    header = read_header(SMALL)
    at = header.data_offset
    assert at % 32 == 0
    assert header.tensors == (
        TensorInfo("token_embd.weight", (64, 4), "Q8_0", 272, at),
        TensorInfo("norm", (5,), "F32", 20, at + 288),
    )
    assert header.weights_bytes == 292
    assert header.n_params == 261


def test_what_a_file_leaves_out_is_zero_or_none() -> None:
    header = read_header(gguf_bytes([("general.architecture", STR, "bert")]))
    assert (header.n_layers, header.n_vocab, header.n_head, header.head_dim_k) == (0, 0, (), 0)
    assert (header.name, header.bos_id, header.chat_template, header.rope.freq_base) == (None, None, None, None)
    assert header.quantisation == "unknown"


def test_heads_of_keys_default_to_heads() -> None:
    keys: list[Key] = [("general.architecture", STR, "x"), ("x.block_count", U32, 2)]
    assert read_header(gguf_bytes([*keys, ("x.attention.head_count", U32, 3)])).n_head_kv == (3, 3)


def test_quantisation_without_a_file_type_is_that_of_most_bytes() -> None:
    tensors: list[Tensor] = [("a", (256, 4), 12, 0), ("b", (8,), 0, 576)]
    assert read_header(gguf_bytes([MOE[0]], tensors, pad=700)).quantisation == "Q4_K"


def test_alignment_moves_the_weights() -> None:
    data = gguf_bytes([MOE[0], ("general.alignment", U32, 256)], [("b", (2,), 0, 0)], pad=600)
    header = read_header(data)
    assert header.data_offset == 256
    assert header.tensors[0].offset == 256


def test_path_stream_and_bytes_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(SMALL)
    with path.open("rb") as stream:
        assert read_header(path) == read_header(str(path)) == read_header(stream) == read_header(SMALL)
    assert read_header(memoryview(SMALL)) == read_header(SMALL)


class _ByRanges(io.RawIOBase):
    """A remote file: answers at most 1000 bytes at a time and counts what was asked for."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0
        self.n_read = 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + (len(self.content) if whence == io.SEEK_END else 0)
        return self.at

    def read(self, size: int = -1) -> bytes:
        piece = self.content[self.at : self.at + min(size, 1000)]
        self.at += len(piece)
        self.n_read += len(piece)
        return piece


def test_weights_are_never_read() -> None:
    data = gguf_bytes(MOE, [("w", (1 << 20, 8), 0, 0)], pad=32 << 20)
    remote = _ByRanges(data)
    assert read_header(remote).weights_bytes == 32 << 20  # type: ignore[arg-type]
    assert remote.n_read <= 64 << 10


def test_split_model_is_read_as_one(tmp_path: Path) -> None:
    paths = [tmp_path / f"m-{n}.gguf" for n in (1, 2)]
    split: list[Key] = [("split.no", 2, 0), ("split.count", 2, 2)]
    paths[0].write_bytes(gguf_bytes([*MOE, *split], [("a", (8,), 0, 0)], pad=32))
    paths[1].write_bytes(gguf_bytes([("split.no", 2, 1), ("split.count", 2, 2)], [("b", (8,), 0, 0)], pad=32))
    header = read_headers(paths)
    assert [(tensor.name, tensor.part) for tensor in header.tensors] == [("a", 0), ("b", 1)]
    assert header.file_size == sum(path.stat().st_size for path in paths)
    with pytest.raises(ModelInvalid, match="2 files, and 1 were found"):
        read_headers(paths[:1])


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(ModelNotFound, match="No model file exists"):
            read_header(path)


# Hopping over texts


@pytest.fixture(params=["with numpy", "without numpy"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are hopped over one by one where numpy has not been imported yet."""
    importlib.import_module("numpy")
    if request.param == "without numpy":
        monkeypatch.delitem(sys.modules, "numpy")


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("seed", range(6))
def test_hopping_over_any_texts_ends_where_reading_them_would(seed: int) -> None:
    rng = random.Random(seed)
    kinds = (b"", b"a", b"\0" * 9, b"x" * 255, b"y" * 256, b"z" * 70_000, b"\x07" + b"\0" * 7)
    weights = (1, 30, 1, 1, 1, 0.02, 1) if seed % 2 else (1, 1000, 0, 0, 0, 0, 0)
    texts = [rng.choices(kinds, weights)[0] + rng.randbytes(rng.randrange(12)) for _ in range(20_000)]
    data = gguf_bytes([MOE[0], ("t", ARR, (STR, texts)), ("after", STR, "found")])
    assert read_header(data).get("after") == "found"


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("n", [0, 1, 999, 1000, 1001, 70_000])
def test_hopping_over_any_number_of_texts(n: int) -> None:
    data = gguf_bytes([MOE[0], ("t", ARR, (STR, ["abc"] * n)), ("after", STR, "found")])
    assert read_header(data).get("after") == "found"


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("length", [1 << 27, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
def test_a_text_of_absurd_length_among_many_is_refused(length: int) -> None:
    data = bytearray(gguf_bytes([MOE[0], ("t", ARR, (STR, ["abc"] * 30_000)), ("after", STR, "found")]))
    at = data.index(b"abc", len(data) // 2) - 8
    data[at : at + 8] = length.to_bytes(8, "little")
    with pytest.raises(ModelInvalid):
        read_header(bytes(data))


@pytest.mark.parametrize("name", ["llama-bpe", "llama-spm", "qwen2"])
def test_real_vocabulary_is_read(name: str) -> None:
    path = VOCABULARIES / f"ggml-vocab-{name}.gguf"
    if not path.exists():
        pytest.skip(f"{path} is not here: it comes with the shared folder beside the repository")
    header = read_header(path)
    assert header.n_vocab == {"llama-bpe": 128_256, "llama-spm": 32_000, "qwen2": 151_936}[name]
    assert header.architecture in ("llama", "qwen2")
    assert header.n_layers == 32
    assert header.get("tokenizer.ggml.bos_token_id") == header.bos_id


# Damaged and hostile files

_COUNTS: Final = struct.Struct("<4sIQQ")


def _with_array(kind: int, length: int) -> bytes:
    return _COUNTS.pack(b"GGUF", 3, 0, 1) + _text("k") + struct.pack("<IIQ", ARR, kind, length) + bytes(100)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "only 0 bytes"),
        (b"GGUF", "only 4 bytes"),
        (b"version https://git-lfs.github.com/spec/v1", "not with b'GGUF'"),
        (b"<!doctype html>" + bytes(100), "not a page"),
        (gguf_bytes(MOE, magic=b"GGML"), "not with b'GGUF'"),
        (gguf_bytes(MOE, version=1), "not supported any more"),
        (gguf_bytes(MOE, version=4), "Update the worker"),
        (gguf_bytes(MOE, version=0x03000000), "big-endian"),
        (SMALL[:-1], "cut short"),
        (SMALL[:300], "cut short"),
        (_COUNTS.pack(b"GGUF", 3, 0, 10_000_000) + bytes(1000), "10000000 keys"),
        (_COUNTS.pack(b"GGUF", 3, 1 << 63, 0) + bytes(1000), "9223372036854775808 tensors"),
        (_COUNTS.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q", 1 << 63) + bytes(1000), "a text of"),
        (_with_array(STR, 1 << 63), "more than"),
        (_with_array(STR, 1_500_000), "cut short"),
        (_with_array(U64, 1 << 63), "cut short"),
        (_with_array(ARR, 1), "not known"),
        (_with_array(99, 1), "not known"),
        (_COUNTS.pack(b"GGUF", 3, 0, 1) + _text("k") + struct.pack("<I", 13) + bytes(9), "unknown type 13"),
        (gguf_bytes([MOE[0], MOE[0]]), "comes twice"),
        (gguf_bytes(MOE[1:]), "general.architecture"),
        (gguf_bytes([MOE[0], ("llama.block_count", STR, "two")]), "llama.block_count is two"),
        (gguf_bytes([MOE[0], ("llama.block_count", U32, 0xFFFFFFFF)]), "whole number up to"),
        (gguf_bytes([MOE[0], ("llama.embedding_length", I32, -1)]), "llama.embedding_length is -1"),
        (gguf_bytes([MOE[0], MOE[3], ("llama.attention.head_count", ARR, (U32, [1]))]), "each of 2 layers"),
        (gguf_bytes([MOE[0], ("tokenizer.chat_template", U32, 1)]), "not a text"),
        (gguf_bytes([MOE[0], ("general.alignment", U32, 24)]), "power of two"),
        (gguf_bytes([MOE[0], ("general.alignment", U32, 0)]), "power of two"),
        (gguf_bytes([MOE[0]], [("w", (1,) * 5, 0, 0)]), "5 dimensions"),
        (gguf_bytes([MOE[0]], [("w", (33,), 8, 0)], pad=100), "rows of 33"),
        (gguf_bytes([MOE[0]], [("w", (32,), 99, 0)], pad=100), "newer than this worker"),
        (gguf_bytes([MOE[0]], [("w", (32,), 0, 1 << 60)], pad=100), "cut short"),
        (gguf_bytes([MOE[0]], [("w", (1 << 62, 1 << 62), 0, 0)], pad=100), "cut short"),
        (gguf_bytes([MOE[0]], [("w", (1,), 0, 0), ("w", (1,), 0, 0)], pad=100), "same name"),
    ],
)  # fmt: skip
def test_damaged_file_is_refused_with_a_sentence(data: bytes, says: str) -> None:
    with pytest.raises(ModelInvalid, match=says) as caught:
        read_header(data, name="models/x.gguf")
    assert caught.value.message.startswith("models/x.gguf is not a GGUF model that can be loaded: ")
    assert caught.value.message.endswith(".")


@pytest.mark.parametrize("n_bytes", [1_000_000, 2_000_000, -1])
def test_the_error_of_a_truncated_file_has_the_expected_size(n_bytes: int) -> None:
    whole = MODEL_PATH.read_bytes()
    left = whole[:n_bytes]
    with pytest.raises(ModelInvalid, match=f"has {len(left)} bytes of the {len(whole)} its header asks for"):
        read_header(left)


def test_file_that_ends_while_it_is_read_is_refused() -> None:
    class Shrinks(_ByRanges):
        def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
            return super().seek(offset, whence) + (1000 if whence == io.SEEK_END else 0)

    with pytest.raises(ModelInvalid, match="reading stopped at byte"):
        read_header(Shrinks(SMALL[:200]))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [b"", b"\0" * 9, b"x" * 300])
def test_hostile_vocabulary_takes_bounded_time_and_memory(text: bytes) -> None:
    n = 200_000
    data = gguf_bytes([MOE[0], ("t", ARR, (STR, [text] * n))])
    tracemalloc.start()
    begin = time.process_time()
    with suppress(ModelInvalid):
        read_header(data)
    seconds = time.process_time() - begin
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20
    assert seconds < 5


def test_many_kept_arrays_take_bounded_memory() -> None:
    keys: list[Key] = [(f"k{i}", ARR, (0, range(250))) for i in range(2_000)]
    header = read_header(gguf_bytes([MOE[0], *keys]))
    kept = [value for value in header.metadata.values() if isinstance(value, ArrayInfo) and value.values]
    assert sum(len(value.values or ()) for value in kept) < 70_000


def _read_or_refuse(data: bytes) -> ModelHeader | None:
    try:
        return read_header(data)
    except ModelInvalid:
        return None


@settings(max_examples=400, deadline=5000, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, len(SMALL)))
def test_any_truncation_is_refused(size: int) -> None:
    assert (_read_or_refuse(SMALL[:size]) is None) == (size < len(SMALL))


@settings(max_examples=1500, deadline=5000)
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_flipped_bytes_give_a_header_or_a_refusal(flips: list[tuple[int, int]]) -> None:
    data = bytearray(SMALL)
    for at, byte in flips:
        data[at] = byte
    header = _read_or_refuse(bytes(data))
    assert header is None or header.file_size == len(SMALL)


@settings(max_examples=500, deadline=5000)
@given(st.integers(0, len(SMALL) - 8), st.sampled_from([0, 1, 0xFFFFFFFF, 1 << 31, 1 << 62, 1 << 63, (1 << 64) - 1]))
def test_huge_numbers_give_a_header_or_a_refusal(at: int, number: int) -> None:
    data = bytearray(SMALL)
    data[at : at + 8] = number.to_bytes(8, "little")
    _read_or_refuse(bytes(data))


@settings(max_examples=500, deadline=5000)
@given(st.binary(max_size=400))
def test_any_bytes_after_the_magic_give_a_header_or_a_refusal(tail: bytes) -> None:
    _read_or_refuse(b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + tail)


def test_sizes_of_types_are_those_of_ggml() -> None:
    """A number of bits per weight that is far off would be a typing error in the table."""
    for ggml in GGML_TYPES.values():
        bits = ggml.block_bytes * 8 / ggml.block
        digits = next((int(c) for c in ggml.name.removeprefix("MXFP").removeprefix("NVFP") if c.isdigit()), 0)
        if ggml.block > 1:
            assert digits <= bits < digits + 1.7, ggml
