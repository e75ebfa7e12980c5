"""Charts as SVG text: bars, stacked bars, distributions and lines, coloured by the page's style sheet.

A few functions instead of a plotting library: the report must be one file without scripts or fonts from elsewhere,
and must follow the reader's light or dark setting, which classes in the SVG do and pixels do not. Series number i has
the class ``s<i>``; its colour is the page's business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

__all__ = ["Row", "grouped_bars", "legend", "lines", "ridges", "stacked_bars"]

_WIDTH = 640.0
_LETTER = 7.4
_VALUES = 56.0
_BAR = 15.0
_GAP = 9.0
_PLOT_HEIGHT = 210.0
_MARGIN = 52.0
_BINS = 56
_RIDGE = 52.0
_HEADING = 22.0
_PERCENTILES = 152.0
_SMALLEST = 1e-6


@dataclass(frozen=True)
class Row:
    """One row of a bar chart.

    Attributes:
        label: What the row is about.
        values: One value for each series; None: no bar.
        hint: What a pointer over the row shows.
    """

    label: str
    values: Sequence[float | None]
    hint: str = ""


def legend(names: Sequence[str]) -> str:
    """Return the series' names beside their colours, as HTML."""
    items = "".join(f'<li><i class="s{i}"></i>{escape(name)}</li>' for i, name in enumerate(names))
    return f'<ul class="legend">{items}</ul>'


def grouped_bars(rows: Sequence[Row], names: Sequence[str], *, unit: str) -> str:
    """Return horizontal bars, one for each series in each row, with their values written at the end."""
    largest = max((v for row in rows for v in row.values if v is not None), default=0.0) or 1.0
    left = _label_width(rows)
    scale = (_WIDTH - left - _VALUES) / largest
    parts, y = [], 4.0
    for row in rows:
        height = _BAR * len(row.values)
        parts.append(_text(left - 10, y + height / 2, row.label, anchor="end", hint=row.hint))
        for i, value in enumerate(row.values):
            if value is not None:
                hint = f"{row.label}, {names[i]}: {_number(value)} {unit}"
                parts.append(_rect((left, y + 1), (value * scale, _BAR - 2), series=i, hint=hint))
                parts.append(_text(left + value * scale + 6, y + _BAR / 2, _number(value), small=True))
            y += _BAR
        y += _GAP
    parts.append(f'<line class="axis" x1="{left}" y1="0" x2="{left}" y2="{y - _GAP + 4:.1f}"/>')
    return _svg(parts, y, f"Bars, {unit}")


def stacked_bars(rows: Sequence[Row], names: Sequence[str], *, unit: str) -> str:
    """Return one horizontal bar for each row, made of its values one after the other, with the sum at the end."""
    totals = [sum(v for v in row.values if v is not None) for row in rows]
    left = _label_width(rows)
    scale = (_WIDTH - left - _VALUES) / (max(totals, default=0.0) or 1.0)
    parts, y = [], 4.0
    for row, total in zip(rows, totals, strict=True):
        height = _BAR + 5
        parts.append(_text(left - 10, y + height / 2, row.label, anchor="end", hint=row.hint))
        x = left
        for i, value in enumerate(row.values):
            if value:
                length = value * scale
                hint = f"{row.hint}, {names[i]}: {_number(value)} {unit}"
                parts.append(_rect((x, y), (length - 1.5, height), series=i, hint=hint))
                x += length
        parts.append(_text(x + 6, y + height / 2, f"{_number(total)}", small=True))
        y += height + _GAP
    parts.append(f'<line class="axis" x1="{left}" y1="0" x2="{left}" y2="{y - _GAP + 4:.1f}"/>')
    return _svg(parts, y, f"Stacked bars, {unit}")


