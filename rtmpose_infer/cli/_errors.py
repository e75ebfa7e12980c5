"""One line on standard error for what a user can put right, and the exit code that scripts expect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from rtmpose_infer.errors import InputError, RtmposeInferError

__all__ = ["FAILED", "INTERRUPTED", "WRONG_USAGE", "reported_errors", "wrong_usage"]

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130


@contextmanager
def reported_errors() -> Iterator[None]:
    """End the command with ``error: …`` and exit code 1 where the package raises an error of its own, 130 on Ctrl-C.

    Anything else is a defect of this package and keeps its traceback.
    """
    try:
        yield
    except RtmposeInferError as error:
        raise _told(error, FAILED) from error
    except KeyboardInterrupt as interrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from interrupt


@contextmanager
def wrong_usage() -> Iterator[None]:
    """End the command with exit code 2 at an ``InputError``; for code in which each of them is about the command line."""
    try:
        yield
    except InputError as error:
        raise _told(error, WRONG_USAGE) from error


def _told(error: RtmposeInferError, code: int) -> typer.Exit:
    typer.echo(f"error: {' '.join(str(error).split())}", err=True)
    return typer.Exit(code)
