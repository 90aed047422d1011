"""Reads the header and the vocabulary of the model that the head start found, beside the imports of the start.

It knows no settings: whether this is the right model is found out later (`read_ahead.py`).
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import Future, wait
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Self

from worker_gguf import environment
from worker_gguf.errors import ModelInvalid
from worker_gguf.gguf import ModelHeader, read_headers
from worker_gguf.observe import log
from worker_gguf.observe.timeline import Timeline

if TYPE_CHECKING:
    from worker_gguf.llama.vocabulary import Vocabulary
    from worker_gguf.readahead.prefetch import Prefetch

__all__ = ["FirstLook", "load_into"]

logger = logging.getLogger("llama.cpp")


class FirstLook:
    """Reads the header and the vocabulary of a model in a thread of its own."""

    def __init__(self, prefetch: Prefetch, timeline: Timeline) -> None:
        """`prefetch` has the files open, and must have until `header` is there."""
        self._prefetch, self._timeline = prefetch, timeline
        self._header: Future[ModelHeader] = Future()
        self.vocabulary: Future[Vocabulary] = Future()
        """Raises ModelInvalid, also if the header is damaged."""

    def start(self) -> Self:
        Thread(target=self._run, name="first look", daemon=True).start()
        return self

    def header(self) -> ModelHeader:
        """Return the header when it is read. Raises ModelInvalid."""
        return self._header.result()

    def settle(self, timeout_s: float = 3.0) -> None:
        """Wait until it is done, for at most `timeout_s`: a process that ends while llama.cpp loads may crash."""
        wait([self.vocabulary], timeout_s)

    def _run(self) -> None:
        try:
            with self._timeline.phase("header"):
                paths = self._prefetch.paths
                files = [self._prefetch.file(n) for n in range(len(paths))]
                header = read_headers(paths, files)
                content = os.pread(files[0].fileno(), header.data_offset, 0)
        except BaseException as error:  # noqa: BLE001 - `header` raises it
            self._header.set_exception(error)
            self.vocabulary.set_exception(error)
            return
        self._header.set_result(header)
        load_into(self.vocabulary, self._timeline, paths[0], content)


def load_into(loaded: Future[Vocabulary], timeline: Timeline, path: Path, header: bytes) -> None:
    """Load the vocabulary from the first bytes of a model's file, and set the result: ModelInvalid if it is unusable.

    `path` is read only for the size of the file.
    """
    try:
        with timeline.phase("vocabulary"):
            loaded.set_result(_load(path, header))
    except BaseException as error:  # noqa: BLE001 - whoever waits for the result raises it
        loaded.set_exception(error)


def _load(path: Path, header: bytes) -> Vocabulary:
    from worker_gguf.llama.backend import start as start_backend
    from worker_gguf.llama.vocabulary_only import load_vocabulary

    environment.hide_gpus()
    start_backend(_say_last, uses_gpus=False)  # before the next line starts it with other last words
    vocabulary = load_vocabulary(path, header, path.stat().st_size)
    try:
        if why := vocabulary.why_unusable():
            raise ModelInvalid(f"{path.name} cannot be served: it is {why}. Choose another model.")
        _ = vocabulary.special  # a search that takes 0.1 s, here beside the load
    except BaseException:
        vocabulary.close()
        raise
    return vocabulary


def _say_last(sentence: str) -> None:
    """Log why llama.cpp ends this process, which may be before the log is configured."""
    log.write_held()
    logger.error(sentence)
