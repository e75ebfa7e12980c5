"""The report as one HTML page: nothing is fetched, no script runs, and light or dark is the reader's choice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from rtmpose_infer.benchmark.charts import Row, grouped_bars, legend, lines, ridges, stacked_bars
from rtmpose_infer.benchmark.report import STAGES

if TYPE_CHECKING:
    from rtmpose_infer.benchmark.report import ContestantReport, Network, Ratio, Report, Scenario

__all__ = ["render_html"]

_NETWORK_STAGES = ("detect", "pose")
_PARTS = {
    "detector network": ("detect",),
    "pose network": ("pose",),
    "pictures to tensors": ("letterbox", "crop", "prepare"),
    "tensors to people": ("decode_boxes", "decode_pose"),
    "identities, smoothing": ("track", "smooth"),
    "video, drawing": ("decode", "draw"),
}
"""What the eleven stages come down to; together they are the whole frame."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render_html(report: Report) -> str:
    """Return the report as a whole HTML document."""
    body = "".join(_body(report))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>rtmpose-bench, {escape(report.created[:10])}</title><style>{_style()}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


@cache
def _style() -> str:
    return (resources.files("rtmpose_infer.benchmark") / "page.css").read_text(encoding="utf-8")


def _body(report: Report) -> Iterator[str]:
    config = report.config
    measured = [c for c in report.contestants if c.scenarios]
    yield "<h1>rtmpose-bench</h1>"
    what = f"{_models(measured)} on {escape(report.machine.cpu)}" if measured else escape(report.machine.cpu)
    revision = f" ({escape(report.git_revision)})" if report.git_revision else ""
    yield (
        f'<p class="soft">{what} · rtmpose-infer {escape(report.package_version)}{revision} · '
        f"{escape(report.created[:16].replace('T', ' '))} UTC</p>"
    )
    for contestant in report.contestants:
        if contestant.failure:
            yield f'<div class="note bad"><b>{escape(contestant.backend)}</b>: {escape(contestant.failure)}</div>'
    for warning in report.warnings:
        yield f'<div class="note">{escape(warning)}</div>'
    if not measured:
        return
    yield from _tiles(report, measured)
    yield "<h2>Speed</h2>" + _speed_table(report, measured)
    against = f" Speed-up: over {escape(report.comparisons[0].against)}." if report.comparisons else ""
    interval = config["det_interval"]
    often = {"auto": "when it is needed", 1: "on every frame"}.get(interval, f"every {escape(str(interval))} frames")
    yield (
        f'<p class="soft">Tracking alone: from a frame in memory to people with identities; the detector runs {often}. '
        "With media: decoding and drawing included. Networks: the network calls of a frame made again, alone. Overhead: "
        f"time of the tracking over these (median and quartiles). CPU: processor time of all threads.{against}</p>"
    )
    yield from _charts(measured)
    yield from _stages(measured)
    yield from _starts(measured)
    yield from _agreement(measured)
    yield from _conditions(report, measured)


def _models(measured: Sequence[ContestantReport]) -> str:
    pairs = {(c.detector.model, c.pose.model) for c in measured if c.detector and c.pose}
    return " / ".join(f"{escape(detector)} + {escape(pose)}" for detector, pose in sorted(pairs))


