"""A projector (mmproj file) beside its model: images to rows of numbers, which take the place of tokens in a prompt.

llama.cpp's mtmd library decodes the image, cuts it as the model wants it, and encodes it. Its bytes must have been
checked before: the decoder is C code, and what it allocates follows the dimensions that the file claims.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker_gguf.errors import EngineFailed, InvalidRequest, ModelInvalid, NotEnoughMemory
from worker_gguf.llama import backend
from worker_gguf.llama.alternation import Alternation
from worker_gguf.llama.bindings import llama_cpp, mtmd
from worker_gguf.llama.machine import gpu_device
from worker_gguf.llama.model import Model
from worker_gguf.llama.row_batch import Rows

__all__ = ["CutImage", "Projector"]

_MISMATCH = re.compile(r"mismatch between text model \(n_embd = (\d+)\) and mmproj \(n_embd = (\d+)\)")
# mtmd starts ffprobe for bytes that no decoder of its own knows. There is none in this folder, so it starts nothing.
_NO_PROGRAMS = b"/dev/null"
_TEXT = 0  # mtmd.h: enum mtmd_input_chunk_type


class CutImage:
    """An image as the model wants it, not yet encoded: text tokens around one or more runs of rows.

    `parts` has the tokens of a text, or the number of rows of a run. Valid until `Projector.look` ends.
    """

    def __init__(self, projector: Projector, chunks: Any) -> None:
        self._projector = projector
        n_chunks = mtmd().mtmd_input_chunks_size(chunks)
        self._chunks = [mtmd().mtmd_input_chunks_get(chunks, i) for i in range(n_chunks)]
        self.parts = tuple(map(_part_of, self._chunks))

    def encode(self) -> tuple[Rows, ...]:
        """Return the rows of all runs in order. Takes up to seconds. Raises EngineFailed."""
        runs = zip(self._chunks, self.parts, strict=True)
        return tuple(self._projector.encode(chunk, n) for chunk, n in runs if isinstance(n, int))


class Projector:
    """A loaded projector. For one thread at a time. Close it before its model."""

    def __init__(
        self,
        path: Path,
        model: Model,
        *,
        n_threads: int,
        gpu: int | None = None,
        alternation: Alternation | None = None,
    ) -> None:
        """`model` must have been loaded with its vocabulary. `gpu` is the place of a GPU in `read_machine`, if one is
        used. With an `alternation`, images are encoded in its turns. Raises ModelInvalid or NotEnoughMemory.
        """
        backend.take_log_of_mtmd()
        backend.forget_errors()
        params = mtmd().mtmd_context_params_default()
        params.use_gpu, params.n_threads, params.print_timings = gpu is not None, n_threads, False
        if gpu is not None:
            params.device = gpu_device(gpu)
        self._alternation = alternation
        if alternation is not None:
            # Kept, because llama.cpp calls it as long as the projector exists.
            self._on_operation = type(params.cb_eval)(self._pause)
            params.cb_eval = self._on_operation
        with backend.loading(path.name):
            pointer = mtmd().mtmd_init_from_file(str(path).encode(), model.pointer, params)
        if not pointer:
            raise _why_no_projector(path.name)
        self._pointer = pointer
        self.width: int = llama_cpp.llama_model_n_embd_inp(model.pointer)
        self.has_places: bool = mtmd().mtmd_decode_use_mrope(pointer)
        self.is_causal = not mtmd().mtmd_decode_use_non_causal(pointer, None)
        if not mtmd().mtmd_support_vision(pointer):
            self.close()
            raise ModelInvalid(f"{path.name} is a projector for sounds alone, which are not served yet. Unset MMPROJ.")

    @contextmanager
    def look(self, data: bytes) -> Iterator[CutImage]:
        """Decode an image and cut it for the model. Raises InvalidRequest if it cannot be decoded."""
        library = mtmd()
        bitmap, chunks = self._decode(data), library.mtmd_input_chunks_init()
        try:
            part = library.mtmd_input_part(text=None, bitmap=bitmap)
            parts = (ctypes.POINTER(library.mtmd_input_part) * 1)(ctypes.pointer(part))
            if library.mtmd_tokenize_from_parts(self._pointer, chunks, parts, 1, False) != 0:
                raise InvalidRequest(f"An image cannot be cut for this model. {_reported()}")
            yield CutImage(self, chunks)
        finally:
            library.mtmd_input_chunks_free(chunks)
            library.mtmd_bitmap_free(bitmap)

    def encode(self, chunk: Any, n_rows: int) -> Rows:
        """Encode one run of rows of an image. Raises EngineFailed."""
        with nullcontext() if self._alternation is None else self._alternation.encoding():
            status = mtmd().mtmd_encode_chunk(self._pointer, chunk)
        if status != 0:
            raise EngineFailed(f"An image could not be encoded. {_reported()}")
        encoded = mtmd().mtmd_get_output_embd(self._pointer)
        # A copy: the next run is encoded into the same memory.
        values = np.ctypeslib.as_array(encoded, (n_rows, self.width)).copy()
        n_positions = mtmd().mtmd_input_chunk_get_n_pos(chunk)
        return Rows(values, n_positions, self._places(chunk, n_rows) if self.has_places else None)

    def close(self) -> None:
        if self._pointer is not None:
            mtmd().mtmd_free(self._pointer)
            self._pointer = None

    def _pause(self, tensor: int, is_before: bool, data: int) -> bool:
        """Wait for the next turn after an operation, if this one is over.

        llama.cpp calls this before each operation, where True asks for a call after it, and then after it, where True
        goes on (ggml-backend.h, `ggml_backend_sched_eval_callback`).
        """
        if not is_before and self._alternation is not None:
            self._alternation.pause()
        return True

    def _decode(self, data: bytes) -> Any:
        options = mtmd().mtmd_helper_init_opt_default()
        options.video_params.ffmpeg_bin_dir = _NO_PROGRAMS
        backend.forget_errors()
        buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        made = mtmd().mtmd_helper_bitmap_init_from_buf_wrapper(self._pointer, buffer, len(data), False, options)
        if not made.bitmap:
            raise InvalidRequest("An image cannot be decoded: its data is damaged, or of a kind that is not supported.")
        return made.bitmap

    @staticmethod
    def _places(chunk: Any, n_rows: int) -> NDArray[np.int32]:
        places = (mtmd().mtmd_decoder_pos * n_rows)()
        mtmd().mtmd_helper_image_get_decoder_pos(mtmd().mtmd_input_chunk_get_tokens_image(chunk), 0, places)
        fields = np.ctypeslib.as_array(ctypes.cast(places, ctypes.POINTER(ctypes.c_uint32)), (n_rows, 4))
        # mtmd has t, x, y, z and llama.cpp takes t, y, x, z.
        return np.ascontiguousarray(fields[:, [0, 2, 1, 3]].T).astype(np.int32)


def _part_of(chunk: Any) -> tuple[int, ...] | int:
    if mtmd().mtmd_input_chunk_get_type(chunk) != _TEXT:
        n_rows: int = mtmd().mtmd_input_chunk_get_n_tokens(chunk)
        return n_rows
    n = ctypes.c_size_t()
    tokens = mtmd().mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(n))
    return tuple(tokens[: n.value])


def _why_no_projector(name: str) -> ModelInvalid | NotEnoughMemory:
    lines = backend.recent_errors()
    if found := next((found for line in lines if (found := _MISMATCH.search(line))), None):
        return ModelInvalid(
            f"{name} is the projector of another model: its rows have {found[2]} numbers, and those of this model "
            f"{found[1]}. Set MMPROJ to the projector of this model, or to none."
        )
    if any("alloc" in line or "out of memory" in line for line in lines):
        return NotEnoughMemory(f"There is not enough memory for the projector {name}. {_reported()}")
    return ModelInvalid(f"The projector {name} could not be loaded. {_reported()}")


def _reported() -> str:
    return f"llama.cpp reported: {' '.join(backend.recent_errors()[-2:]) or 'no reason.'}"
