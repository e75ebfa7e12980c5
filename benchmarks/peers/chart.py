"""The comparison as one SVG: people per second by number of people, a line a system, a panel a network."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import median

COLOURS = ["#12355b", "#0b6e4f", "#2a9d8f", "#1d70a2", "#7fc8a9", "#b5651d", "#e09f3e", "#7d4e8a"]


def write_chart(all_cells: list[dict], path: Path) -> None:
    """Write the chart of the cells of a report of ``run.py``."""
    sizes = list(dict.fromkeys(cell["size"] for cell in all_cells))
    names = list(dict.fromkeys(n for cell in all_cells for n in cell["seconds_per_frame"]))
    width, height, left = 300, 240, 46
    total = len(sizes) * (width + left) + left
    across = max(1, (total - left) // 230)  # of the legend
    top = 46 + 22 * math.ceil(len(names) / across)
    parts = []
    for panel, size in enumerate(sizes):
        cells = [c for c in all_cells if c["size"] == size]
        rates = {
            n: [
                (c["people"], c["people"] / median(c["seconds_per_frame"][n]))
                for c in cells
                if n in c["seconds_per_frame"]
            ]
            for n in names
        }
        fastest = max(rate for points in rates.values() for _, rate in points)
        step = tick_step(fastest)
        highest = step * math.ceil(fastest / step)
        x0 = left + panel * (width + left)
        steps = [c["people"] for c in cells]
        parts.append(f'<text x="{x0}" y="{top - 12}" class="title">RTMPose-{size}: people per second</text>')
        for i in range(round(highest / step) + 1):
            y = top + height - height * i * step / highest
            parts.append(f'<line x1="{x0}" y1="{y:.0f}" x2="{x0 + width}" y2="{y:.0f}" class="grid"/>')
            parts.append(f'<text x="{x0 - 6}" y="{y + 4:.0f}" class="tick" text-anchor="end">{i * step:g}</text>')
        for i, people in enumerate(steps):
            x = x0 + width * (i + 0.5) / len(steps)
            parts.append(f'<text x="{x:.0f}" y="{top + height + 18}" class="tick" text-anchor="middle">{people}</text>')
        for colour, name in zip(COLOURS, names, strict=False):
            points = [
                (x0 + width * (steps.index(p) + 0.5) / len(steps), top + height - height * rate / highest)
                for p, rate in rates[name]
            ]
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in points]
    for i, (colour, name) in enumerate(zip(COLOURS, names, strict=False)):
        x, y = left + i % across * 230, 12 + i // across * 22
        parts.append(f'<rect x="{x}" y="{y}" width="14" height="14" fill="{colour}"/>')
        parts.append(f'<text x="{x + 20}" y="{y + 12}" class="tick">{name}</text>')
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{top + height + 50}" '
        'font-family="sans-serif">'
        "<style>.title{font-size:14px;font-weight:bold}.tick{font-size:12px;fill:#444}.grid{stroke:#ddd}</style>"
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}'
        f'<text x="{left}" y="{top + height + 38}" class="tick">people in the frame</text></svg>',
        encoding="utf-8",
    )


def tick_step(highest: float) -> float:
    """Return a round number of which four to ten reach to the highest value."""
    power = 10.0 ** math.floor(math.log10(highest / 4))
    return max(factor * power for factor in (1, 2, 2.5, 5) if 4 * factor * power <= highest)
