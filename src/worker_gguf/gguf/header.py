"""ModelHeader, the description in a GGUF file as one typed value, and its derivation from the file's keys."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from types import MappingProxyType
from typing import Final, NoReturn

from msgspec import Struct

from worker_gguf.gguf.cursor import Cursor
from worker_gguf.gguf.types import FILE_TYPES

__all__ = ["ArrayInfo", "ModelHeader", "Rope", "TensorInfo", "Value", "describe"]

MAX_LAYERS: Final = 16_384


class ArrayInfo(Struct, frozen=True):
    """An array that was hopped over; short numeric ones keep their values.

    `span` is the place of an array of texts in its file: where the first text begins, and the bytes of all.
    """

    type: str
    length: int
    values: tuple[int | float, ...] | None = None
    span: tuple[int, int] = (0, 0)


Value = bool | int | float | str | ArrayInfo


class TensorInfo(Struct, frozen=True):
    """One tensor. `shape` has the row length first; `offset` counts from the start of file number `part`."""

    name: str
    shape: tuple[int, ...]
    type: str
    size_bytes: int
    offset: int
    part: int = 0


class Rope(Struct, frozen=True):
    """Rotary position numbers; None where the file leaves them to the architecture."""

    dimensions: int | None
    freq_base: float | None
    scaling: str | None
    scaling_factor: float | None
    n_ctx_original: int | None


class ModelHeader(Struct, frozen=True):
    """The description of a model in a GGUF file. Missing numbers are 0, missing texts and ids None.

    `n_head`, `n_head_kv` and `n_ff` have one number per layer. `metadata` has every key under its name in the file.
    """

    version: int
    file_size: int
    data_offset: int
    architecture: str
    name: str | None
    quantisation: str
    n_layers: int
    n_embd: int
    n_head: tuple[int, ...]
    n_head_kv: tuple[int, ...]
    head_dim_k: int
    head_dim_v: int
    n_ff: tuple[int, ...]
    n_ctx_train: int
    n_vocab: int
    n_experts: int
    n_experts_used: int
    rope: Rope
    bos_id: int | None
    eos_id: int | None
    chat_template: str | None
    chat_templates: Mapping[str, str]
    n_parts: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]

    def get(self, key: str) -> Value | None:
        """Return a value by its full name, or by its name under the architecture (`attention.sliding_window`)."""
        value = self.metadata.get(key)
        return value if value is not None else self.metadata.get(f"{self.architecture}.{key}")

    @property
    def weights_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors)

    @property
    def n_params(self) -> int:
        return sum(prod(tensor.shape) for tensor in self.tensors)


class _Facts:
    """Typed look-ups in the metadata; a value of the wrong kind is a damaged file."""

    def __init__(self, cursor: Cursor, metadata: Mapping[str, Value], architecture: str) -> None:
        self.cursor = cursor
        self.metadata = metadata
        self.prefix = f"{architecture}."

    def wrong(self, key: str, expected: str) -> NoReturn:
        self.cursor.fail(f"its {key} is {str(self.metadata[key])[:80]}, not {expected}.")

    def text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        if value is not None and not isinstance(value, str):
            self.wrong(key, "a text")
        return value

    def integer(self, key: str, most: int = 1 << 62) -> int | None:
        value = self.metadata.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most):
            self.wrong(key, f"a whole number up to {most}")
        return value

    def number(self, key: str) -> float | None:
        value = self.metadata.get(key)
        if value is not None and not isinstance(value, int | float):
            self.wrong(key, "a number")
        return value

    def arch(self, key: str, default: int = 0, most: int = 1 << 62) -> int:
        value = self.integer(self.prefix + key, most)
        return default if value is None else value

    def per_layer(self, key: str, n_layers: int, default: tuple[int, ...]) -> tuple[int, ...]:
        """Return one number per layer from a number or an array; a longer array (extra layers) is cut."""
        name = self.prefix + key
        value = self.metadata.get(name)
        if isinstance(value, ArrayInfo):
            if value.values is None or value.type in ("f32", "f64") or value.length < n_layers:
                self.wrong(name, f"a whole number for each of {n_layers} layers")
            return tuple(int(item) for item in value.values[:n_layers])
        number = self.integer(name)
        return default if number is None else (number,) * n_layers


def describe(
    cursor: Cursor, version: int, data_offset: int, metadata: dict[str, Value], tensors: tuple[TensorInfo, ...]
) -> ModelHeader:
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        # Only the first file of a split carries the model's description.
        architecture = "" if "split.no" in metadata else cursor.fail("it does not say its general.architecture.")
    facts = _Facts(cursor, metadata, architecture)
    n_layers, n_embd = facts.arch("block_count", most=MAX_LAYERS), facts.arch("embedding_length")
    n_head = facts.per_layer("attention.head_count", n_layers, (0,) * n_layers)
    head_dim = n_embd // max(n_head) if any(n_head) else 0
    tokens = metadata.get("tokenizer.ggml.tokens")
    prefix = "tokenizer.chat_template."
    templates = {key[len(prefix) :]: facts.text(key) or "" for key in metadata if key.startswith(prefix)}
    return ModelHeader(
        version=version,
        file_size=cursor.size,
        data_offset=data_offset,
        architecture=architecture,
        name=facts.text("general.name"),
        quantisation=_quantisation(facts, tensors),
        n_layers=n_layers,
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=facts.per_layer("attention.head_count_kv", n_layers, n_head),
        head_dim_k=facts.arch("attention.key_length", head_dim),
        head_dim_v=facts.arch("attention.value_length", head_dim),
        n_ff=facts.per_layer("feed_forward_length", n_layers, (0,) * n_layers),
        n_ctx_train=facts.arch("context_length"),
        n_vocab=tokens.length if isinstance(tokens, ArrayInfo) else facts.arch("vocab_size"),
        n_experts=facts.arch("expert_count"),
        n_experts_used=facts.arch("expert_used_count"),
        rope=_rope(facts),
        bos_id=facts.integer("tokenizer.ggml.bos_token_id"),
        eos_id=facts.integer("tokenizer.ggml.eos_token_id"),
        chat_template=facts.text("tokenizer.chat_template"),
        chat_templates=MappingProxyType(templates),
        n_parts=max(facts.integer("split.count", most=99_999) or 1, 1),
        metadata=MappingProxyType(metadata),
        tensors=tensors,
    )


def _rope(facts: _Facts) -> Rope:
    prefix = f"{facts.prefix}rope."
    return Rope(
        dimensions=facts.integer(f"{prefix}dimension_count"),
        freq_base=facts.number(f"{prefix}freq_base"),
        scaling=facts.text(f"{prefix}scaling.type"),
        scaling_factor=facts.number(f"{prefix}scaling.factor"),
        n_ctx_original=facts.integer(f"{prefix}scaling.original_context_length"),
    )


def _quantisation(facts: _Facts, tensors: tuple[TensorInfo, ...]) -> str:
    """Return the file's own name for its quantisation, or the type of most of its bytes."""
    file_type = facts.integer("general.file_type")
    if file_type is not None and file_type in FILE_TYPES:
        return FILE_TYPES[file_type]
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.size_bytes
    return max(sizes, key=lambda name: sizes[name]) if sizes else "unknown"
