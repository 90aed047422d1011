"""The store's constants of time and size. Tests pass shorter ones; none of them is a setting."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Tuning"]

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Tuning:
    n_connections: int = 8
    piece_bytes: int = 64 * MIB
    """The bytes of one request of a connection."""
    n_attempts: int = 6
    """Tries of one connection in a row that bring less than `least_bytes` each; then the download fails."""
    waits_s: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    most_wait_s: float = 120.0
    """A longer Retry-After is not waited for."""
    stall_s: float = 30.0
    """A connection that brings less than `least_bytes` in this time is opened anew."""
    least_bytes: int = 64 * KIB
    sync_s: float = 3.0
    """The most bytes of a download that a dying machine loses: the rest is on the volume."""
    heartbeat_s: float = 3.0
    takeover_s: float = 10.0
    """A lease that has not changed for so long is taken over: with `poll_s`, well within 15 s."""
    poll_s: float = 0.5
    in_use_beat_s: float = 30.0
    in_use_stale_s: float = 150.0
    """A model's mark of use that is older does not protect it any more."""
    partial_stale_s: float = 86400.0
    """A partial download that no worker has touched for so long may be pruned."""

    def write_bytes(self, size_bytes: int) -> int:
        """The bytes that are written and noted at once. A killed download loses this much for each connection."""
        return min(max(size_bytes // 256, 64 * KIB), 4 * MIB)
