"""The measurements of a run, their figures with their bounds, and the files that they are written to."""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench import report


@dataclass(frozen=True, slots=True)
class Bound:
    """A figure is good if it is at most `value`, or with `at_least` if it is at least `value`."""

    value: float
    at_least: bool = False

    def admits(self, figure: float) -> bool:
        return figure >= self.value if self.at_least else figure <= self.value

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.value:g}"


# In the order in which the figures are printed.
BOUNDS = {
    "lookup_quoted": Bound(0.8, at_least=True),
    "soak_wrong": Bound(0),
    "shared_prefix_tokens_ratio": Bound(1.1),
    "restored_over_computed": Bound(0.3),
    "long_prompt_tpot_ratio": Bound(2.5),
    "lookup_speedup_c1": Bound(1.5, at_least=True),
    "lookup_cost_c32": Bound(0.98, at_least=True),
    "lookup_equal": Bound(1, at_least=True),
    "soak_growth": Bound(1.02),
    "schema_ratio_c1": Bound(0.95, at_least=True),
    "schema_ratio_c8": Bound(0.95, at_least=True),
    "schema_ratio_c32": Bound(0.92, at_least=True),
    "schema_over_llama_server_c8": Bound(5, at_least=True),
    "tools_ratio_c8": Bound(0.98, at_least=True),
    "schema_compile_ms": Bound(50),
    "compile_stall_ms": Bound(20),
    "invalid_answers": Bound(0),
    "lost_calls": Bound(0),
    "fixtures_right": Bound(1, at_least=True),
    "responses_ratio": Bound(0.98, at_least=True),
    "messages_ratio": Bound(0.98, at_least=True),
    "embed_ratio": Bound(0.85, at_least=True),
    "embed_over_llama_server": Bound(1.1, at_least=True),
    "lora_over_llama_server": Bound(1, at_least=True),
    "image_tpot_ratio": Bound(2.0),
}


@dataclass(slots=True)
class Findings:
    """Everything that was measured, under its name, in order. A figure is the median of its measurements."""

    settings: Mapping[str, object] = field(default_factory=dict)
    measured: dict[str, list[float]] = field(default_factory=dict)
    busy_shares: list[float] = field(default_factory=list)  # of the processor, by others, before each part
    notes: list[str] = field(default_factory=list)
    picture: str | None = None  # SVG

    def add(self, name: str, value: float) -> None:
        self.measured.setdefault(name, []).append(value)
        print(f"  {name:44} {value:10.3f}", file=sys.stderr, flush=True)

    def figures(self) -> dict[str, float]:
        """Return the figures, those with a bound last."""
        middle = {name: median(values) for name, values in self.measured.items()}
        return {name: value for name, value in middle.items() if name not in BOUNDS} | {
            name: middle[name] for name in BOUNDS if name in middle
        }

    def missed(self) -> list[str]:
        """Return the names of the figures that miss their bounds."""
        return [name for name, value in self.figures().items() if name in BOUNDS and not BOUNDS[name].admits(value)]

    def text(self) -> str:
        figures, missed = self.figures(), self.missed()
        lines = [f"{name}: {value}" for name, value in {**report.machine(), **self.settings}.items()]
        lines += [f"in use by others: {share:.0%} of the processor" for share in self.busy_shares]
        lines += self.notes
        lines += ["", f"{'bounded figure':28} {'value':>8}  {'lowest':>8} {'highest':>8}  bound"]
        lines += [
            f"{name:28} {figures[name]:8.3f}  {min(values):8.3f} {max(values):8.3f}  {BOUNDS[name]}"
            + (" MISSED" if name in missed else "")
            for name, values in ((name, self.measured[name]) for name in figures if name in BOUNDS)
        ]
        return "\n".join([*lines, "", *(f"{name} {value:.3f}" for name, value in figures.items())])

    def save(self, folder: Path, name: str) -> str:
        """Write `name`.json, .txt and, if there is a picture, .svg. Return the text."""
        folder.mkdir(parents=True, exist_ok=True)
        figures = {key: None if math.isnan(value) else value for key, value in self.figures().items()}
        written = {
            "machine": report.machine(),
            "settings": self.settings,
            "busy_shares": self.busy_shares,
            "figures": figures,
            "bounds": {key: str(BOUNDS[key]) for key in figures if key in BOUNDS},
            "measured": self.measured,
            "notes": self.notes,
        }
        (folder / f"{name}.json").write_text(json.dumps(written, indent=1) + "\n")
        (folder / f"{name}.txt").write_text(self.text() + "\n")
        if self.picture:
            (folder / f"{name}.svg").write_text(self.picture)
        return self.text()
