"""What one part of the check found: checks that hold or do not, and figures. Kept in a file while the part runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Check", "Outcome"]


@dataclass(frozen=True, slots=True)
class Check:
    """`reason` is the finding, as a sentence or a part of one."""

    name: str
    ok: bool
    reason: str


@dataclass(slots=True)
class Outcome:
    """The checks and figures of one part. Each change is written to `path`, so that a part that is killed keeps its
    findings.
    """

    path: Path
    checks: list[Check] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    """What is kept in the results and not printed."""

    def check(self, name: str, ok: bool, reason: str) -> None:
        self.checks.append(Check(name, ok, reason))
        self._write()

    def add(self, figures: Mapping[str, float]) -> None:
        self.figures |= figures
        self._write()

    def _write(self) -> None:
        unfinished = self.path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(self.as_dict()))
        unfinished.replace(self.path)

    def as_dict(self) -> dict[str, Any]:
        checks = [asdict(check) for check in self.checks]
        return {"checks": checks, "figures": self.figures, "details": self.details}

    @classmethod
    def read(cls, path: Path) -> Outcome:
        """Read what a part has found. It is empty if the part has written nothing."""
        if not path.is_file():
            return cls(path)
        values = json.loads(path.read_text())
        return cls(path, [Check(**check) for check in values["checks"]], values["figures"], values["details"])
