"""Runs the GGUF greedily through llama.cpp on the CPU, and measures its margins."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import llama_cpp
import numpy as np
from jinja2 import Template
from numpy.typing import NDArray

from tools.embedded import template
from tools.embedded.conversation import Json


@dataclass(frozen=True, slots=True)
class Answer:
    """`margin` is the smallest gap between the best logit and the next, over all its tokens."""

    text: str
    n_prompt: int
    n_tokens: int
    margin: float
    finished: bool


class Oracle:
    def __init__(self, path: Path, n_ctx: int = 2048, n_threads: int = 1) -> None:
        # A silent callback has to be kept alive for as long as llama.cpp may log.
        self._log = llama_cpp.llama_log_callback(lambda level, text, user: None)
        llama_cpp.llama_log_set(self._log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path.name}.")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = n_ctx
        params.n_threads = params.n_threads_batch = n_threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)
        stored = llama_cpp.llama_model_chat_template(self.model, None)
        self.template: Template = template.compile_template(stored.decode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)

    def tokenize(self, text: str) -> list[int]:
        raw = text.encode()
        room = (llama_cpp.llama_token * (len(raw) + 8))()
        n = llama_cpp.llama_tokenize(self.vocab, raw, len(raw), room, len(room), False, True)
        return list(room[:n])

    def piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(64)
        n = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, 64, 0, True)
        return buffer.raw[:n]

    def ask(self, messages: Sequence[Json], tools: Sequence[Json] = (), max_tokens: int = 600) -> Answer:
        text = template.render(messages, tools, add_generation_prompt=True, template=self.template)
        return self.complete(text, max_tokens)

    def complete(self, text: str, max_tokens: int) -> Answer:
        return self.follow(self.tokenize(text), max_tokens)

    def follow(self, prompt: list[int], max_tokens: int, *, start: int = 0, shift: int = 0) -> Answer:
        """`start` and `shift` put tokens in wrong places, for experiments.

        Everything begins at position `start`; the later half of the prompt is moved by `shift`
        after it was computed, as a cached prefix would be that was reused in the wrong place.
        """
        memory = llama_cpp.llama_get_memory(self.context)
        llama_cpp.llama_memory_clear(memory, True)
        self._decode(prompt[:-1], start)
        llama_cpp.llama_memory_seq_add(memory, 0, start + len(prompt) // 2, -1, shift)
        position, token = start + shift + len(prompt) - 1, prompt[-1]
        said, margin = bytearray(), float("inf")
        for n in range(1, max_tokens + 1):
            self._decode([token], position)
            logits = self._logits()
            second, best = np.partition(logits, -2)[-2:]
            margin = min(margin, float(best - second))
            token, position = int(logits.argmax()), position + 1
            if llama_cpp.llama_vocab_is_eog(self.vocab, token):
                return self._answer(said, prompt, n, margin, finished=True)
            said += self.piece(token)
        return self._answer(said, prompt, max_tokens, margin, finished=False)

    def _answer(self, said: bytearray, prompt: list[int], n: int, margin: float, *, finished: bool) -> Answer:
        return Answer(said.decode(errors="replace"), len(prompt), n, margin, finished)

    def _decode(self, tokens: list[int], first: int) -> None:
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, first + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = i == len(tokens) - 1
        code = llama_cpp.llama_decode(self.context, batch)
        llama_cpp.llama_batch_free(batch)
        if code != 0:
            raise RuntimeError(f"llama_decode returned {code}.")

    def _logits(self) -> NDArray[np.float32]:
        pointer = llama_cpp.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(pointer, shape=(self.n_vocab,))
