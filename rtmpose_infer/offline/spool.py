"""The networks' answers for the frames so far, kept on disk.

A long video's answers do not fit in memory, and a run that is killed must not begin again. So every answer is written
as it comes: detections of a key frame, raw poses of a frame. The tracking that follows is a deterministic function of
them; a resumed run reads instead of asking the networks and ends with the identical result. Answers are appended to
one file, each with its length and checksum, because a file for each costs more time than a small network; what a kill
cut off at its end, or what cannot be read, is computed again.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import zlib
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rtmpose_infer.cache import atomic_write
from rtmpose_infer.closing import Closing
from rtmpose_infer.errors import InputError, MediaError

if TYPE_CHECKING:
    from collections.abc import Mapping


__all__ = ["Spool"]

_MAGIC = b"RTMP"
_MOST_FRAMES = 100_000_000
_PREFIX = struct.Struct("<4sIII")  # magic, length of the description, length of the arrays, checksum of both


class Spool(Closing):
    """A folder of arrays by kind and frame; close it, or use it as a context manager.

    Args:
        folder: Made where missing.
        fingerprint: What the answers depend on (networks, settings, video). A folder with another one is refused.

    Raises:
        InputError: The folder belongs to another video or other settings.
        MediaError: The folder cannot be made or written.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any]) -> None:
        self._path = folder / "answers.bin"
        self._lock = threading.Lock()
        self._places: dict[str, array[int]] = {}  # kind → place in the file by frame, −1 where none is
        text = json.dumps(fingerprint, sort_keys=True, default=str)
        job = folder / "job.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if job.exists():
                if job.read_text(encoding="utf-8") != text:
                    raise InputError(
                        f"{folder} holds the work of another video, other networks or other settings; "
                        "give an empty folder, or delete it to begin anew."
                    )
            else:
                atomic_write(job, text.encode())
            self._path.touch()
            self._file = self._path.open("r+b", buffering=0)
            self._end = self._find_answers()
        except OSError as error:
            raise MediaError(f"cannot use {folder} for the work in progress: {error.strerror or error}.") from error

    def load(self, kind: str, frame_index: int) -> dict[str, npt.NDArray[Any]] | None:
        """Return the arrays that ``save`` kept under this kind and frame, read-only, or None where there are none."""
        with self._lock:
            places = self._places.get(kind, ())
            place = places[frame_index] if frame_index < len(places) else -1
            try:
                record = None if place < 0 else self._read(place)
            except OSError:
                record = None
        if record is None:
            return None
        description, data = record
        arrays, start = {}, 0
        try:
            for name, dtype, shape in description["arrays"]:
                count = int(np.prod(shape))
                arrays[name] = np.frombuffer(data, dtype, count, start).reshape(shape)
                start += arrays[name].nbytes
        except (ValueError, TypeError, KeyError):
            return None
        return arrays

    def save(self, kind: str, frame_index: int, **arrays: npt.NDArray[Any]) -> None:
        """Keep arrays of a frame; they replace those of the same kind.

        Args:
            kind: What they are, such as ``"detections"``.
            frame_index: Number of the frame, from 0.
            arrays: Any, by name.

        Raises:
            MediaError: The disk is full or the folder has gone.
        """
        shapes = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
        head = json.dumps({"kind": kind, "frame": frame_index, "arrays": shapes}).encode()
        data = b"".join(array.tobytes() for array in arrays.values())
        record = _PREFIX.pack(_MAGIC, len(head), len(data), zlib.crc32(data, zlib.crc32(head))) + head + data
        with self._lock:
            try:
                self._file.seek(self._end)
                written = self._file.write(record)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise MediaError(f"cannot write {self._path}: {reason}.") from error
            if written != len(record):
                raise MediaError(f"cannot write {self._path}: the disk is full.")
            self._note(kind, frame_index, self._end)
            self._end += len(record)

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._file.close()

    def _find_answers(self) -> int:
        """Note where each whole record begins, and return where the last one ends."""
        place = 0
        while (record := self._read(place)) is not None:
            description, data = record
            self._note(str(description.get("kind")), description["frame"], place)
            place += _PREFIX.size + description["length"] + len(data)
        return place

    def _note(self, kind: str, frame_index: int, place: int) -> None:
        places = self._places.setdefault(kind, array("q"))
        if frame_index >= len(places):
            places.extend([-1] * (frame_index + 1 - len(places)))
        places[frame_index] = place

    def _read(self, place: int) -> tuple[dict[str, Any], bytes] | None:
        """Return the description and the arrays of the record at a place, or None where none is whole."""
        self._file.seek(place)
        prefix = self._file.read(_PREFIX.size) or b""
        if len(prefix) < _PREFIX.size:
            return None
        magic, head_length, data_length, checksum = _PREFIX.unpack(prefix)
        left = os.fstat(self._file.fileno()).st_size - place - _PREFIX.size
        if magic != _MAGIC or head_length + data_length > left:
            return None
        body = self._file.read(head_length + data_length) or b""
        if zlib.crc32(body) != checksum:
            return None
        try:
            description = json.loads(body[:head_length])
            if not 0 <= description["frame"] < _MOST_FRAMES:
                return None
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        return {**description, "length": head_length}, body[head_length:]
