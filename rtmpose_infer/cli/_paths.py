"""Results never replace what they are made from, under whatever name: links, or a disk that ignores case."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rtmpose_infer.errors import InputError

__all__ = ["identity", "refuse_to_replace"]


def identity(path: str | Path) -> tuple[int, int] | None:
    """Return what two names of one file or folder have in common; None where nothing is."""
    try:
        facts = Path(path).stat()
    except (OSError, ValueError):
        return None
    return facts.st_dev, facts.st_ino


def refuse_to_replace(path: Path, inputs: Iterable[str | Path | None]) -> None:
    """Refuse a result's path that is one of the inputs, which need not be paths.

    Raises:
        InputError: It is.
    """
    own = identity(path)
    if own is not None and any(own == identity(other) for other in inputs if other is not None):
        raise InputError(f"{path}: is an input already; give every output a path of its own.")
