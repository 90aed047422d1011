"""The results of the check in a file of `bench/results`, part by part, so that a later run can go on."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import report
from bench.gpu_check.arguments import PARTS
from bench.gpu_check.card import Cards
from bench.gpu_check.environment import ROOT
from bench.gpu_check.outcome import Outcome
from worker_gguf import __version__

__all__ = ["Results"]


@dataclass(slots=True)
class Results:
    """The results of one card, one day and one state of the sources. `parts` has the last outcome of each part."""

    path: Path
    machine: dict[str, Any]
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, cards: Cards | None) -> Results:
        """Go on with the results of today, if they are from the same sources, versions and driver; else begin new."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"gpu-{cards.slug if cards else 'none'}-{datetime.now(UTC):%Y-%m-%d}.json"
        results = cls(path, _machine(cards))
        if path.is_file():
            before = json.loads(path.read_text())
            if {**before["machine"], "date": None} == {**results.machine, "date": None}:
                results.parts = before["parts"]
        return results

    def keep(self, name: str, outcome: Outcome, seconds: float) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.parts[name] = {"date": now, "seconds": round(seconds, 1), **outcome.as_dict()}
        self._write()

    def holds(self, name: str) -> bool:
        """Return whether the part has run and all its checks hold."""
        return name in self.parts and all(check["ok"] for check in self.parts[name]["checks"])

    @property
    def all_hold(self) -> bool:
        return all(self.holds(name) for name in self.parts)

    def figures(self) -> dict[str, float]:
        """Return all figures, and at the end the numbers of parts and checks."""
        found = {name: value for part in self._in_order().values() for name, value in part["figures"].items()}
        checks = [check["ok"] for part in self.parts.values() for check in part["checks"]]
        found |= {f"{name}_ok": float(self.holds(name)) for name in self._in_order()}
        found |= {f"{name}_s": part["seconds"] for name, part in self._in_order().items()}
        return found | {"checks_hold": checks.count(True), "checks_failed": checks.count(False)}

    def text(self) -> str:
        """Return the whole report: the machine, a line for each check, what failed, and last the figures."""
        lines = [f"{name}: {value}" for name, value in self.machine.items()]
        for name, part in self._in_order().items():
            lines += [f"{_word(check)} {name}, {check['name']}: {check['reason']}" for check in part["checks"]]
        failed = [name for name in self._in_order() if not self.holds(name)]
        missing = [name for name in PARTS if name not in self.parts]
        lines += ["", f"Failed: {', '.join(failed)}." if failed else "All checks hold."]
        lines += [f"Not run: {', '.join(missing)}."] if missing else []
        return "\n".join([*lines, "", *(f"{name} {_plain(value)}" for name, value in self.figures().items())])

    def _in_order(self) -> dict[str, dict[str, Any]]:
        return {name: self.parts[name] for name in PARTS if name in self.parts}

    def _write(self) -> None:
        written = {"machine": self.machine, "figures": self.figures(), "parts": self._in_order()}
        unfinished = self.path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(written, indent=1) + "\n")
        unfinished.replace(self.path)
        self.path.with_suffix(".txt").write_text(self.text() + "\n")


def _machine(cards: Cards | None) -> dict[str, Any]:
    card = cards and {"card": ", ".join(cards.names), "driver": cards.driver, "card_memory_mib": cards.total_mib}
    software = {
        "worker_gguf": __version__,
        "python": platform.python_version(),
        "numpy": report.installed("numpy"),
        "sources": _sources(),
    }
    return {**report.machine(), **(card or {"card": "none: on the processor, with tiny models"}), **software}


def _sources() -> str:
    """Return a digest of the worker's and the benchmark's code: a copy of the files need not have a history."""
    digest = hashlib.sha256()
    for path in sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _word(check: dict[str, Any]) -> str:
    return "ok    " if check["ok"] else "FAILED"


def _plain(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")
