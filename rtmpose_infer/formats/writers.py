"""The choice of a writer by the name of its format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rtmpose_infer.errors import InputError
from rtmpose_infer.formats.coco import CocoWriter
from rtmpose_infer.formats.csv_table import CsvWriter
from rtmpose_infer.formats.mmpose import MmposeWriter
from rtmpose_infer.formats.native import NativeWriter
from rtmpose_infer.formats.openpose import OpenposeWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from typing_extensions import Self

    from rtmpose_infer.results import Poses

__all__ = ["FORMATS", "PosesWriter", "open_poses_writer"]


class PosesWriter(Protocol):
    """Takes the poses of one frame after the other; a context manager, which closes as incomplete after an error."""

    path: Path

    def write(self, poses: Poses, *, name: str | None = None) -> None:
        """Add one frame, on disk when this returns; ``name`` is the file name of a picture."""

    def close(self, *, complete: bool = True) -> None:
        """Finish the file; ``complete`` tells whether the frames are all that the source was to give."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


_WRITERS: dict[str, Callable[[Path, Mapping[str, Any]], PosesWriter]] = {
    "native": lambda path, source: NativeWriter(path, source=source),
    "coco": lambda path, _: CocoWriter(path),
    "openpose": lambda path, source: OpenposeWriter(path, stem=Path(str(source.get("name") or path.name)).stem),
    "mmpose": lambda path, _: MmposeWriter(path),
    "csv": lambda path, _: CsvWriter(path),
}

FORMATS = tuple(_WRITERS)
"""The names that ``open_poses_writer`` knows."""


def open_poses_writer(path: str | Path, format_name: str, *, source: Mapping[str, Any] | None = None) -> PosesWriter:
    """Return a streaming writer; the path is tried at once, an existing file stays until the first frame.

    Args:
        path: The file, or the folder for ``openpose``.
        format_name: One of ``FORMATS``.
        source: Facts about the source for the native file's head; ``name`` also begins OpenPose's file names.

    Raises:
        InputError: The format is unknown.
        MediaError: Nothing can be written there.
    """
    if format_name not in FORMATS:
        raise InputError(f"unknown format {format_name!r}; known are {', '.join(FORMATS)}.")
    return _WRITERS[format_name](Path(path), source or {})
