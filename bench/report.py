"""Turns a run's measurements into figures, a table, a picture and files. Measures nothing itself."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TypeAlias

# Of one measurement: tokens_per_s, ttft_p50_ms, peak_memory_mb and such.
Figures: TypeAlias = Mapping[str, float]

LIMITS = {True: "limit, one KV memory", False: "limit, KV memory split"}
COLUMNS = (
    ("tokens_per_s", "tok/s"),
    ("decode_tokens_per_s", "(decode)"),
    ("ttft_p50_ms", "ttft p50"),
    ("ttft_p99_ms", "p99 ms"),
    ("tpot_p50_ms", "per token p50"),
    ("tpot_p99_ms", "p99 ms"),
    ("gap_p99_ms", "gap p99 ms"),
    ("peak_memory_mb", "peak MB"),
)
COLORS = ("#9aa5b1", "#2f6fb3", "#d98e2b")


@dataclass(slots=True)
class Record:
    """Every measurement of a run: by concurrency and by what was measured, one a round. Written by the run alone."""

    settings: Mapping[str, object]
    measured: dict[int, dict[str, list[Figures]]] = field(default_factory=dict)
    ping_p99_ms: list[float] = field(default_factory=list)
    busy_shares: list[float] = field(default_factory=list)  # of the processor, by others, before each round
    health: object = None

    def add(self, concurrency: int, name: str, figures: Figures) -> None:
        self.measured.setdefault(concurrency, {}).setdefault(name, []).append(figures)

    def middle(self, concurrency: int, name: str, key: str) -> float | None:
        """Return the median over the rounds."""
        values = [figures[key] for figures in self.measured[concurrency].get(name, ()) if key in figures]
        return median(values) if values else None

    def limit(self, concurrency: int) -> str:
        """Return the faster of both layouts of the KV memory."""
        names = [name for name in LIMITS.values() if name in self.measured[concurrency]]
        return max(names, key=lambda name: self.middle(concurrency, name, "tokens_per_s") or 0.0)

    def ratio(self, concurrency: int, name: str) -> float | None:
        """Return the median of each round's own ratio, because a machine that slows down in a round slows both sides
        down.
        """
        rounds = self.measured[concurrency]
        pairs = zip(rounds.get(name, ()), rounds[self.limit(concurrency)], strict=False)
        ratios = [figures["tokens_per_s"] / limit["tokens_per_s"] for figures, limit in pairs]
        return median(ratios) if ratios else None

    def servers(self) -> list[str]:
        names = (name for rounds in self.measured.values() for name in rounds)
        return [name for name in dict.fromkeys(names) if name not in LIMITS.values()]


def machine() -> dict[str, object]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "cpu": models[0] if models else "unknown",
        "cores": os.cpu_count(),
        "llama_cpp_python": installed("llama_cpp_python"),
        "worker_gguf": installed("worker-gguf"),
    }


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def figures(record: Record) -> dict[str, float]:
    """Return the figures in the order in which they are printed: the ones that are judged come last."""
    found: dict[str, float | None] = {}
    for concurrency in record.measured:
        found[f"limit_tokens_per_s_c{concurrency}"] = record.middle(
            concurrency, record.limit(concurrency), "tokens_per_s"
        )
        for name in record.servers():
            for key, _ in COLUMNS:
                found[f"{name}_{key}_c{concurrency}"] = record.middle(concurrency, name, key)
    for name in record.servers():
        if name != "worker":
            ratios = {f"{name}_limit_ratio_c{c}": record.ratio(c, name) for c in record.measured}
            found |= ratios | {f"{name}_memory_over_limit_mb": memory_over_limit_mb(record, name)}
    found |= {f"limit_ratio_c{c}": record.ratio(c, "worker") for c in record.measured}
    found["ping_p99_ms"] = median(record.ping_p99_ms) if record.ping_p99_ms else None
    found["memory_over_limit_mb"] = memory_over_limit_mb(record, "worker")
    return {name: value for name, value in found.items() if value is not None}


def memory_over_limit_mb(record: Record, name: str) -> float | None:
    most = max(record.measured)
    peak = record.middle(most, name, "peak_memory_mb")
    bare = record.middle(most, record.limit(most), "peak_memory_mb")
    return None if peak is None or bare is None else peak - bare


def table(record: Record) -> str:
    rows = [["c", "what", "ratio", *(title for _, title in COLUMNS)]]
    for concurrency, rounds in record.measured.items():
        for name in rounds:
            values = [record.middle(concurrency, name, key) for key, _ in COLUMNS]
            ratio = record.ratio(concurrency, name)
            cells = ["-" if value is None else f"{value:.1f}" for value in values]
            rows.append([str(concurrency), name, "-" if ratio is None else f"{ratio:.2f}", *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if n == 1 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def text(record: Record) -> str:
    lines = [f"{name}: {value}" for name, value in {**machine(), **record.settings}.items()]
    lines += [f"in use by others: {share:.0%} of the processor" for share in record.busy_shares]
    lines += ["", table(record), ""]
    lines += [
        f"{name} {value:.3f}" if "ratio" in name else f"{name} {value:.1f}" for name, value in figures(record).items()
    ]
    return "\n".join(lines)


def save(record: Record, folder: Path, name: str) -> str:
    """Write `name`.json, .txt and .svg and return the text."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {
        "machine": machine(),
        "settings": record.settings,
        "figures": figures(record),
        "measured": record.measured,
        "ping_p99_ms": record.ping_p99_ms,
        "busy_shares": record.busy_shares,
        "health": record.health,
    }
    printed = text(record)
    (folder / f"{name}.json").write_text(json.dumps(written, indent=1) + "\n")
    (folder / f"{name}.txt").write_text(printed + "\n")
    (folder / f"{name}.svg").write_text(picture(record))
    return printed


