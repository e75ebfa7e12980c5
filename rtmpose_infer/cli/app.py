"""The `rtmpose` command: all subcommands, and what they share."""

from __future__ import annotations

import logging
from functools import partial
from typing import Annotated

import typer

from rtmpose_infer.cli import bench, demo, doctor, models, track
from rtmpose_infer.cli import eval as eval_
from rtmpose_infer.cli import export as export_
from rtmpose_infer.version import __version__

__all__ = ["app"]

app = typer.Typer(
    name="rtmpose",
    help="Find, track and measure people's poses with RTMPose.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"rtmpose-infer {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Say what is done; twice: every detail.")
    ] = 0,
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=lambda wanted: _version(wanted=wanted), is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Set up what every command shares."""
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logger = logging.getLogger("rtmpose_infer")
    context.call_on_close(partial(logger.setLevel, logger.level))  # a program that calls the commands keeps its own
    logger.setLevel(level)


app.command("track")(track.track)
app.command("demo")(demo.demo)
app.command("export")(export_.export)
app.add_typer(models.app, name="models")
app.add_typer(eval_.app, name="eval")
app.command("bench")(bench.bench)
app.command("doctor")(doctor.doctor)
