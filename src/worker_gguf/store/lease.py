"""Decides which worker downloads a file on a shared volume, by a lease file with a heartbeat, created exclusively.

flock(2) silently succeeds on some network mounts (huggingface_hub#4228), so it is not used. A follower takes over a
lease whose content has not changed for `takeover_s` by the follower's own clock; clocks of two machines are never
compared. Two workers may both believe that they hold a lease, after a freeze or on a mount that shows old names. This
is harmless: each writes under its own name and publishes verified bytes by rename. The loser notices at its next
heartbeat.
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
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from worker_gguf.store.tuning import Tuning

__all__ = ["Lease", "bytes_said"]

logger = logging.getLogger(__name__)

_WIDTH = 256  # each heartbeat overwrites the previous one completely


@dataclass(frozen=True, slots=True)
class _Content:
    holder: str
    beat: int
    bytes_done: int


class Lease:
    """One worker's handle on one lease. `try_take` can be called repeatedly. As a context manager, it releases the
    lease.
    """

    def __init__(self, path: Path, tuning: Tuning, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.holder = uuid.uuid4().hex[:16]
        self.bytes_done = 0
        """While held, the number that the next heartbeat publishes. While not held, the holder's last number."""
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
        """Take the lease if it is free, or if its holder has not renewed it for too long. Returns whether it was
        taken.
        """
        if self._create():
            self._start()
            return True
        try:
            seen = self._read()
        except FileNotFoundError:  # released just now
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
        begun_at = self._clock()
        try:
            with self.path.open("xb", buffering=0) as file:
                file.write(self._next_beat())
        except FileExistsError:
            return False
        self._beat_at = begun_at
        return True

    def _move_away(self, stale: _Content | None) -> bool:
        """Rename a lease, which only one worker can do. The holder of a lease that is still renewed writes it again."""
        aside = self.path.with_name(f"{self.path.name}.{self.holder}")
        try:
            self.path.rename(aside)
            was_stale = _parse(aside.read_bytes()) == stale
            aside.unlink(missing_ok=True)
        except FileNotFoundError:
            return True  # it is gone, so the lease is free
        return was_stale

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._beat_on, name="lease", daemon=True)
        self._thread.start()

    # --- holding --------------------------------------------------------------------------------------------------

    @property
    def is_sure(self) -> bool:
        """Return whether no other worker can have taken the lease yet.

        Called before each write, so that a process that was frozen stops.
        """
        if self._lost.is_set() or self._released.is_set():
            return False
        quiet_s = self._clock() - self._beat_at
        return quiet_s < max(self._tuning.takeover_s - self._tuning.heartbeat_s, 0.0)

    def _beat_on(self) -> None:
        while not self._released.wait(self._tuning.heartbeat_s):
            try:
                self._beat()
            except OSError as error:  # the volume is gone or full; `is_sure` becomes false by itself
                logger.warning("lease not renewed", extra={"lease": self.path.name, "reason": str(error)})
            if self._lost.is_set():
                return

    def _beat(self) -> None:
        begun_at = self._clock()
        try:
            with self.path.open("r+b", buffering=0) as file:
                content = _parse(file.read())
                if content is not None and content.holder != self.holder:
                    self._lost.set()
                    return
                file.seek(0)
                file.write(self._next_beat())  # network mounts show it to other machines after it is closed
        except FileNotFoundError:
            self._create()
        else:
            self._beat_at = begun_at

    def _next_beat(self) -> bytes:
        self._n_beats += 1
        content = {"holder": self.holder, "beat": self._n_beats, "bytes_done": self.bytes_done}
        # For people who look at the volume. No code reads it.
        text = json.dumps(content | {"host": socket.gethostname()[:64], "pid": os.getpid()})
        return text.ljust(_WIDTH).encode()

    def _read(self) -> _Content | None:
        return _parse(self.path.read_bytes())

    # --- giving back ----------------------------------------------------------------------------------------------

    def release(self) -> None:
        if self._thread is None:
            return
        self._released.set()
        self._thread.join(timeout=5)
        try:
            content = self._read()
            if content is not None and content.holder == self.holder:
                self.path.unlink()
        except OSError:  # the file or the volume is gone; another worker takes the lease over after its time
            pass
        self._thread = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


def bytes_said(path: Path) -> int | None:
    """Return the progress that the holder of a lease published, or None if the lease is free."""
    try:
        content = _parse(path.read_bytes())
    except OSError:
        return None
    return content.bytes_done if content else 0


def _parse(content: bytes) -> _Content | None:
    """Parse a lease. Returns None for a lease that is being written or is not ours; its silence counts like any
    other's.
    """
    try:
        value = json.loads(content)
        return _Content(str(value["holder"]), int(value["beat"]), int(value["bytes_done"]))
    except (ValueError, KeyError, TypeError):
        return None
