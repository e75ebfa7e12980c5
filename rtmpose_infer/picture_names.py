"""Names for what is written of many pictures into one folder, none of which replaces another."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["free_name"]


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
