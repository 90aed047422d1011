"""A llama.cpp context: the memory of sequences, and decoding of batches that are filled through numpy."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from worker_gguf.engine.batch import Chunk
from worker_gguf.engine.params import ContextParams, PoolingType
from worker_gguf.errors import ModelError, NotEnoughMemory
from worker_gguf.llama import backend
from worker_gguf.llama.bindings import extensions, llama_cpp
from worker_gguf.llama.candidates import Floats
from worker_gguf.llama.model import Model
from worker_gguf.llama.positions import Positions, Run
from worker_gguf.llama.row_batch import RowBatch, Rows
from worker_gguf.llama.token_batch import TokenBatch

__all__ = [
    "Context",
    "DecodeFailed",
    "Follower",
    "NoSpace",
    "State",
    "limiting_threads",
    "native_params",
    "why_no_context",
]

# ggml.h: enum ggml_type
KV_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20, "bf16": 30,
}  # fmt: skip
# llama.h: enum llama_flash_attn_type
FLASH_ATTN = {"auto": -1, "off": 0, "on": 1}
# llama.h: enum llama_pooling_type
POOLINGS: dict[PoolingType, int] = {"mean": 1, "cls": 2, "last": 3, "rank": 4}


class State(Struct, frozen=True, eq=False):
    """The memory of one sequence as bytes, in llama.cpp's own format, and the runs of rows in it."""

    data: NDArray[np.uint8]
    runs: tuple[Run, ...] = ()

    @property
    def size(self) -> int:
        return self.data.size


class NoSpace(Exception):
    """The memory has no room for the batch. It is unchanged."""


class DecodeFailed(Exception):
    """llama_decode returned an error. It is unknown which tokens of the batch are in memory now."""


class Follower(Protocol):
    """What is told of everything that changes the memory of a context."""

    def computed(self, chunks: Sequence[Chunk], hidden: Floats) -> None:
        """Take the hidden rows of all tokens of the chunks in order, with the shape (tokens, n_embd).

        They are valid only during the call.
        """
        ...

    def cut(self, slot: int, n_tokens: int) -> None: ...

    def copied(self, source: int, target: int, n_tokens: int) -> None: ...