def _tiles(report: Report, measured: Sequence[ContestantReport]) -> Iterator[str]:
    """Yield the answer at a glance: each backend on the largest scene."""
    persons = _scenarios(measured)[-1]
    chosen = [(c, next((s for s in c.scenarios if s.persons == persons), None)) for c in measured]
    speedups = {c.backend: c.speedup for c in report.comparisons if c.persons == persons}
    fastest = _fastest(report, measured, persons)
    yield '<div class="tiles">'
    for number, (contestant, scenario) in enumerate(chosen):
        if scenario is None:
            continue
        badge = ' <span class="badge">fastest</span>' if contestant.backend == fastest else ""
        device = contestant.pose.device if contestant.pose else ""
        facts = [
            ("p50, p99", f"{scenario.latency.p50_ms:.1f} ms, {scenario.latency.p99_ms:.1f} ms"),
            ("over the networks", f"{scenario.overhead.median:.2f}×"),
        ]
        if contestant.cold is not None:
            warm = "" if contestant.warm is None else f", warm {contestant.warm.total_s:.2f} s"
            facts.append(("first result", f"{contestant.cold.total_s:.2f} s{warm}"))
        if contestant.peak_memory_bytes:
            facts.append(("memory", f"{contestant.peak_memory_bytes / 2**20:.0f} MiB"))
        if (apart := contestant.difference) is not None and apart.keypoints:
            facts.append(("joints off by", f"{apart.median_px:.2f} px, p99 {apart.p99_px:.2f} px"))
        if contestant.backend in speedups:
            facts.append((f"speed-up over {report.comparisons[0].against}", _ratio(speedups[contestant.backend])))
        yield (
            f'<div class="tile s{number}"><div>{escape(contestant.backend)}{badge}</div>'
            f'<div class="big">{scenario.fps:.1f} <small>FPS</small></div>'
            f'<div class="soft">{escape(_scenario_name(scenario))}, on {escape(device)}</div><dl>'
            + "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in facts)
            + "</dl></div>"
        )
    yield "</div>"


def _fastest(report: Report, measured: Sequence[ContestantReport], persons: int | None) -> str | None:
    """Return who was fastest round by round, which noise decides less than the frames per second; None of one alone."""
    factors = {c.backend: c.speedup.median for c in report.comparisons if c.persons == persons}
    if not factors:
        return None
    factors[report.comparisons[0].against] = 1.0
    here = [c.backend for c in measured if c.backend in factors]
    return max(here, key=factors.__getitem__, default=None)


def _scenario_name(scenario: Scenario) -> str:
    if scenario.persons is None:
        return f"video, {scenario.people:.1f} people"
    return "1 person" if scenario.persons == 1 else f"{scenario.persons} people"


def _speed_table(report: Report, measured: Sequence[ContestantReport]) -> str:
    speedups = {(c.backend, c.persons): c.speedup for c in report.comparisons}
    head = ["Scene", "Backend", "FPS", "with media", "p50 ms", "p95", "p99", "networks ms", "overhead", "CPU ms"]
    if report.comparisons:
        head.append("speed-up")
    rows = []
    for persons in _scenarios(measured):
        fastest = _fastest(report, measured, persons)
        for contestant, scenario in ((c, s) for c in measured for s in c.scenarios if s.persons == persons):
            fps = f"{scenario.fps:.1f}"
            cells = [
                escape(_scenario_name(scenario)),
                escape(contestant.backend),
                f"<b>{fps}</b>" if contestant.backend == fastest else fps,
                f"{scenario.fps_with_media:.1f}",
                f"{scenario.latency.p50_ms:.2f}",
                f"{scenario.latency.p95_ms:.2f}",
                f"{scenario.latency.p99_ms:.2f}",
                f"{scenario.floor_ms:.2f}",
                _ratio(scenario.overhead),
                f"{scenario.cpu_ms:.1f}",
            ]
            if report.comparisons:
                speedup = speedups.get((contestant.backend, scenario.persons))
                cells.append("" if speedup is None else _ratio(speedup))
            rows.append(cells)
    return _table(head, rows, texts=2)


def _charts(measured: Sequence[ContestantReport]) -> Iterator[str]:
    names = [contestant.backend for contestant in measured]
    curves = {
        c.backend: [(float(s.persons), s.latency.mean_ms) for s in c.scenarios if s.persons is not None]
        for c in measured
    }
    curves = {name: curve for name, curve in curves.items() if len(curve) > 1}
    if curves:
        floors = {
            c.backend: [(float(s.persons), s.floor_ms) for s in c.scenarios if s.persons is not None] for c in measured
        }
        each = {name: [(x, y / x) for x, y in curve] for name, curve in curves.items()}
        yield "<h2>Scaling with the number of people</h2>" + legend(names)
        yield '<div class="grid"><div class="card"><h3>Time of a frame; dashed: its network calls alone</h3>'
        yield lines(curves, x_label="people", unit="ms", dashed={name: floors[name] for name in curves})
        yield '</div><div class="card"><h3>The same for each person</h3>'
        yield lines(each, x_label="people", unit="ms per person")
        yield "</div></div>"
    yield "<h2>Distribution of the time of a frame</h2>"
    yield (
        '<p class="soft">Milliseconds, on a logarithmic axis. Lines: median (solid), 95th (dashed) and 99th percentile '
        "(dotted). Frames with a detector run stand apart.</p>"
    )
    yield '<div class="grid">'
    for persons in _scenarios(measured):
        chosen = {c.backend: s for c in measured for s in c.scenarios if s.persons == persons}
        yield f'<div class="card"><h3>{escape(_scenario_name(next(iter(chosen.values()))))}</h3>'
        yield ridges({name: chosen[name].latencies_ms for name in names if name in chosen}, unit="ms")
        yield "</div>"
    yield "</div>"


