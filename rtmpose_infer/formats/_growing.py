"""A text file that is complete after every addition.

A JSON document that is written in one go at the end is lost when the program dies before; one that is written as it
grows lacks its closing brackets. Here each addition writes the new item and the closing brackets in one call and the
next one starts over them: at any moment the file is a valid document that holds everything added so far.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from rtmpose_infer.errors import MediaError
from rtmpose_infer.result_files import open_result

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["GrowingFile"]


class GrowingFile:
    """Items between a head and a tail, on disk after every ``add``.

    The path is tried at once; a file that exists is replaced by ``begin`` and not before.

    Args:
        path: The file.
        separator: Stands between two items.
        tail: Stands behind the last item.

    Raises:
        MediaError: The file cannot be written.
    """

    def __init__(self, path: Path, *, separator: str = ",\n", tail: str = "") -> None:
        self._path = path
        self._separator = _encoded(separator)
        self._tail = _encoded(tail)
        unfit = MediaError(f"{path}: is a pipe or a terminal, and results are written over their own end; name a file.")
        if path.is_fifo():  # to open it would wait for a reader
            raise unfit
        # Unbuffered: one write call an item, which a killed process has either made or not.
        self._file, self._created = open_result(path)
        if not self._file.seekable():
            self._file.close()
            raise unfit
        self._has_length = path.is_file()  # the null device has none
        self._end = -1
        self._count = 0

    @property
    def begun(self) -> bool:
        """Whether the head has been written."""
        return self._end >= 0

    def begin(self, head: str) -> None:
        """Empty the file and write the head.

        Raises:
            MediaError: The disk is full, or the file can no longer be written.
        """
        try:
            self._file.close()
            self._file = self._path.open("wb", buffering=0)
        except OSError as error:
            raise MediaError(f"{self._path}: cannot be written: {error.strerror}.") from error
        self._end = 0
        self._write(_encoded(head), self._tail)

    def add(self, item: str) -> None:
        """Add one item."""
        self._write((self._separator if self._count else b"") + _encoded(item), self._tail)
        self._count += 1

    def finish(self, tail: str | None = None) -> None:
        """Close the file, with another tail where one is given; without ``begin`` a file made here is removed again."""
        if self._file.closed:
            return
        try:
            if self.begun and tail is not None:
                self._write(b"", _encoded(tail))
        finally:
            self._file.close()
            if self._created and not self.begun:
                self._path.unlink(missing_ok=True)

    def _write(self, body: bytes, tail: bytes) -> None:
        try:
            self._put(body + tail)
        except (OSError, ValueError) as error:
            with contextlib.suppress(OSError, ValueError):
                self._put(self._tail)  # there was room for it before
            raise MediaError(f"{self._path}: writing failed: {error}. Is the disk full?") from error
        self._end += len(body)

    def _put(self, data: bytes) -> None:
        """Write what follows the items so far."""
        self._file.seek(self._end)
        written = 0
        while written < len(data):
            written += self._file.write(data[written:])
        if self._has_length:
            self._file.truncate()


def _encoded(text: str) -> bytes:
    """Return UTF-8, with ? for what has none: a file may have a name that is no text."""
    return text.encode("utf-8", "replace")
