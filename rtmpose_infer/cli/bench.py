"""`rtmpose bench` and `rtmpose-bench`: the benchmark as a table, as JSON and as a page."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from rtmpose_infer.benchmark import (
    BenchmarkConfig,
    ContestantReport,
    Report,
    Scenario,
    render_html,
    run_benchmark,
)
from rtmpose_infer.cli._errors import wrong_usage
from rtmpose_infer.cli._options import Detector, Pose, Threads, det_interval_from_text
from rtmpose_infer.cli._paths import refuse_to_replace
from rtmpose_infer.errors import InputError
from rtmpose_infer.pose_tracker import DEFAULT_DETECTOR, DEFAULT_POSE

__all__ = ["bench", "main"]


def bench(  # a command's options
    backend: Annotated[
        str | None, typer.Option(help="onnxruntime (ort), openvino (ov), tensorrt (trt), ncnn or auto.")
    ] = None,
    compare: Annotated[
        str, typer.Option(help="Several backends to compare, such as ort,ov or ort:cpu,ort:cuda (with their devices).")
    ] = "",
    device: Annotated[str, typer.Option(help="Device of the backends that name none.")] = "auto",
    detector: Detector = DEFAULT_DETECTOR,
    pose: Pose = DEFAULT_POSE,
    persons: Annotated[
        str | None, typer.Option(help="Numbers of people in the made-up scene; 1,4,8 by default.")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Measured frames of each backend and number of people.")] = 120,
    video: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Measure on this video.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="At most this many people in one pose call.")] = None,
    det_interval: Annotated[
        str, typer.Option(metavar="N|auto", help="Detect on every N-th frame, or when it is needed.")
    ] = "5",
    threads: Threads = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16, bf16 or int8; the model file's by default.")
    ] = None,
    warmup: Annotated[int, typer.Option(min=0, help="Frames before the measured ones.")] = 5,
    rounds: Annotated[int | None, typer.Option(min=1, help="Turns in which the backends share the frames.")] = None,
    starts: Annotated[int | None, typer.Option(min=1, help="Processes of each backend that share the rounds.")] = None,
    json_: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write everything as JSON.")] = None,
    html: Annotated[Path | None, typer.Option(dir_okay=False, help="Write a page with charts.")] = None,
) -> None:
    """Measure how fast tracking is here, stage by stage, and against the network calls alone.

    Several backends take turns, so that a busy machine slows down all of them alike.
    """
    for path, option in ((json_, "--json"), (html, "--html")):
        if path is not None and not path.absolute().parent.is_dir():
            raise typer.BadParameter(f"there is no folder {path.parent} to write {path.name} to", param_hint=option)
        if path is not None:
            if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
                raise typer.BadParameter(f"no permission to write {path}", param_hint=option)
            with wrong_usage():
                refuse_to_replace(path, (video, detector, pose))
    if json_ is not None and html is not None and json_.resolve() == html.resolve():
        raise typer.BadParameter("the page and the JSON need a path each", param_hint="--html")
    if video is not None and persons is not None:
        raise typer.BadParameter("the people are those of the video; leave out --persons", param_hint="--persons")
    names = [name for name in (backend, *compare.split(",")) if name] or ["auto"]
    rounds = min(frames, BenchmarkConfig.rounds) if rounds is None else rounds
    try:
        config = BenchmarkConfig(
            backends=tuple(dict.fromkeys(name.strip() for name in names)),
            device=device,
            detector=detector,
            pose=pose,
            persons=tuple(_whole(text) for text in (persons or "1,4,8").split(",")),
            video=video,
            frames=frames,
            rounds=rounds,
            starts=min(rounds, BenchmarkConfig.starts) if starts is None else starts,
            warmup=warmup,
            det_interval=det_interval_from_text(det_interval),
            batch=batch,
            threads=threads,
            precision=precision,
        )
    except InputError as error:
        raise typer.BadParameter(str(error)) from error
    report = _measured(config)
    Console().print(_summary(report))
    is_written = True
    for path, text in ((json_, json.dumps(report.to_dict(), indent=2)), (html, render_html(report))):
        if path is not None:
            try:
                path.write_text(text, encoding="utf-8")
            except OSError as error:  # the other one is tried all the same
                typer.echo(f"error: {path}: cannot be written: {error.strerror}.", err=True)
                is_written = False
    raise typer.Exit(0 if report.ok and is_written else 1)


def main() -> None:
    """Run `rtmpose-bench`."""
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},  # as `rtmpose` has them
    )
    app.command()(bench)
    app()


def _measured(config: BenchmarkConfig) -> Report:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=1.0)
        return run_benchmark(config, progress=lambda text, share: bar.update(task, description=text, completed=share))


def _whole(text: str) -> int:
    if not text.strip().isdecimal():
        raise typer.BadParameter(f"{text!r} is no whole number", param_hint="--persons")
    return int(text)


def _summary(report: Report) -> Group:
    lines: list[Table | Text] = []
    machine = report.machine
    features = f" ({', '.join(machine.cpu_features)})" if machine.cpu_features else ""
    lines.append(Text(f"{machine.cpu}, {machine.usable_cpus:g} of {machine.cpus} processors{features}", style="dim"))
    lines += [Text(f"{c.backend}: {c.failure}", style="red") for c in report.contestants if c.failure]
    if any(contestant.scenarios for contestant in report.contestants):
        lines += [Text(), *_speed(report), Text(), *_stages(report), Text()]
    lines += [Text(text, style="dim") for text in map(_about, report.contestants) if text]
    lines += [Text(warning, style="yellow") for warning in report.warnings]
    return Group(*lines)


def _about(contestant: ContestantReport) -> str:
    parts = []
    if contestant.pose is not None:
        network = contestant.pose
        parts.append(f"{network.runtime} {network.version} on {network.device}, {network.precision}")
    if contestant.cold is not None:
        warm = "" if contestant.warm is None else f" ({contestant.warm.total_s:.2f} s warm)"
        parts.append(f"first result after {contestant.cold.total_s:.2f} s{warm}")
    if contestant.peak_memory_bytes is not None:
        parts.append(f"{contestant.peak_memory_bytes / 2**20:.0f} MiB")
    compared = contestant.difference
    if compared is not None and compared.keypoints:
        parts.append(f"joints within {compared.p99_px:.2f} px of ONNX Runtime's (p99; at most {compared.max_px:.2f})")
    return f"{contestant.backend}: {'; '.join(parts)}" if parts else ""


def _speed(report: Report) -> tuple[Text, Table]:
    table = _table("people", "backend")
    headings = ["FPS", "p50 ms", "p95", "p99", "networks", "overhead"]
    for heading in [*headings, *(["speed-up"] if report.comparisons else [])]:
        table.add_column(heading, justify="right")
    speedups = {(c.backend, c.persons): c.speedup.median for c in report.comparisons}
    for scenario, backend in _by_scenario(report):
        speedup = speedups.get((backend, scenario.persons))
        latency = scenario.latency
        figures = (latency.p50_ms, latency.p95_ms, latency.p99_ms, scenario.floor_ms)
        table.add_row(
            f"{scenario.people:.1f}" if scenario.persons is None else str(scenario.persons),
            backend,
            f"{scenario.fps:.1f}",
            *map(_ms, figures),
            f"{scenario.overhead.median:.2f}×",
            *([] if speedup is None else [f"{speedup:.2f}×"]),
        )
    return Text("Tracking, without decoding and drawing", style="bold"), table


def _stages(report: Report) -> tuple[Text, Table]:
    """Return the stages of the largest scenario."""
    pairs = _by_scenario(report)
    largest = [(scenario, backend) for scenario, backend in pairs if scenario.persons == pairs[-1][0].persons]
    table = _table("stage")
    for _, backend in largest:
        table.add_column(backend, justify="right")
    for stage in dict.fromkeys(name for scenario, _ in largest for name in scenario.stages):
        timings = [scenario.stages.get(stage) for scenario, _ in largest]
        table.add_row(
            stage, *("" if t is None else " / ".join(map(_ms, (t.p50_ms, t.p95_ms, t.p99_ms))) for t in timings)
        )
    count = f"{largest[0][0].people:.0f}"
    people = "person" if count == "1" else "people"
    return Text(f"Stages with {count} {people}, p50 / p95 / p99 ms", style="bold"), table


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _by_scenario(report: Report) -> list[tuple[Scenario, str]]:
    found = [(scenario, c.backend) for c in report.contestants for scenario in c.scenarios]
    return sorted(found, key=lambda pair: pair[0].persons or 0)