def save_figures(
    folder: Path,
    name: str,
    figures: Mapping[str, float],
    measured: Mapping[str, Sequence[float]],
    busy_shares: Sequence[float],
    *,
    n_digits: int,
) -> str:
    """Write figures and all their measurements as JSON, and the figures as text. Returns the text."""
    lines = [f"{key}: {value}" for key, value in machine().items()]
    lines += [f"in use by others: {share:.0%} of the processor" for share in busy_shares]
    lines += ["", *(f"{key} {value:.{n_digits}f}" for key, value in figures.items())]
    folder.mkdir(parents=True, exist_ok=True)
    written = {"machine": machine(), "figures": figures, "measured": measured}
    (folder / f"{name}.json").write_text(json.dumps(written, indent=1) + "\n")
    (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return "\n".join(lines)


def picture(record: Record) -> str:
    """Draw new tokens per second as bars: a group for each concurrency, the limit first."""
    names = ["limit", *record.servers()]
    groups = {
        concurrency: [
            record.middle(concurrency, record.limit(concurrency) if name == "limit" else name, "tokens_per_s") or 0.0
            for name in names
        ]
        for concurrency in record.measured
    }
    return bars("New tokens per second", names, {f"{c} at once": values for c, values in groups.items()})


def bars(title: str, names: Sequence[str], groups: Mapping[str, Sequence[float]]) -> str:
    bar, height, top = 46, 220, 60
    group_width = bar * len(names) + 40
    width = max(360, 40 + group_width * len(groups))
    highest = max((value for values in groups.values() for value in values), default=0.0) or 1.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height + top + 40}">',
        "<style>text { font: 12px sans-serif }</style>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="20" y="22">{escape(title)}</text>',
    ]
    for n, name in enumerate(names):
        x, color = 20 + n * 100, COLORS[n % len(COLORS)]
        parts.append(f'<rect x="{x}" y="34" width="10" height="10" fill="{color}"/>')
        parts.append(f'<text x="{x + 15}" y="43">{escape(name)}</text>')
    for g, (label, values) in enumerate(groups.items()):
        left = 40 + g * group_width
        for n, value in enumerate(values):
            tall = value / highest * (height - 20)
            x, y = left + n * bar, top + height - tall
            parts.append(
                f'<rect x="{x}" y="{y:.1f}" width="{bar - 6}" height="{tall:.1f}" fill="{COLORS[n % len(COLORS)]}"/>'
            )
            parts.append(f'<text x="{x + (bar - 6) / 2}" y="{y - 4:.1f}" text-anchor="middle">{value:.0f}</text>')
        middle = left + bar * len(names) / 2
        parts.append(f'<text x="{middle}" y="{top + height + 20}" text-anchor="middle">{escape(label)}</text>')
    return "\n".join([*parts, "</svg>\n"])