def _stages(measured: Sequence[ContestantReport]) -> Iterator[str]:
    names = [contestant.backend for contestant in measured]
    yield "<h2>Where the time of a frame goes</h2>"
    yield '<p class="soft">Milliseconds per frame, averaged over all frames.</p>'
    scenarios = _scenarios(measured)
    for number, persons in enumerate(scenarios):
        chosen = {c.backend: s for c in measured for s in c.scenarios if s.persons == persons}
        title = escape(_scenario_name(next(iter(chosen.values()))))
        yield f"<details{' open' if number == len(scenarios) - 1 else ''}><summary>{title}</summary>"
        whole = [
            Row(name, [sum(_mean(scenario, stage) or 0.0 for stage in stages) for stages in _PARTS.values()], name)
            for name, scenario in chosen.items()
        ]
        calls, around = (
            grouped_bars(
                [
                    Row(stage, [_mean(chosen.get(name), stage) for name in names], STAGES[stage])
                    for stage in STAGES
                    if (stage in _NETWORK_STAGES) == wanted and any(stage in s.stages for s in chosen.values())
                ],
                names,
                unit="ms",
            )
            for wanted in (True, False)
        )
        yield f'<div class="grid"><div><div class="card"><h3>The whole frame</h3>{legend(list(_PARTS))}'
        yield f'{stacked_bars(whole, list(_PARTS), unit="ms")}</div><div class="card"><h3>Network calls</h3>'
        yield f'{legend(names)}{calls}</div></div><div class="card"><h3>Everything around them</h3>{legend(names)}{around}'
        yield "</div></div>"
        yield _stage_table(chosen)
        yield "</details>"


def _mean(scenario: Scenario | None, stage: str) -> float | None:
    return scenario.stages[stage].mean_ms if scenario is not None and stage in scenario.stages else None


def _stage_table(chosen: dict[str, Scenario]) -> str:
    rows = [
        [
            escape(f"{stage}: {STAGES[stage]}"),
            escape(name),
            f"{timing.mean_ms:.3f}",
            f"{timing.p50_ms:.3f}",
            f"{timing.p95_ms:.3f}",
            f"{timing.p99_ms:.3f}",
            f"{timing.share_of_frames:.0%}",
        ]
        for stage in STAGES
        for name, scenario in chosen.items()
        if (timing := scenario.stages.get(stage)) is not None
    ]
    head = ["Stage", "Backend", "mean ms", "p50", "p95", "p99", "of frames"]
    return f"<p></p>{_table(head, rows, texts=2)}"


def _starts(measured: Sequence[ContestantReport]) -> Iterator[str]:
    parts = ["Python and packages", "load the networks", "first frame"]
    rows = [
        Row(f"{c.backend}, {kind}", [start.import_s, start.load_s, start.first_frame_s], f"{c.backend}, {kind}")
        for c in measured
        for kind, start in (("cold", c.cold), ("warm", c.warm))
        if start is not None
    ]
    yield "<h2>From the start of a process to its first result</h2>" + legend(parts)
    yield '<p class="soft">Seconds. Cold: with an empty cache folder; warm: after another start.</p>'
    yield f'<div class="grid"><div class="card">{stacked_bars(rows, parts, unit="s")}</div>'
    memory = [[escape(c.backend), f"{c.peak_memory_bytes / 2**20:.0f} MiB"] for c in measured if c.peak_memory_bytes]
    yield f"<div>{_table(['Backend', 'most memory held'], memory)}</div></div>"


