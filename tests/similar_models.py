"""Copies of the embedded model that have its vocabulary, or nearly: drafts for it, and models that cannot draft."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from worker_gguf.embedded import MODEL_PATH
from worker_gguf.gguf import read_header

__all__ = ["write_random_draft", "write_with_more_tokens", "write_with_other_eos", "write_with_other_text"]

_BLOCK_BYTES = 34  # Q8_0: a scale in f16 and 32 weights in 8 bits


def write_random_draft(path: Path) -> Path:
    """Write the embedded model with the weights of each matrix in random order."""
    content = bytearray(MODEL_PATH.read_bytes())
    random = np.random.default_rng(3)
    for tensor in read_header(MODEL_PATH).tensors:
        if tensor.type == "Q8_0":
            blocks = np.frombuffer(content, np.uint8, tensor.size_bytes, tensor.offset).reshape(-1, _BLOCK_BYTES)
            random.shuffle(blocks)
    path.write_bytes(content)
    return path


def write_with_other_eos(path: Path) -> Path:
    """Write the embedded model with another EOS token."""
    content = bytearray(MODEL_PATH.read_bytes())
    key = b"tokenizer.ggml.eos_token_id"
    at = content.index(key) + len(key) + 4  # after the type of the value
    (eos,) = struct.unpack_from("<I", content, at)
    assert eos == read_header(MODEL_PATH).eos_id
    struct.pack_into("<I", content, at, eos - 1)
    path.write_bytes(content)
    return path


def write_with_more_tokens(path: Path, n: int) -> Path:
    """Write the embedded model with `n` tokens more, an even number, for which it has no weights."""
    content = bytearray(MODEL_PATH.read_bytes())
    key = b"tokenizer.ggml.tokens"
    at = content.index(key) + len(key) + 8  # after the types of the value and of its elements
    (n_before,) = struct.unpack_from("<Q", content, at)
    struct.pack_into("<Q", content, at, n_before + n)
    end = at + 8
    for _ in range(n_before):
        end += 8 + struct.unpack_from("<Q", content, end)[0]
    more = b"".join(struct.pack("<Q", 8) + b"<%06d>" % token for token in range(n))
    assert len(more) % 32 == 0, "the weights would not be aligned"
    path.write_bytes(content[:end] + more + content[end:])
    return path


def write_with_other_text(path: Path, text: bytes = b"<|python_tag|>", other: bytes = b"<|walrus_tag|>") -> Path:
    """Write the embedded model with another text of one token."""
    content = MODEL_PATH.read_bytes()
    written, rewritten = (struct.pack("<Q", len(each)) + each for each in (text, other))
    assert len(text) == len(other)
    assert content.count(written) == 1
    path.write_bytes(content.replace(written, rewritten))
    return path
