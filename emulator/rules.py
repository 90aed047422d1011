"""The platform's limits and habits, as the stand-in keeps them: RunPod's documented values, smaller ones in tests."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Policy", "Rules"]


@dataclass(frozen=True, slots=True)
class Rules:
    """Times in seconds and sizes in bytes. If RunPod documents no value (the lease, the tries), the default is a guess.

    Sources: endpoint-configurations, send-requests and operation-reference of RunPod's documentation.
    """

    hold_s: float = 2.0
    """How long a poll is held open with nothing to say; the platform holds it longer."""
    post_delay_s: float = 0.0
    """Seconds of each post of a worker: the round trip to a remote platform."""
    lease_s: float = 10.0
    """A job whose worker has not named it in a ping for so long goes back to the queue. A guess."""
    max_tries: int = 3
    """Workers that a job may take down with it before it fails. A guess."""
    execution_timeout_s: float = 600.0
    ttl_s: float = 86_400.0
    min_execution_timeout_s: float = 5.0
    min_ttl_s: float = 10.0
    max_policy_s: float = 7 * 86_400.0
    retention_s: float = 1800.0
    """How long the result of a /run can be read, and of a /runsync the next one."""
    sync_retention_s: float = 60.0
    min_wait_s: float = 1.0
    """The bounds of /runsync?wait=."""
    max_run_bytes: int = 10 << 20
    max_sync_bytes: int = 20 << 20
    max_chunk_bytes: int = 1_000_000
    """One chunk of /stream: a longer text is split."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A job's own limits, from `policy` of its request."""

    execution_timeout_s: float
    ttl_s: float
    retention_s: float

    @classmethod
    def of(cls, given: object, rules: Rules, *, retention_s: float) -> Policy:
        """Raises ValueError, with a sentence for the client."""
        if given is None:
            given = {}
        if not isinstance(given, dict):
            raise ValueError("policy must be a JSON object")
        timeout_s = _seconds(given, "executionTimeout", rules.execution_timeout_s, rules.min_execution_timeout_s, rules)
        return cls(timeout_s, _seconds(given, "ttl", rules.ttl_s, rules.min_ttl_s, rules), retention_s)


def _seconds(given: dict[str, object], name: str, default_s: float, least_s: float, rules: Rules) -> float:
    value = given.get(name)
    if value is None:
        return default_s
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"policy.{name} must be a number of milliseconds")
    if not least_s * 1000 <= value <= rules.max_policy_s * 1000:
        raise ValueError(f"policy.{name} must be {least_s * 1000:.0f} to {rules.max_policy_s * 1000:.0f} milliseconds")
    return value / 1000