def _agreement(measured: Sequence[ContestantReport]) -> Iterator[str]:
    rows = [
        [
            escape(c.backend),
            str(d.keypoints),
            f"{d.median_px:.3f}",
            f"{d.p99_px:.3f}",
            f"{d.max_px:.3f}",
            f"{d.max_score:.4f}",
            f"{d.boxes - d.boxes_missing} of {d.boxes}",
            f"{d.max_box_px:.3f}",
        ]
        for c in measured
        if (d := c.difference) is not None
    ]
    if rows:
        yield "<h2>Agreement with ONNX Runtime on the CPU</h2>"
        head = [
            "Backend",
            "joints compared",
            "median px",
            "p99 px",
            "largest px",
            "largest score",
            "boxes found",
            "largest box px",
        ]
        yield _table(head, rows)


def _conditions(report: Report, measured: Sequence[ContestantReport]) -> Iterator[str]:
    yield "<h2>Conditions</h2>"
    networks = [
        [
            escape(c.backend),
            role,
            escape(n.model),
            f'<code title="{escape(n.sha256)}">{escape(n.sha256[:12])}</code>',
            "×".join(map(str, n.input_size_wh)),
            escape(n.precision),
            escape(f"{n.runtime} {n.version}"),
            _device(n),
            "its choice" if n.threads is None else str(n.threads),
        ]
        for c in measured
        for role, n in (("detector", c.detector), ("pose", c.pose))
        if n is not None
    ]
    head = ["Backend", "", "Model", "sha256", "Input", "Precision", "Runtime", "Device", "Threads"]
    yield _table(head, networks, texts=3) + "<p></p>"
    machine, noise = report.machine, report.noise
    made_up = set() if report.config["video"] is None else {"persons", "frame_size_wh"}
    settings = {key: value for key, value in report.config.items() if key not in made_up}
    gpus = ", ".join(gpu.name for gpu in machine.cuda.gpus) if machine.cuda else ""
    facts = [
        ("Processor", f"{machine.cpu}, {machine.cpus} logical processors, {machine.usable_cpus:g} usable"),
        ("Extensions", ", ".join(machine.cpu_features) or "unknown"),
        ("Memory", "unknown" if machine.memory_bytes is None else f"{machine.memory_bytes / 2**30:.1f} GiB"),
        ("NVIDIA GPU", f"{gpus}, driver {machine.cuda.version}" if machine.cuda and gpus else "none"),
        ("System", f"{machine.system}, Python {machine.python}"),
        ("Packages", ", ".join(f"{name} {version}" for name, version in report.versions.items())),
        ("Settings", ", ".join(f"{key}={value}" for key, value in settings.items() if value is not None)),
        ("Other processes", _share(noise.foreign_share)),
        ("Taken by the hypervisor", _share(noise.stolen_share)),
        ("Slowest over fastest of a fixed loop", f"{noise.clock_drift:.2f}"),
    ]
    yield _table(None, [[escape(name), escape(value)] for name, value in facts], left=True)


def _device(network: Network) -> str:
    details = ", ".join(f"{key}: {value}" for key, value in network.details.items())
    return f'<span title="{escape(details)}">{escape(network.device)}</span>'


def _share(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%} of the processor time"


def _ratio(ratio: Ratio) -> str:
    return f'{ratio.median:.2f}× <span class="soft">{ratio.low:.2f}–{ratio.high:.2f}</span>'


def _scenarios(measured: Sequence[ContestantReport]) -> list[int | None]:
    return list(dict.fromkeys(s.persons for c in measured for s in c.scenarios))


def _table(head: Sequence[str] | None, rows: Sequence[Sequence[str]], *, left: bool = False, texts: int = 1) -> str:
    """Return a table of cells that are HTML already.

    Args:
        head: What the columns are called.
        rows: As many cells each. A first cell that is that of the row before is left out, so that groups show.
        left: Let all columns begin at their left edge and break their lines.
        texts: Let so many columns begin at their left edge; the others are figures.
    """
    first = "" if head is None else "<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"
    body, group = "", None
    for row in rows:
        again = row[0] == group
        group = row[0]
        cells = ["" if again else row[0], *row[1:]]
        body += f"<tr{'' if again else ' class=group'}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    return f'<div class="scroll"><table class="{"left" if left else f"t{texts}"}">{first}{body}</table></div>'
