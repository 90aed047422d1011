"""The file of results: one whole line for each answered request, appended as the answers come.

The file itself says which requests it answers, so a run that was killed goes on without another file. The `id` of a
line has the number of its request and the digest of the request's line.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from worker_gguf.batch.answered import Answered
from worker_gguf.batch.lines import Line
from worker_gguf.errors import BatchError

__all__ = ["ResultFile", "result_id"]

_ID: Final = re.compile(r"batch_req_(\d{1,15})_([0-9a-f]{16})")
_OUR_LINE: Final = re.compile(rb'\{"id":"batch_req_(\d{1,15})_([0-9a-f]{16})",')
_SYNC_S: Final = 3.0
"""A machine that dies loses the results of so many seconds. A process that is killed loses none."""
_BLOCK_BYTES: Final = 1 << 16


def result_id(line: Line) -> str:
    """Return the `id` of the result of a line."""
    return f"batch_req_{line.number}_{line.digest:016x}"


class ResultFile:
    """The open file. `answered` has the requests that it answers. Close it at the end."""

    def __init__(self, path: Path, n_requests: int) -> None:
        """Open the file or create it, cut off a torn last line, and read which of `n_requests` requests are answered.

        Raises BatchError if the file cannot be opened, is not a plain file, is open in another process that writes it,
        or has lines that are no results.
        """
        self.path = path
        self.answered = Answered()
        self._n_requests = n_requests
        self._synced_s = time.monotonic()
        try:
            # O_NONBLOCK: a named pipe must not block the opening.
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666)
        except OSError as error:
            raise BatchError(f"The output {path} cannot be opened: {error.strerror}.") from None
        try:
            self._claim()
            self._cut_torn_line()
            self._read()
        except OSError as error:
            os.close(self._fd)
            raise BatchError(f"The output {path} cannot be read: {error.strerror}.") from None
        except BaseException:
            os.close(self._fd)
            raise

    def append(self, line: Line, result: bytes) -> None:
        """Write a result. Raises BatchError if it cannot be written; nothing of it is left in the file then."""
        content, written = memoryview(result), 0
        try:
            while written < len(content):
                written += os.pwrite(self._fd, content[written:], self._size + written)
            if time.monotonic() - self._synced_s > _SYNC_S:
                self._sync()
        except OSError as error:
            with suppress(OSError):  # the next start would cut it too
                os.ftruncate(self._fd, self._size)
            raise self._full(error) from None
        self._size += written
        self.answered.add(line.number, line.digest)

    def close(self) -> None:
        """Close the file. Raises BatchError if the disk has not taken all of it."""
        try:
            self._sync()
        except OSError as error:
            raise self._full(error) from None
        finally:
            os.close(self._fd)

    def _claim(self) -> None:
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            raise BatchError(f"The output {self.path} is not a plain file. Name a file: it shows where to go on.")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BatchError(f"Another process writes {self.path}. Wait for its end or name another output.") from None
        except OSError:
            pass  # a file system without locks

    def _cut_torn_line(self) -> None:
        """Cut the file after its last line break: what follows is a line that was being written."""
        size = end = os.fstat(self._fd).st_size
        while end > 0:
            start = max(0, end - _BLOCK_BYTES)
            at = os.pread(self._fd, end - start, start).rfind(b"\n")
            end = start if at < 0 else start + at + 1
            if at >= 0:
                break
        if end < size:
            os.ftruncate(self._fd, end)
        self._size = end

    def _read(self) -> None:
        with os.fdopen(os.dup(self._fd), "rb") as file:
            file.seek(0)
            for place, raw in enumerate(file, 1):
                if raw.strip():
                    number, digest = self._request_of(raw, place)
                    if not 1 <= number <= self._n_requests:
                        raise BatchError(
                            f"Line {place} of the output {self.path} answers request {number}, but the input has "
                            f"{self._n_requests} requests. Restore the input, or name another output."
                        )
                    self.answered.add(number, digest)

    def _request_of(self, raw: bytes, place: int) -> tuple[int, int]:
        """Return the number and the digest of the request that a line answers."""
        if ours := _OUR_LINE.match(raw):
            return int(ours[1]), int(ours[2], 16)
        try:  # another program may have written the line again
            found = _ID.fullmatch(json.loads(raw)["id"])
        except (ValueError, TypeError, KeyError, RecursionError):
            found = None
        if found is None:
            raise BatchError(
                f"Line {place} of the output {self.path} is not a result of this command. Remove the line, or name "
                "another output."
            )
        return int(found[1]), int(found[2], 16)

    def _sync(self) -> None:
        os.fsync(self._fd)
        self._synced_s = time.monotonic()

    def _full(self, error: OSError) -> BatchError:
        return BatchError(
            f"The output {self.path} cannot be written ({error.strerror}): make room and run the same command again, "
            f"which goes on after the {len(self.answered)} answers that the file has."
        )