def ridges(series: Mapping[str, Sequence[float]], *, unit: str) -> str:
    """Return how often which value occurred, one ridge for each series over one logarithmic axis.

    Equal factors are equal distances, so a ridge of the same shape further right is slower by a factor. Median, 95th and
    99th percentile are marked and written at the end of the row; what lies beyond every 99th percentile is left out.
    """
    values = {name: np.maximum(np.asarray(given, np.float64), _SMALLEST) for name, given in series.items()}
    marks = {name: [float(p) for p in np.percentile(own, (50, 95, 99))] for name, own in values.items()}
    low = min(float(own.min()) for own in values.values()) / 1.05
    high = max(mark[-1] for mark in marks.values()) * 1.05
    left, right = 16 + _LETTER * max(len(name) for name in values), _WIDTH - _PERCENTILES
    edges = np.geomspace(low, high, _BINS + 1)
    bottom = _HEADING + len(values) * _RIDGE

    def x_of(value: float) -> float:
        share = math.log(min(max(value, low), high) / low) / math.log(high / low)
        return float(left + share * (right - left))

    parts = [_text(_WIDTH - 8, _HEADING / 2, f"p50 / p95 / p99 {unit}", anchor="end", small=True)]
    for value in _log_ticks(low, high):
        x = x_of(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{_HEADING}" x2="{x:.1f}" y2="{bottom:.1f}"/>')
        parts.append(_text(x, bottom + 14, _number(value), anchor="middle", small=True))
    for i, (name, own) in enumerate(values.items()):
        base = _HEADING + (i + 1) * _RIDGE
        counts = np.histogram(own, edges)[0]
        scale = (_RIDGE - 10) / max(int(counts.max()), 1)
        points = [(left, base)]
        for start, end, count in zip(edges[:-1], edges[1:], counts, strict=True):
            points += [(x_of(start), base - count * scale), (x_of(end), base - count * scale)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*points, (right, base)])
        said = " / ".join(_number(mark) for mark in marks[name])
        parts.append(f'<polygon class="area s{i}" points="{path}">{_title(f"{name}: {said} {unit}")}</polygon>')
        for mark, kind in zip(marks[name], ("solid", "dashed", "dotted"), strict=True):
            x = x_of(mark)
            parts.append(
                f'<line class="mark {kind} s{i}" x1="{x:.1f}" y1="{base:.1f}" x2="{x:.1f}" y2="{base - _RIDGE + 8:.1f}"/>'
            )
        parts.append(f'<line class="axis" x1="{left:.1f}" y1="{base:.1f}" x2="{right:.1f}" y2="{base:.1f}"/>')
        parts.append(_text(left - 10, base - 9, name, anchor="end"))
        parts.append(_text(_WIDTH - 8, base - 9, said, anchor="end"))
    return _svg(parts, bottom + 26, f"Distribution, {unit}")


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_label: str,
    unit: str,
    dashed: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> str:
    """Return curves through points; ``dashed`` has a second curve for some of the series."""
    dashed = dashed or {}
    points = [p for curve in (*series.values(), *dashed.values()) for p in curve]
    largest_x, largest_y = (max(p[axis] for p in points) for axis in (0, 1))
    plot = _Plot((0.0, largest_x), (0.0, largest_y), x_label=x_label, y_label=unit)
    parts = plot.frame(x_ticks=sorted({p[0] for p in points}))
    for i, (name, curve) in enumerate(series.items()):
        for kind, path in (("dashed", dashed.get(name, ())), ("solid", curve)):
            if path:
                text = " ".join(plot.point(x, y) for x, y in path)
                parts.append(f'<polyline class="curve {kind} s{i}" points="{text}"/>')
        for x, y in curve:
            hint = f"{name}, {_number(x)} {x_label}: {_number(y)} {unit}"
            parts.append(
                f'<circle class="dot s{i}" cx="{plot.x(x):.1f}" cy="{plot.y(y):.1f}" r="4">{_title(hint)}</circle>'
            )
    return _svg(parts, _PLOT_HEIGHT + _MARGIN, f"{unit} by {x_label}")


class _Plot:
    """The frame of a chart with two axes."""

    def __init__(
        self, x_range: tuple[float, float], y_range: tuple[float, float], *, x_label: str, y_label: str
    ) -> None:
        self._x_range = x_range if x_range[1] > x_range[0] else (x_range[0], x_range[0] + 1)
        self._y_range = (y_range[0], y_range[1] * 1.08 or 1.0)
        self._x_label, self._y_label = x_label, y_label
        self.left, self.right = _MARGIN, _WIDTH - 14
        self.top, self.bottom = 22.0, _PLOT_HEIGHT

    def x(self, value: float) -> float:
        low, high = self._x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self._y_range
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def point(self, x: float, y: float) -> str:
        return f"{self.x(x):.1f},{self.y(y):.1f}"

    def frame(self, x_ticks: Sequence[float] | None = None) -> list[str]:
        parts = []
        for value in _ticks(*self._y_range):
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{self.left}" y1="{y:.1f}" x2="{self.right}" y2="{y:.1f}"/>')
            parts.append(_text(self.left - 8, y, _number(value), anchor="end", small=True))
        parts += [
            _text(self.x(value), self.bottom + 16, _number(value), anchor="middle", small=True)
            for value in (_ticks(*self._x_range) if x_ticks is None else x_ticks)
        ]
        parts.append(f'<line class="axis" x1="{self.left}" y1="{self.bottom}" x2="{self.right}" y2="{self.bottom}"/>')
        middle = (self.left + self.right) / 2
        parts.append(_text(middle, self.bottom + 36, self._x_label, anchor="middle", small=True))
        parts.append(_text(self.left - 8, self.top - 12, self._y_label, small=True))
        return parts


def _label_width(rows: Sequence[Row]) -> float:
    return min(_WIDTH / 2, 16 + _LETTER * max((len(row.label) for row in rows), default=0))


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers from low to high, about ``count`` of them.

    >>> _ticks(0, 1.08)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.75)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers from low to high that are well apart on a logarithmic axis.

    >>> _log_ticks(3, 260)
    [5.0, 10.0, 20.0, 50.0, 100.0, 200.0]
    >>> _log_ticks(4.9, 6.2)
    [5.0, 5.5, 6.0]
    """
    if high / low < 4:
        return _ticks(low, high, 4)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 1000 else (1,)
    ticks = (step * 10.0**power for power in decades for step in steps)
    return [round(tick, 12) for tick in ticks if low <= tick <= high]


def _number(value: float) -> str:
    """Return a figure with about three digits.

    >>> [_number(v) for v in (0, 0.00234, 0.25, 12.345, 123.4, 8)]
    ['0', '0.0023', '0.25', '12.3', '123', '8']
    """
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"


def _title(text: str) -> str:
    """Return what a pointer over the element shows."""
    return f"<title>{escape(text)}</title>"


def _rect(corner: tuple[float, float], size: tuple[float, float], *, series: int, hint: str) -> str:
    (x, y), (width, height) = corner, size
    return (
        f'<rect class="s{series}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}" rx="2">'
        f"{_title(hint)}</rect>"
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", small: bool = False, hint: str = "") -> str:
    title = _title(hint) if hint else ""
    kind = ' class="small"' if small else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" dy="0.35em" text-anchor="{anchor}"{kind}>{escape(text)}{title}</text>'


def _svg(parts: Sequence[str], height: float, label: str) -> str:
    body = "".join(parts)
    return f'<svg viewBox="0 0 {_WIDTH:.0f} {height:.0f}" role="img" aria-label="{escape(label)}">{body}</svg>'
