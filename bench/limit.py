"""The bare limit: `llama_decode` in lockstep over the same prompts, without sampling, text or HTTP, in this process.

A wave is as many prompts as there are sequences, prefilled together, then one token each per step. Of the new tokens of
a request the first needs no step of its own (the prompt's last position yields it), here as in the worker.
"""

import argparse
import ctypes
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from bench import words
from bench.process import peak_memory_mb


@dataclass(frozen=True, slots=True)
class Work:
    model: str
    concurrency: int
    requests: int
    prompt_tokens: int
    max_tokens: int
    n_ctx: int  # of one sequence
    n_batch: int
    n_ubatch: int
    n_threads: int
    n_gpu_layers: int
    kv_unified: bool


class Batch:
    """A `llama_batch` filled through numpy views: field by field from Python costs more than a small model's step."""

    def __init__(self, n_tokens_max: int) -> None:
        self.c = llama_cpp.llama_batch_init(n_tokens_max, 0, 1)

        def view(field: str) -> NDArray[np.int32]:
            return np.ctypeslib.as_array(getattr(self.c, field), (n_tokens_max,))

        self._tokens, self._positions, self._logits = view("token"), view("pos"), view("logits")
        # Each entry of seq_id points to memory of its own, which stays where it is: write the numbers there.
        self._sequences = [self.c.seq_id[n] for n in range(n_tokens_max)]
        view("n_seq_id")[:] = 1

    def fill(
        self, tokens: NDArray[np.int32], positions: NDArray[np.int32], sequences: list[int], logits: NDArray[np.int8]
    ) -> None:
        n = self.c.n_tokens = len(tokens)
        self._tokens[:n], self._positions[:n], self._logits[:n] = tokens, positions, logits
        for pointer, sequence in zip(self._sequences, sequences, strict=False):
            pointer[0] = sequence

    def fill_texts(self, texts: list[list[int]]) -> None:
        """Fill it with whole texts, each a sequence of its own, of which every token is an output."""
        tokens = np.concatenate([np.array(text, np.int32) for text in texts])
        positions = np.concatenate([np.arange(len(text), dtype=np.int32) for text in texts])
        sequences = [sequence for sequence, text in enumerate(texts) for _ in text]
        self.fill(tokens, positions, sequences, np.ones(len(tokens), np.int8))

    def advance(self, tokens: NDArray[np.int32]) -> None:
        """Take the same sequences one position further."""
        n = self.c.n_tokens
        self._tokens[:n] = tokens
        self._positions[:n] += 1

    def close(self) -> None:
        llama_cpp.llama_batch_free(self.c)