class Context:
    """A context, owned by one thread. Close it before its model."""

    def __init__(self, model: Model, params: ContextParams, *, is_mtp: bool = False) -> None:
        """With `is_mtp`, the context computes the MTP layer of the model, and not the others.

        Raises NotEnoughMemory or ModelError if llama.cpp cannot create the context.
        """
        self.params = params
        self.n_vocab = model.n_vocab
        self.n_embd: int = llama_cpp.llama_model_n_embd_out(model.pointer)
        self.follower: Follower | None = None
        self._is_recurrent = model.is_recurrent
        self._window = model.window
        backend.forget_errors()
        native = native_params(params)
        if is_mtp:
            native.ctx_type = llama_cpp.LLAMA_CONTEXT_TYPE_MTP
        pointer = llama_cpp.llama_init_from_model(model.pointer, native)
        if not pointer:
            raise why_no_context(params)
        self._pointer: llama_cpp.llama_context_p | None = pointer
        self._memory = llama_cpp.llama_get_memory(pointer)
        self.n_ctx_seq: int = llama_cpp.llama_n_ctx_seq(pointer)
        self.n_ctx_total: int = llama_cpp.llama_n_ctx(pointer)
        self._positions = Positions()
        self._batch = TokenBatch(params.n_batch, self._positions)
        self._logits: Floats = np.empty((0, self.n_vocab), np.float32)
        self._logits_at = 0

    def decode(self, chunks: Sequence[Chunk], hidden: Floats | None = None) -> Floats:
        """Compute all chunks and return their rows of logits in order, with the shape (sum of `n_outputs`, n_vocab).

        An MTP context needs `hidden`: the hidden row before each token, with the shape (tokens, n_embd). The rows of
        logits are writable and valid until the next decode. Raises NoSpace or DecodeFailed.
        """
        n_outputs = self._batch.fill(chunks, hidden)
        self._decode(self._batch.native)
        if self.follower is not None:
            self.follower.computed(chunks, self.hidden_rows(sum(len(chunk.tokens) for chunk in chunks)))
        return self._logits_of(n_outputs)

    def decode_rows(self, chunk: Chunk, rows: Rows, first: int, *, is_causal: bool) -> Floats:
        """Compute rows of an image, from row `first` on, in the place of tokens, and return the rows of logits.

        Without `is_causal`, the rows see each other, and the chunk must have all of them. Raises NoSpace or
        DecodeFailed.
        """
        start = chunk.start - first
        batch = RowBatch(chunk, rows, first, self._positions.of(chunk.slot, start))
        llama_cpp.llama_set_causal_attn(self._pointer, is_causal)
        try:
            self._decode(batch.native)
        finally:
            llama_cpp.llama_set_causal_attn(self._pointer, True)
        self._positions.add(chunk.slot, Run(start, len(rows.values), rows.n_positions))
        if self.follower is not None:
            self.follower.cut(chunk.slot, 0)  # it goes on after the image, which it cannot compute
        return self._logits_of(chunk.n_outputs)

    def _decode(self, batch: llama_cpp.llama_batch) -> None:
        code = llama_cpp.llama_decode(self._pointer, batch)
        if code == 1:
            raise NoSpace
        if code != 0:
            raise DecodeFailed(f"llama_decode answered {code}. {' '.join(backend.recent_errors()[-2:])}")

    def _logits_of(self, n_outputs: int) -> Floats:
        """Return the rows of logits of the last decode."""
        if n_outputs == 0:
            # Otherwise a GPU would compute on, and its time would be measured in the next step or save.
            llama_cpp.llama_synchronize(self._pointer)
            return np.empty((0, self.n_vocab), np.float32)
        # A new view takes 20 microseconds. The buffer moves only when it grows, so the view is usually still valid.
        address = ctypes.addressof(llama_cpp.llama_get_logits(self._pointer).contents)
        if address != self._logits_at or n_outputs > self._logits.shape[0]:
            self._logits_at = address
            flat = (ctypes.c_float * (n_outputs * self.n_vocab)).from_address(address)
            self._logits = np.ctypeslib.as_array(flat).reshape(n_outputs, self.n_vocab)
        return self._logits[:n_outputs]

    @contextmanager
    def limiting_threads(self, most: int) -> Iterator[None]:
        """Compute with at most `most` threads while the block runs."""
        with limiting_threads(self._pointer, self.params, most):
            yield

    def use_adapters(self, pointers: Sequence[llama_cpp.llama_adapter_lora_p], scales: Sequence[float]) -> None:
        """Compute with these LoRA adapters from the next decode on. If they differ, it plans its graphs again."""
        n = len(pointers)
        array = (llama_cpp.llama_adapter_lora_p_ctypes * n)(*pointers)
        if llama_cpp.llama_set_adapters_lora(self._pointer, array, n, (ctypes.c_float * n)(*scales)) != 0:
            raise RuntimeError("llama.cpp refused a set of adapters")

    def give_hidden_rows(self) -> None:
        """Let each decode give the hidden rows of all its tokens.

        llama.cpp can also give only those of tokens with a row of logits, but for GLM-4.5's MTP layer it then gives
        those of the first tokens (src/models/glm4-moe.cpp, llama-cpp-python 0.3.36).
        """
        extensions().llama_set_embeddings_nextn(self._pointer, True, False)

    def hidden_rows(self, n: int) -> Floats:
        """Return the first `n` hidden rows of the last decode, in the order of the batch, until the next one."""
        first = extensions().llama_get_embeddings_nextn(self._pointer)
        flat = (ctypes.c_float * (n * self.n_embd)).from_address(ctypes.addressof(first.contents))
        return np.ctypeslib.as_array(flat).reshape(n, self.n_embd)

    def truncate(self, slot: int, n_tokens: int) -> bool:
        """Keep only the first `n_tokens`.

        Returns False if this kind of memory cannot be cut there, or no longer has the tokens that it needs to go on.
        The content of the slot is unusable then.
        """
        if self.follower is not None:
            self.follower.cut(slot, n_tokens)
        position = self._positions.of(slot, n_tokens)
        self._positions.cut(slot, n_tokens)
        if not llama_cpp.llama_memory_seq_rm(self._memory, slot, position, -1):
            return False
        return n_tokens == 0 or self._can_go_on(slot, position)

    def copy(self, source: int, target: int, n_tokens: int) -> bool:
        """Make `target` hold the first `n_tokens` of `source`, in shared cells if unified, else in a copy of the
        stream.

        Returns False where `truncate` would.
        """
        if self.follower is not None:
            self.follower.copied(source, target, n_tokens)
        position = self._positions.of(source, n_tokens)
        self._positions.become(target, self._positions.runs(source))
        llama_cpp.llama_memory_seq_rm(self._memory, target, -1, -1)
        # Between partitions llama.cpp copies whole sequences only, and everywhere what has a state and no tokens.
        if self._is_recurrent or not self.params.unified:
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)
            return self.truncate(target, n_tokens)
        self._positions.cut(target, n_tokens)
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, position)
        return n_tokens == 0 or self._can_go_on(target, position)

    def _can_go_on(self, slot: int, position: int) -> bool:
        """Return whether layers with a sliding window still have all that the next token looks back on.

        llama.cpp cuts anywhere, and then computes wrong logits. It gives cells before the window to other sequences,
        even while others are free, and a saved state has only the window.
        """
        if self._is_recurrent or not self._window:
            return True
        first: int = llama_cpp.llama_memory_seq_pos_min(self._memory, slot)
        return 0 <= first <= max(0, position - self._window + 1)

    def save(self, slot: int) -> State | None:
        """Return the state of a slot. Returns None if there is too little memory, or llama.cpp cannot copy it."""
        size = llama_cpp.llama_state_seq_get_size(self._pointer, slot)
        try:
            data = np.empty(size, np.uint8)
        except MemoryError:
            return None
        written = llama_cpp.llama_state_seq_get_data(self._pointer, _bytes_of(data), size, slot)
        return State(data, self._positions.runs(slot)) if written == size > 0 else None

    def load(self, slot: int, state: State) -> bool:
        """Make a slot hold a state, and nothing else. Returns False if it cannot, and the slot is empty then."""
        if self.follower is not None:
            self.follower.cut(slot, 0)
        llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)
        self._positions.become(slot, state.runs)
        if llama_cpp.llama_state_seq_set_data(self._pointer, _bytes_of(state.data), state.size, slot) == state.size:
            return True
        self._positions.cut(slot, 0)
        llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return False

    def close(self) -> None:
        if self._pointer is not None:
            llama_cpp.llama_free(self._pointer)
            self._pointer = None


