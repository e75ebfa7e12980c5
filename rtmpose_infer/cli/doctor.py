"""`rtmpose doctor`: the examination as a table for people and as JSON and an exit code for machines."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rtmpose_infer.doctor import Examination, examine
from rtmpose_infer.errors import InputError

__all__ = ["doctor"]

_MARKS = {"ok": ("ok", "green"), "note": ("note", "cyan"), "warning": ("warning", "yellow"), "error": ("error", "red")}


def doctor(
    require: Annotated[
        list[str] | None,
        typer.Option(
            help="A backend that must work here, such as openvino or onnxruntime:cuda; may be given several times."
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors in the exit code.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Look at what is installed and what really works here, and say how to mend the rest.

    Runs a tiny network on every device that claims to be there. Exit code 1 when something that is installed or
    required does not work.
    """
    console = Console()
    try:
        if as_json:
            result = examine(require=require or ())
        else:
            with console.status("Asking every device …"):
                result = examine(require=require or ())
    except InputError as error:
        raise typer.BadParameter(str(error), param_hint="--require") from error
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))
    else:
        console.print(_table(result))
        console.print(_summary(result))
    raise typer.Exit(result.exit_code(strict=strict))


def _table(result: Examination) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in result.findings:
        word, colour = _MARKS[finding.severity]
        text = Text(finding.message)
        if finding.fix:
            text.append(f"\n→ {finding.fix}", style="bold")
        table.add_row(Text(word, style=colour), Text(finding.check), text)
    return table


def _summary(result: Examination) -> Text:
    counts = {severity: sum(f.severity == severity for f in result.findings) for severity in ("error", "warning")}
    if not any(counts.values()):
        return Text("\nNothing is wrong.", style="green")
    words = [f"{count} {severity}{'s' if count > 1 else ''}" for severity, count in counts.items() if count]
    return Text(f"\n{', '.join(words)}.", style="red" if counts["error"] else "yellow")
