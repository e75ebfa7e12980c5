"""Files of results: whether they can be written, and names in a folder of which none replaces another."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, BinaryIO

from rtmpose_infer.errors import MediaError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["free_name", "open_result"]


def open_result(path: Path) -> tuple[BinaryIO, bool]:
    """Return a file opened to append to, so unchanged yet, and whether it was made for that.

    Raises:
        MediaError: The folder is missing, the path is a folder, or the user may not write.
    """
    existed = path.exists()
    if path.is_dir():
        raise MediaError(f"{path}: is a folder; name a file in it.")
    if not path.parent.is_dir():
        raise MediaError(f"{path}: the folder {path.parent} does not exist; create it first.")
    try:
        return path.open("ab", buffering=0), not existed
    except OSError as error:
        raise MediaError(f"{path}: cannot be written: {error.strerror}.") from error


def free_name(picture: Path, ending: str, used: set[str]) -> str:
    """Return the picture's stem with an ending, and add it to ``used``.

    Where that is used already, the picture's own ending goes into the name, and then a number.

    >>> from pathlib import Path
    >>> used = set()
    >>> [free_name(Path(name), ".json", used) for name in ("a.jpg", "a.png", "a.png")]
    ['a.json', 'a_png.json', 'a_png_2.json']
    """
    longer = picture.stem + picture.suffix.replace(".", "_")
    stems = itertools.chain((picture.stem, longer), (f"{longer}_{number}" for number in itertools.count(2)))
    name = next(stem + ending for stem in stems if stem + ending not in used)
    used.add(name)
    return name
