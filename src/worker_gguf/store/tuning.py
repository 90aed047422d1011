"""Constants of time and size for downloads. They are not settings, but tests use shorter ones."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Tuning"]

KIB = 1024
MIB = 1024 * KIB


class Tuning(Struct, frozen=True):
    n_connections: int = 8
    piece_bytes: int = 64 * MIB
    """The size of one request."""
    n_attempts: int = 6
    """The download fails after so many attempts of a connection in a row that fetch less than `least_bytes` each."""
    waits_s: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    most_wait_s: float = 120.0
    """A longer Retry-After is an error."""
    stall_s: float = 30.0
    """A connection that fetches less than `least_bytes` in this time is opened again."""
    least_bytes: int = 64 * KIB
    sync_s: float = 3.0
    """The interval between flushes to disk. A machine that fails loses the bytes of this time."""
    heartbeat_s: float = 3.0
    takeover_s: float = 10.0
    """A lease that has not changed for this time is taken over."""
    poll_s: float = 0.5
    in_use_beat_s: float = 30.0
    in_use_stale_s: float = 150.0
    """A usage mark that was not renewed for this time no longer protects its files."""
    partial_stale_s: float = 86400.0
    """A partial download that did not change for this time can be deleted."""

    def write_bytes(self, size_bytes: int) -> int:
        """Return the bytes that a connection writes at a time. A killed download loses at most as many for each one."""
        return min(max(size_bytes // 256, 64 * KIB), 4 * MIB)