@contextmanager
def limiting_threads(pointer: llama_cpp.llama_context_p | None, params: ContextParams, most: int) -> Iterator[None]:
    """Let a context compute with at most `most` threads while the block runs."""
    usual = params.n_threads, params.n_threads_batch
    llama_cpp.llama_set_n_threads(pointer, *(min(n, most) for n in usual))
    try:
        yield
    finally:
        llama_cpp.llama_set_n_threads(pointer, *usual)


def _bytes_of(data: NDArray[np.uint8]) -> ctypes._Pointer[ctypes.c_uint8]:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


def native_params(params: ContextParams) -> llama_cpp.llama_context_params:
    native = llama_cpp.llama_context_default_params()
    native.n_ctx = params.n_cells
    native.n_batch = params.n_batch
    native.n_ubatch = params.n_ubatch
    native.n_seq_max = params.n_parallel
    # Rows of logits only for the tokens that need them: rows for a whole batch of 512 tokens over a vocabulary of 128k
    # would take 260 MB of the compute buffer.
    native.n_outputs_max = max(params.n_parallel, params.n_rows)
    native.n_threads = params.n_threads
    native.n_threads_batch = params.n_threads_batch
    native.flash_attn_type = FLASH_ATTN[params.flash_attn]
    native.type_k = KV_TYPES[params.type_k]
    native.type_v = KV_TYPES[params.type_v]
    native.rope_freq_base = params.rope_freq_base
    native.rope_freq_scale = params.rope_freq_scale
    native.kv_unified = params.unified
    # With it, the tokens before a sliding window are kept, so that prefixes can be reused.
    native.swa_full = params.swa_full
    native.no_perf = True
    if params.pooling is not None:
        native.embeddings = True
        native.pooling_type = POOLINGS[params.pooling.type]
        native.n_outputs_max = params.n_batch  # every token is an output
    return native


def why_no_context(params: ContextParams) -> ModelError:
    lines = backend.recent_errors()
    reported = " ".join(lines[-3:]) or "llama.cpp gave no reason."
    if any("alloc" in line for line in lines):
        return NotEnoughMemory(
            f"There is not enough memory for {params.n_parallel} sequences of {params.n_ctx} tokens: lower N_PARALLEL "
            f"or N_CTX, or set TYPE_K and TYPE_V to q8_0. llama.cpp reported: {reported}"
        )
    return ModelError(f"llama.cpp could not create a context. It reported: {reported}")
