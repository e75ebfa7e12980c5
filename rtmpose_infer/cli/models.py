"""``rtmpose models``: what the zoo has, where it lies, fetching and checking it.

Paths go to standard output, one a line, so that a script can use them; everything meant for a person goes to the
standard error or is the table of ``list``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from rtmpose_infer import zoo
from rtmpose_infer.cli._errors import FAILED, reported_errors

app = typer.Typer(no_args_is_help=True, help="The models this package knows by name.")

_Name = Annotated[str, typer.Argument(help="Name or alias, as `rtmpose models list` shows it.")]
_Format = Annotated[str | None, typer.Option("--format", help="Kind of file: embedded, onnx, sdk or pth.")]


@app.command("list")
def list_(
    task: Annotated[str | None, typer.Option(help="Only models of this task: detection, pose or one_stage.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything known of each model, as JSON.")] = False,
) -> None:
    """Show the models of the zoo and what is on this machine."""
    with reported_errors():
        models = zoo.list_models(task=task)
        if as_json:
            typer.echo(json.dumps([_as_dict(info) for info in models], indent=2))
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("name", "finds", "input", "published figure", "files", "here"):
            table.add_column(title, no_wrap=title in {"name", "input", "here"})
        for info in models:
            width, height = info.input_size_wh
            figure = (
                f"{info.metrics[0].name} {info.metrics[0].value:g} ({info.metrics[0].dataset})" if info.metrics else ""
            )
            here = ", ".join(zoo.local_formats(info.name))
            table.add_row(info.name, info.about, f"{width}x{height}", figure, ", ".join(info.files), here)
        Console().print(table)


@app.command()
def path(name: _Name, format: _Format = None) -> None:  # noqa: A002  # the option's name
    """Print where a model's file lies on this machine; nothing is downloaded."""
    with reported_errors():
        typer.echo(zoo.model_path(name, format=format))


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="Names or aliases.")],
    format: _Format = None,  # noqa: A002  # the option's name
    force: Annotated[bool, typer.Option(help="Download again, and accept a file that has changed since.")] = False,
) -> None:
    """Download models that are not on this machine yet, check them, and print where they lie."""
    with reported_errors():
        for name in names:
            typer.echo(_fetched(name, format, force))


@app.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names or aliases; none: every model on this machine.")
    ] = None,
) -> None:
    """Hash the files on this machine again; the exit code is 1 if one is damaged."""
    with reported_errors():
        found = [
            result
            for name in names or [info.name for info in zoo.list_models()]
            for result in zoo.verify(name)
            if result.path is not None or names
        ]
    for result in found:
        state = "damaged" if result.problem else "ok" if result.path else "not here"
        typer.echo(f"{state:8} {result.name} {result.format} {result.path or ''}".rstrip())
    if not found:
        typer.echo("no model of the zoo is on this machine", err=True)
    damaged = [result for result in found if result.problem]
    for result in damaged:
        typer.echo(f"error: {result.problem}", err=True)
    if damaged:
        raise typer.Exit(FAILED)


def _fetched(name: str, kind: str | None, force: bool) -> Path:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None, visible=False)

        def progress(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        return zoo.fetch(name, format=kind, progress=progress, force=force)


def _as_dict(info: zoo.ModelInfo) -> dict[str, Any]:
    here = zoo.local_formats(info.name)
    fields = {key: getattr(info, key) for key in info.__dataclass_fields__ if key not in {"metrics", "files"}}
    files = {
        kind: {
            "file": file.file_name,
            "url": file.url or None,
            "sha256": file.sha256 or None,
            "sha256_prefix": file.sha256_prefix or None,
            "yields": file.yields or None,
            "here": kind in here,
        }
        for kind, file in info.files.items()
    }
    metrics = [{"name": m.name, "value": m.value, "dataset": m.dataset} for m in info.metrics]
    return fields | {"metrics": metrics, "files": files}
