"""Draws the times between tokens around the arrival of a long prompt."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bench.report import COLORS

_TITLE = "Times between tokens of running answers, in ms. Shaded: the time to the first token of a long prompt"
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _LEGEND = 720, 200, 60, 30, 34, 24


@dataclass(frozen=True, slots=True)
class Panel:
    """A server's `points`: seconds after the long prompt was sent, and milliseconds since the token before."""

    name: str
    points: tuple[tuple[float, float], ...]
    first_token_s: float


def gap_picture(panels: Sequence[Panel]) -> str:
    """Return an SVG with one panel for each server, all with the same axes, the vertical one logarithmic."""
    points = [point for panel in panels for point in panel.points]
    axes = _Axes(
        first_s=min(end for end, _ in points),
        last_s=max(end for end, _ in points),
        lowest=math.floor(math.log10(max(0.1, min(gap for _, gap in points)))),
        highest=math.ceil(math.log10(max(10.0, *(gap for _, gap in points)))),
    )
    height = _LEGEND + len(panels) * (_TOP + _HEIGHT + _BOTTOM)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 20}" height="{height}">',
        "<style>text { font: 12px sans-serif }</style>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="18">{_TITLE}</text>',
    ]
    for n, panel in enumerate(panels):
        parts += _draw(panel, axes, _LEGEND + n * (_TOP + _HEIGHT + _BOTTOM) + _TOP, COLORS[1 + n % 2])
    return "\n".join([*parts, "</svg>\n"])


@dataclass(frozen=True, slots=True)
class _Axes:
    first_s: float
    last_s: float
    lowest: int  # power of ten of the milliseconds
    highest: int

    def seconds(self) -> range:
        """Return the marked seconds, 0 among them and at most about 15."""
        step = next(step for step in (1, 2, 5, 10, 20, 50, 10**6) if (self.last_s - self.first_s) / step <= 15)
        return range(math.ceil(self.first_s / step) * step, math.floor(self.last_s) + 1, step)

    def x(self, seconds: float) -> float:
        return _LEFT + (seconds - self.first_s) / (self.last_s - self.first_s) * _WIDTH

    def y(self, milliseconds: float) -> float:
        height = (math.log10(max(milliseconds, 10.0**self.lowest)) - self.lowest) / (self.highest - self.lowest)
        return (1 - height) * _HEIGHT


def _draw(panel: Panel, axes: _Axes, top: float, color: str) -> list[str]:
    begin, end = axes.x(0), axes.x(panel.first_token_s)
    parts = [
        f'<text x="{_LEFT}" y="{top - 8}">{escape(panel.name)}</text>',
        f'<rect x="{begin:.1f}" y="{top}" width="{end - begin:.1f}" height="{_HEIGHT}" fill="#eef1f4"/>',
        f'<rect x="{_LEFT}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#9aa5b1"/>',
    ]
    for power in range(axes.lowest, axes.highest + 1):
        y = top + axes.y(10.0**power)
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
        parts.append(f'<line x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dde2e7"/>')
    for second in axes.seconds():
        x = axes.x(second)
        parts.append(f'<text x="{x:.1f}" y="{top + _HEIGHT + 16}" text-anchor="middle">{second} s</text>')
    parts += [
        f'<circle cx="{axes.x(end_s):.1f}" cy="{top + axes.y(gap):.1f}" r="1.5" fill="{color}"/>'
        for end_s, gap in panel.points
    ]
    return parts
