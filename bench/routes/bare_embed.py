"""The bare limit of vectors: `llama_encode` over the same texts in batches, without HTTP. Prints JSON.

It is given the texts in a file, one a line, and tries several sizes of a batch: the fastest one counts.
"""

import ctypes
import json
import sys
import time
from pathlib import Path

import llama_cpp

from bench.bare import IGNORE_LOG
from bench.limit import Batch

SIZES = (64, 128, 256, 512, 1024, 2048)
_MOST_TEXTS = 64
_SECONDS = 4.0

Tokens = list[int]


def main() -> None:
    path, texts_path, n_threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    llama_cpp.llama_log_set(IGNORE_LOG, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise SystemExit(f"llama.cpp cannot load {path}")
    inputs = [tokenize(model, text) for text in Path(texts_path).read_text("utf-8").splitlines()]
    rates = {size: rate(model, inputs, size, n_threads) for size in SIZES if size >= max(map(len, inputs))}
    print(json.dumps({"texts_per_s": max(rates.values()), "sizes": rates}), flush=True)


def tokenize(model: llama_cpp.llama_model_p, text: str) -> Tokens:
    raw = text.encode()
    tokens = (llama_cpp.llama_token * (len(raw) + 8))()
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    n = llama_cpp.llama_tokenize(vocabulary, raw, len(raw), tokens, len(raw) + 8, True, True)
    return list(tokens[:n])


def rate(model: llama_cpp.llama_model_p, inputs: list[Tokens], size: int, n_threads: int) -> float:
    """Return the texts per second in batches of at most `size` tokens."""
    params = llama_cpp.llama_context_default_params()
    params.embeddings = True
    params.n_ctx = params.n_batch = params.n_ubatch = size
    params.n_seq_max, params.kv_unified = _MOST_TEXTS, True
    params.n_threads = params.n_threads_batch = n_threads
    context = llama_cpp.llama_init_from_model(model, params)
    batch = Batch(size)
    batches = packed(inputs, size)
    for group in batches[:2]:
        encode(context, batch, group)
    n_texts, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < _SECONDS:
        for group in batches:
            encode(context, batch, group)
            n_texts += len(group)
    seconds = time.perf_counter() - begun
    batch.close()
    llama_cpp.llama_free(context)
    return n_texts / seconds


def packed(inputs: list[Tokens], size: int) -> list[list[Tokens]]:
    groups: list[list[Tokens]] = [[]]
    for tokens in inputs:
        if len(groups[-1]) == _MOST_TEXTS or sum(map(len, groups[-1])) + len(tokens) > size:
            groups.append([])
        groups[-1].append(tokens)
    return groups


def encode(context: llama_cpp.llama_context_p, batch: Batch, group: list[Tokens]) -> None:
    batch.fill_texts(group)
    if code := llama_cpp.llama_encode(context, batch.c):
        raise SystemExit(f"llama_encode answered {code}")
    for sequence in range(len(group)):
        llama_cpp.llama_get_embeddings_seq(context, sequence)


if __name__ == "__main__":
    main()
