"""What the networks answered for frames already seen, kept on disk.

A long video's answers do not fit in memory, and a run that is killed must not begin again. So every answer is written
as it comes: detections of a key frame, raw poses of a frame. The tracking that follows is a deterministic function of
them; a resumed run reads instead of asking the networks and ends with the identical result. Files are written whole
and moved into place, so a kill leaves no half of one; a file that cannot be read is computed again.
"""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rtmpose_infer.errors import InputError, MediaError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Spool"]


class Spool:
    """A folder of arrays by kind and frame.

    Args:
        folder: Made where missing.
        fingerprint: What the answers depend on (networks, settings, video). A folder with another one is refused.

    Raises:
        InputError: The folder belongs to another video or other settings.
        MediaError: The folder cannot be made or written.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any]) -> None:
        self._folder = folder
        text = json.dumps(fingerprint, sort_keys=True, default=str)
        path = folder / "job.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if path.exists():
                if path.read_text(encoding="utf-8") != text:
                    raise InputError(
                        f"{folder} holds the work of another video, other networks or other settings; "
                        "give an empty folder, or delete it to begin anew."
                    )
            else:
                _write(path, text.encode())
        except OSError as error:
            raise MediaError(f"cannot use {folder} for the work in progress: {error.strerror or error}.") from error

    def load(self, kind: str, frame_index: int) -> dict[str, npt.NDArray[Any]] | None:
        """Return the arrays saved for this frame, or None."""
        try:
            with self._path(kind, frame_index).open("rb") as file, np.load(file, allow_pickle=False) as data:
                return {name: data[name] for name in data.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError):
            return None

    def save(self, kind: str, frame_index: int, **arrays: npt.NDArray[Any]) -> None:
        """Keep the arrays of this frame.

        Raises:
            MediaError: The disk is full or the folder has gone.
        """
        path = self._path(kind, frame_index)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            with temporary.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub has allow_pickle among the names
            temporary.replace(path)
        except OSError as error:
            raise MediaError(f"cannot write {path}: {error.strerror or error}.") from error

    def _path(self, kind: str, frame_index: int) -> Path:
        return self._folder / f"{kind}-{frame_index // 10_000:04d}" / f"{frame_index:08d}.npz"


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)
