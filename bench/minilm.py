"""Writes all-MiniLM-L6-v2 as GGUF, from the files that `make models` fetches. Its numbers stay 32-bit floats."""

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import gguf_file
from bench.gguf_file import Chunks, Tensor, TensorType, Value

FOLDER = "all-MiniLM-L6-v2"
_OUTSIDE = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_IN_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
# llama.h: enum llama_token_type
_NORMAL, _UNKNOWN, _CONTROL, _UNUSED = 1, 2, 3, 5
_MEAN = 1  # llama.h: enum llama_pooling_type


def write(folder: Path, path: Path) -> Path:
    """Write the model in `folder` (config.json, vocab.txt, model.safetensors) to `path`."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    words = (folder / "vocab.txt").read_text("utf-8").splitlines()
    weights = read_weights(folder / "model.safetensors")
    gguf_file.write(path, _metadata(config, words), list(_tensors(weights)))
    return path


def read_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """Return the matrices of 32-bit floats in a file of the form safetensors, by name. They are not in memory yet."""
    with path.open("rb") as file:
        (n_bytes,) = struct.unpack("<Q", file.read(8))
        entries = json.loads(file.read(n_bytes))
    data = np.memmap(path, np.uint8, "r", offset=8 + n_bytes)
    return {
        name: data[slice(*entry["data_offsets"])].view(np.float32).reshape(entry["shape"])
        for name, entry in entries.items()
        if entry.get("dtype") == "F32"
    }


def _metadata(config: Mapping[str, int | float], words: list[str]) -> dict[str, Value]:
    special = {word: number for number, word in enumerate(words) if word.startswith("[") and word.endswith("]")}
    return {
        "general.architecture": "bert",
        "general.name": FOLDER,
        "general.file_type": 0,
        "bert.block_count": config["num_hidden_layers"],
        "bert.context_length": config["max_position_embeddings"],
        "bert.embedding_length": config["hidden_size"],
        "bert.feed_forward_length": config["intermediate_size"],
        "bert.attention.head_count": config["num_attention_heads"],
        "bert.attention.layer_norm_epsilon": config["layer_norm_eps"],
        "bert.attention.causal": False,
        "bert.pooling_type": _MEAN,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "jina-v2-en",  # llama.cpp's name for word pieces in lower case without accents
        "tokenizer.ggml.tokens": [_written(word, is_special=word in special) for word in words],
        "tokenizer.ggml.token_type": np.array([_type_of(word, special) for word in words], np.int32),
        "tokenizer.ggml.token_type_count": config["type_vocab_size"],
        "tokenizer.ggml.padding_token_id": special["[PAD]"],
        "tokenizer.ggml.unknown_token_id": special["[UNK]"],
        "tokenizer.ggml.cls_token_id": special["[CLS]"],
        "tokenizer.ggml.bos_token_id": special["[CLS]"],
        "tokenizer.ggml.seperator_token_id": special["[SEP]"],  # the key is spelled so in llama.cpp
        "tokenizer.ggml.eos_token_id": special["[SEP]"],
        "tokenizer.ggml.mask_token_id": special["[MASK]"],
    }


def _written(word: str, *, is_special: bool) -> str:
    """Return a word as llama.cpp wants it: a mark where a word begins, instead of one where it goes on."""
    if is_special:
        return word
    return word[2:] if word.startswith("##") else f"\u2581{word}"


def _type_of(word: str, special: Mapping[str, int]) -> int:
    if word == "[UNK]":
        return _UNKNOWN
    if word.startswith("[unused"):
        return _UNUSED
    return _CONTROL if word in special else _NORMAL


def _tensors(weights: Mapping[str, NDArray[np.float32]]) -> Iterator[Tensor]:
    for name, values in weights.items():
        if (written := _name_of(name)) is not None:
            yield Tensor(written, values.shape[::-1], TensorType.F32, _content_of(values))


def _name_of(name: str) -> str | None:
    """Return the name of a tensor in GGUF, or None for one that is not part of an embedding."""
    stem, _, kind = name.rpartition(".")
    if stem in _OUTSIDE:
        return f"{_OUTSIDE[stem]}.{kind}"
    if not stem.startswith("encoder.layer."):
        return None
    number, _, part = stem.removeprefix("encoder.layer.").partition(".")
    return f"blk.{number}.{_IN_LAYER[part]}.{kind}"


def _content_of(values: NDArray[np.float32]) -> Callable[[], Chunks]:
    return lambda: [np.ascontiguousarray(values).reshape(-1).view(np.uint8)]
