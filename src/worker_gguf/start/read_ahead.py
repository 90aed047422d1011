"""Runs the prefetch during the start: chooses its files, reports its progress and closes its files."""

from __future__ import annotations

import logging
import threading
from typing import BinaryIO, Self

from worker_gguf.readahead.prefetch import Prefetch
from worker_gguf.readahead.room import page_cache_room_bytes
from worker_gguf.start.first_look import FirstLook
from worker_gguf.start.start import Start
from worker_gguf.store import LocalModel

__all__ = ["ReadAhead"]

logger = logging.getLogger(__name__)

_LOOK_S = 0.1
# ggml aligns tensors in main memory to this. A model mapped through an open file needs weights at a multiple of it.
_ALIGNMENT = 32


class ReadAhead:
    """A context manager that reads the model's files into the page cache. Its exit stops this and closes the files.

    `look` reads the header and the vocabulary of the model already, or is None.
    """

    def __init__(
        self,
        start: Start,
        head_start: Prefetch | None = None,
        look: FirstLook | None = None,
        *,
        phase: str = "prefetch",
    ) -> None:
        """`head_start` is a prefetch that is already running, maybe with the wrong files. `look` looks at the same."""
        self.look = look
        self._start = start
        self._phase = phase
        self._prefetch = head_start
        self._watch: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def follow(self, local: LocalModel) -> None:
        """Read this model. Continues the head start if it reads the same files, and otherwise starts a new prefetch."""
        if self._prefetch is not None and (self._is_off or self._prefetch.paths != local.paths):
            self._prefetch.close()
            self._prefetch = self.look = None
        if self._prefetch is None and not self._is_off:
            self._prefetch = self._begin(local)
        if self._prefetch is not None:
            self._watch = threading.Thread(target=self._follow, args=(self._prefetch,), name="read-ahead", daemon=True)
            self._watch.start()

    def files(self) -> list[BinaryIO]:
        """Return the open files of the model, or an empty list if there is no prefetch."""
        prefetch = self._prefetch
        return [prefetch.file(n) for n in range(len(prefetch.paths))] if prefetch else []

    def fd(self, data_offset: int) -> int | None:
        """Return the descriptor from which to load a model, or None if it must be loaded by its path.

        Its weights begin at `data_offset` bytes in the file.
        """
        return self._prefetch.fd if self._prefetch and data_offset % _ALIGNMENT == 0 else None

    def opened(self) -> None:
        """Note that llama.cpp has opened all files that it opens by name."""
        if self._prefetch is not None:
            self._prefetch.opened()

    def close(self) -> None:
        prefetch, self._prefetch = self._prefetch, None
        if prefetch is not None:
            prefetch.close()
        if self._watch is not None:
            self._watch.join(10 * _LOOK_S)

    @property
    def _is_off(self) -> bool:
        # Direct I/O bypasses the page cache, so the file would be read twice.
        return self._start.settings.prefetch == "off" or self._start.settings.load_mode == "direct"

    def _begin(self, local: LocalModel) -> Prefetch | None:
        limit_bytes = None if self._start.settings.prefetch == "on" else page_cache_room_bytes()
        try:
            return Prefetch(
                local.paths, n_readers=self._start.settings.prefetch_readers, limit_bytes=limit_bytes
            ).start()
        except OSError as error:  # the load will fail with a better message
            logger.warning("nothing is read ahead", extra={"reason": str(error)})
            return None

    def _follow(self, prefetch: Prefetch) -> None:
        """Report the progress until the readers are done, then end the phase."""
        phase = self._start.timeline.begin(self._phase, prefetch.began_s)
        while not prefetch.wait(_LOOK_S):
            if not self._start.gate(self._phase, prefetch.bytes_done / max(1, prefetch.bytes_total)):
                prefetch.cancel()
        self._start.gate(self._phase, prefetch.bytes_done / max(1, prefetch.bytes_total))
        phase.size_bytes = prefetch.bytes_done - prefetch.bytes_cached
        phase.note = f"{prefetch.most_readers} readers"
        if prefetch.bytes_cached:
            phase.note = f"{prefetch.bytes_cached / 1e6:,.0f} MB were in the page cache"
        self._start.timeline.end(phase, prefetch.ended_s)