class Limit:
    def __init__(self, work: Work) -> None:
        self.work = work
        self.model = load_model(work)
        self.context = new_context(self.model, work)
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.prefill_batch = Batch(work.n_batch)
        self.decode_batch = Batch(work.concurrency)

    def run(self) -> dict[str, float]:
        work = self.work
        n_waves = work.requests // work.concurrency
        self.wave("warm-up", 8)
        prefill_s = decode_s = 0.0
        for wave in range(n_waves):
            seconds = self.wave(str(wave), work.max_tokens)
            prefill_s, decode_s = prefill_s + seconds[0], decode_s + seconds[1]
        n_tokens = n_waves * work.concurrency * work.max_tokens
        n_stepped = n_waves * work.concurrency * (work.max_tokens - 1)
        return {
            "tokens_per_s": n_tokens / (prefill_s + decode_s),
            "decode_tokens_per_s": n_stepped / decode_s,
            "prefill_tokens_per_s": n_waves * work.concurrency * work.prompt_tokens / prefill_s,
            "seconds": prefill_s + decode_s,
            "peak_memory_mb": peak_memory_mb("self"),
        }

    def wave(self, name: str, max_tokens: int) -> tuple[float, float]:
        """Return the seconds of prefill and of all steps."""
        sequences = list(range(self.work.concurrency))
        prompts = [self.tokenize(words.prompt(self.work.prompt_tokens, f"{name} {n}")) for n in sequences]
        rng = np.random.default_rng(len(name))
        steps = rng.integers(0, words.N_TEXT_TOKENS, (max_tokens - 1, len(sequences)), np.int32)
        llama_cpp.llama_memory_clear(self.memory, False)
        begun = time.perf_counter()
        self.prefill(prompts)
        prefilled = time.perf_counter()
        positions = np.full(len(sequences), self.work.prompt_tokens - 1, np.int32)
        self.decode_batch.fill(steps[0], positions, sequences, np.ones(len(sequences), np.int8))
        for tokens in steps:
            self.decode_batch.advance(tokens)
            self.decode(self.decode_batch)
        return prefilled - begun, time.perf_counter() - prefilled

    def prefill(self, prompts: list[NDArray[np.int32]]) -> None:
        n_prompt, n_batch = self.work.prompt_tokens, self.work.n_batch
        tokens = np.concatenate(prompts)
        positions = np.tile(np.arange(n_prompt, dtype=np.int32), len(prompts))
        sequences = [sequence for sequence in range(len(prompts)) for _ in range(n_prompt)]
        logits = (positions == n_prompt - 1).astype(np.int8)
        for start in range(0, len(tokens), n_batch):
            part = slice(start, start + n_batch)
            self.prefill_batch.fill(tokens[part], positions[part], sequences[part], logits[part])
            self.decode(self.prefill_batch)

    def decode(self, batch: Batch) -> None:
        if code := llama_cpp.llama_decode(self.context, batch.c):
            raise RuntimeError(f"llama_decode answered {code} for {batch.c.n_tokens} tokens")
        llama_cpp.llama_synchronize(self.context)

    def tokenize(self, text: str) -> NDArray[np.int32]:
        vocab = llama_cpp.llama_model_get_vocab(self.model)
        encoded = text.encode()
        tokens = (llama_cpp.llama_token * (len(encoded) + 1))()
        n = llama_cpp.llama_tokenize(vocab, encoded, len(encoded), tokens, len(tokens), True, False)
        if n < self.work.prompt_tokens:
            raise RuntimeError(f"a prompt of {self.work.prompt_tokens} tokens has only {n} in this model's vocabulary")
        return np.array(tokens[: self.work.prompt_tokens], np.int32)

    def close(self) -> None:
        self.decode_batch.close()
        self.prefill_batch.close()
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)


def _ignore_log(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    pass


# Kept here: llama.cpp calls it for as long as the process lives.
IGNORE_LOG = llama_cpp.llama_log_callback(_ignore_log)


def load_model(work: Work) -> llama_cpp.llama_model_p:
    llama_cpp.llama_log_set(IGNORE_LOG, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = work.n_gpu_layers
    # As the worker loads on x86: rearranged weights are another model, and crash where a virtual machine shows AMX.
    params.use_extra_bufts = False
    model = llama_cpp.llama_model_load_from_file(work.model.encode(), params)
    if model is None:
        raise RuntimeError(f"llama.cpp cannot load {work.model}")
    return model


def new_context(model: llama_cpp.llama_model_p, work: Work) -> llama_cpp.llama_context_p:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = work.n_ctx * work.concurrency
    params.n_seq_max = params.n_outputs_max = work.concurrency
    params.n_batch, params.n_ubatch = work.n_batch, work.n_ubatch
    params.n_threads = params.n_threads_batch = work.n_threads
    params.kv_unified = work.kv_unified
    context = llama_cpp.llama_init_from_model(model, params)
    if context is None:
        raise RuntimeError(f"no context of {work.concurrency} times {work.n_ctx} tokens")
    return context


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.limit", description=__doc__)
    parser.add_argument("work", type=json.loads, help="the fields of Work as JSON")
    work = Work(**parser.parse_args().work)
    limit = Limit(work)
    # The name of the file is enough: results are committed, and say nothing of whose machine they are from.
    print(json.dumps(asdict(work) | {"model": Path(work.model).name} | limit.run()))
    limit.close()


if __name__ == "__main__":
    main()
