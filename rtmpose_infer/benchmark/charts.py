"""Charts as SVG text: bars, stacked bars, histograms and lines, coloured by the page's style sheet.

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

__all__ = ["Row", "grouped_bars", "histogram", "legend", "lines", "stacked_bars"]

_WIDTH = 640.0
_LETTER = 7.4
_VALUES = 56.0
_BAR = 15.0
_GAP = 9.0
_PLOT_HEIGHT = 210.0
_MARGIN = 52.0
_BINS = 40


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
                width = value * scale
                hint = f"{row.hint}, {names[i]}: {_number(value)} {unit}"
                parts.append(_rect((x, y), (width - 1.5, height), series=i, hint=hint))
                x += width
        parts.append(_text(x + 6, y + height / 2, f"{_number(total)}", small=True))
        y += height + _GAP
    parts.append(f'<line class="axis" x1="{left}" y1="0" x2="{left}" y2="{y - _GAP + 4:.1f}"/>')
    return _svg(parts, y, f"Stacked bars, {unit}")


def histogram(series: Mapping[str, Sequence[float]], *, unit: str) -> str:
    """Return how often which value occurred: an outline for each series, its median and 95th percentile marked."""
    everything = np.concatenate([np.asarray(values, np.float64) for values in series.values()])
    low, high = float(everything.min()), float(np.percentile(everything, 99.5))
    high = max(high, low * 1.01, low + 1e-6)
    edges = np.linspace(low, high, _BINS + 1)
    shares = {
        name: np.histogram(np.clip(values, low, high), edges)[0] / max(len(values), 1)
        for name, values in series.items()
    }
    top = max(float(share.max()) for share in shares.values()) or 1.0
    plot = _Plot((low, high), (0.0, 100 * top), x_label=unit, y_label="% of frames")
    parts = plot.frame()
    for i, (name, share) in enumerate(shares.items()):
        points = [(edges[0], 0.0)]
        for left, right, value in zip(edges[:-1], edges[1:], share, strict=True):
            points += [(left, 100 * value), (right, 100 * value)]
        points.append((edges[-1], 0.0))
        path = " ".join(plot.point(x, y) for x, y in points)
        p50, p95 = np.percentile(series[name], (50, 95))
        hint = f"{name}: median {_number(p50)} {unit}, 95th percentile {_number(p95)} {unit}"
        parts.append(f'<polygon class="area s{i}" points="{path}"><title>{escape(hint)}</title></polygon>')
        for value, kind in ((p50, "solid"), (p95, "dashed")):
            x = plot.x(min(max(value, low), high))
            parts.append(
                f'<line class="mark {kind} s{i}" x1="{x:.1f}" y1="{plot.bottom:.1f}" x2="{x:.1f}" '
                f'y2="{plot.bottom - 0.94 * (plot.bottom - plot.top):.1f}"><title>{escape(hint)}</title></line>'
            )
    return _svg(parts, _PLOT_HEIGHT + _MARGIN, f"Distribution, {unit}")


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
                f'<circle class="dot s{i}" cx="{plot.x(x):.1f}" cy="{plot.y(y):.1f}" r="4">'
                f"<title>{escape(hint)}</title></circle>"
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


def _rect(corner: tuple[float, float], size: tuple[float, float], *, series: int, hint: str) -> str:
    (x, y), (width, height) = corner, size
    return (
        f'<rect class="s{series}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}" rx="2">'
        f"<title>{escape(hint)}</title></rect>"
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", small: bool = False, hint: str = "") -> str:
    title = f"<title>{escape(hint)}</title>" if hint else ""
    kind = ' class="small"' if small else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" dy="0.35em" text-anchor="{anchor}"{kind}>{escape(text)}{title}</text>'


def _svg(parts: Sequence[str], height: float, label: str) -> str:
    body = "".join(parts)
    return f'<svg viewBox="0 0 {_WIDTH:.0f} {height:.0f}" role="img" aria-label="{escape(label)}">{body}</svg>'
