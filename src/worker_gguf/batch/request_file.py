"""The file of requests, which is only read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from worker_gguf.batch.answered import Answered
from worker_gguf.batch.lines import Line, read_lines
from worker_gguf.errors import BatchError

__all__ = ["RequestFile"]


class RequestFile:
    """The open file. Close it at the end. `n_requests` counts its lines that are not blank."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        """Open the file and count its requests, each of at most `most_bytes`.

        Raises BatchError if it cannot be read or is not a plain file.
        """
        self.path = path
        self._most_bytes = most_bytes
        try:
            # O_NONBLOCK: a named pipe must not block the opening.
            self._file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
        except OSError as error:
            raise self._unreadable(error) from None
        try:
            if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                raise BatchError(f"The input {path} is not a plain file. It is read several times, so it must be one.")
            self.n_requests = sum(1 for _ in self.lines())
        except BaseException:
            self._file.close()
            raise

    def lines(self) -> Iterator[Line]:
        """Yield the lines from the first one. Raises BatchError if the file cannot be read. Use one at a time."""
        try:
            yield from read_lines(self._file, self._most_bytes)
        except OSError as error:
            raise self._unreadable(error) from None

    def unanswered(self, answered: Answered) -> Iterator[Line]:
        """Yield the lines that have no answer yet."""
        return (line for line in self.lines() if line.number not in answered)

    def check(self, answered: Answered, output: Path) -> None:
        """Raise BatchError if the answers in `output` are not to lines of this file as it is now."""
        digest = sum(line.digest for line in self.lines() if line.number in answered) % 2**64
        if answered.last > self.n_requests or digest != answered.digest:
            raise BatchError(
                f"The answers in {output} are not to the requests of {self.path}: a line that is answered there was "
                "changed, moved or removed. Restore the input, or name another output."
            )

    def close(self) -> None:
        self._file.close()

    def _unreadable(self, error: OSError) -> BatchError:
        return BatchError(f"The input {self.path} cannot be read: {error.strerror}.")
