"""Decides which worker downloads a file on a shared volume, by a lease file with a heartbeat, created exclusively.

flock(2) is not used, because it silently succeeds on some network mounts (huggingface_hub#4228). A waiting worker takes
a lease over when its content has not changed for `takeover_s` by the waiting worker's clock. The clocks of two machines
are never compared. After a freeze, or on a mount that shows old names, two workers may both assume that they hold the
lease. This is harmless: each writes under its own name and publishes verified bytes by rename. The worker that lost the
lease notices it at its next heartbeat.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import Struct

from worker_gguf.store.tuning import Tuning

__all__ = ["Lease", "bytes_said"]

logger = logging.getLogger(__name__)

_WIDTH = 256  # bytes; all heartbeats have the same length, so that each overwrites the previous one completely


class _Content(Struct, frozen=True):
    holder: str
    beat: int
    bytes_done: int


class Lease:
    """A lease from the view of one worker. Call `try_take` until it succeeds. The exit of its context releases it."""

    def __init__(self, path: Path, tuning: Tuning, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.holder = uuid.uuid4().hex[:16]
        self.bytes_done = 0
        """The progress that the next heartbeat publishes. If another worker holds the lease, its last progress."""
        self._tuning = tuning
        self._clock = clock
        self._n_beats = 0
        self._beat_at = 0.0
        self._seen: _Content | str | None = "nothing yet"
        self._seen_at = clock()
        self._lost = threading.Event()
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    # --- taking ---------------------------------------------------------------------------------------------------

    def try_take(self) -> bool:
        """Take the lease if it is free or its holder has stopped renewing it. Returns whether this worker has it."""
        if self._create():
            self._start()
            return True
        try:
            seen = self._read()
        except FileNotFoundError:  # just released
            return False
        if seen != self._seen:
            self._seen, self._seen_at = seen, self._clock()
            self.bytes_done = seen.bytes_done if seen else self.bytes_done
            return False
        if self._clock() - self._seen_at < self._tuning.takeover_s:
            return False
        if not self._move_away(seen) or not self._create():
            return False
        logger.warning("lease taken over", extra={"lease": self.path.name, "silent_s": self._tuning.takeover_s})
        self._start()
        return True

    def _create(self) -> bool:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        started_at = self._clock()
        try:
            with self.path.open("xb", buffering=0) as file:
                file.write(self._next_beat())
        except FileExistsError:
            return False
        self._beat_at = started_at
        return True

    def _move_away(self, stale: _Content | None) -> bool:
        """Remove a stale lease and return whether this worker may create a new one.

        Only one worker can rename the file. If a lease was moved although it is alive, its holder creates it again at
        its next heartbeat.
        """
        aside = self.path.with_name(f"{self.path.name}.{self.holder}")
        try:
            self.path.rename(aside)
            was_stale = _parse(aside.read_bytes()) == stale
            aside.unlink(missing_ok=True)
        except FileNotFoundError:
            return True  # it does not exist any more, so any worker may create it
        return was_stale

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._beat_on, name="lease", daemon=True)
        self._thread.start()

    # --- holding --------------------------------------------------------------------------------------------------

    @property
    def is_sure(self) -> bool:
        """True as long as no other worker can have taken the lease.

        It is read before each write, so that a process that was frozen stops.
        """
        if self._lost.is_set() or self._released.is_set():
            return False
        quiet_s = self._clock() - self._beat_at
        return quiet_s < max(self._tuning.takeover_s - self._tuning.heartbeat_s, 0.0)

    def _beat_on(self) -> None:
        while not self._released.wait(self._tuning.heartbeat_s):
            try:
                self._beat()
            except OSError as error:  # the volume is missing or full; `is_sure` becomes False after some time
                logger.warning("lease not renewed", extra={"lease": self.path.name, "reason": str(error)})
            if self._lost.is_set():
                return

    def _beat(self) -> None:
        started_at = self._clock()
        try:
            with self.path.open("r+b", buffering=0) as file:
                content = _parse(file.read())
                if content is not None and content.holder != self.holder:
                    self._lost.set()
                    return
                file.seek(0)
                file.write(self._next_beat())  # on network mounts, other machines see it after the file is closed
        except FileNotFoundError:
            self._create()
        else:
            self._beat_at = started_at

    def _next_beat(self) -> bytes:
        self._n_beats += 1
        content = {"holder": self.holder, "beat": self._n_beats, "bytes_done": self.bytes_done}
        # The host and the process id are only for people who look at the file.
        text = json.dumps(content | {"host": socket.gethostname()[:64], "pid": os.getpid()})
        return text.ljust(_WIDTH).encode()

    def _read(self) -> _Content | None:
        return _parse(self.path.read_bytes())

    # --- releasing ------------------------------------------------------------------------------------------------

    def release(self) -> None:
        if self._thread is None:
            return
        self._released.set()
        self._thread.join(timeout=5)
        try:
            content = self._read()
            if content is not None and content.holder == self.holder:
                self.path.unlink()
        except OSError:  # the file or the volume is missing; after `takeover_s` another worker can take the lease
            pass
        self._thread = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


def bytes_said(path: Path) -> int | None:
    """Return the bytes that the holder of a lease has fetched, by its last heartbeat, or None if the lease is free."""
    try:
        content = _parse(path.read_bytes())
    except OSError:
        return None
    return content.bytes_done if content else 0


def _parse(content: bytes) -> _Content | None:
    """Parse a lease file. Returns None for a partly written or foreign file, which can become stale like a lease."""
    try:
        value = json.loads(content)
        return _Content(str(value["holder"]), int(value["beat"]), int(value["bytes_done"]))
    except (ValueError, KeyError, TypeError):
        return None
