"""One line on standard error for what a user can put right, and the exit code that scripts expect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from rtmpose_infer.errors import RtmposeInferError

__all__ = ["FAILED", "INTERRUPTED", "reported_errors"]

FAILED = 1
INTERRUPTED = 130


@contextmanager
def reported_errors() -> Iterator[None]:
    """End the command with ``error: …`` and exit code 1 where the package raises an error of its own.

    Anything else is a defect of this package and keeps its traceback.
    """
    try:
        yield
    except RtmposeInferError as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(FAILED) from error
