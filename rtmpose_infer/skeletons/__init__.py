"""What the keypoints of a data set are: names, limbs, left/right pairs and OKS sigmas.

A skeleton is data, not code: each one is a JSON file under ``data/``, so that a new data set needs a new file and
nothing else, and a user's own file works the same way. This package stands below ``results`` in the order of imports,
because a result must carry the skeleton that gives its keypoints a meaning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rtmpose_infer.errors import InputError

__all__ = ["Skeleton", "load_skeleton", "skeleton_from_dict", "skeleton_names", "unnamed_skeleton"]

_DATA = Path(__file__).parent / "data"
_DEFAULT_SIGMA = 0.05
_ALIASES = {
    "coco": "coco17",
    "body17": "coco17",
    "body26": "halpe26",
    "wholebody": "wholebody133",
    "coco_wholebody": "wholebody133",
    "hand": "hand21",
    "face": "face106",
    "lapa": "face106",
    "animal": "ap10k17",
    "ap10k": "ap10k17",
    "crowdpose": "crowdpose14",
    "mpii": "mpii16",
    "wflw": "wflw98",
    "aic": "aic14",
    "humanart": "humanart17",
}


@dataclass(frozen=True, eq=False, repr=False)
class Skeleton:
    """The keypoints of one data set.

    Attributes:
        name: Short name, such as ``"coco17"``.
        keypoints: K keypoint names, in the network's order.
        links: Limbs, as pairs of keypoint indices.
        flip_index: K indices; entry i is the keypoint that i becomes in a mirrored picture.
        sigmas: (K,) float32 OKS sigmas (COCO's definition), or None where the data set publishes none.

    Raises:
        InputError: There are no keypoints, two of one name, or links, ``flip_index`` or sigmas that do not fit them.
    """

    name: str
    keypoints: tuple[str, ...]
    links: tuple[tuple[int, int], ...] = ()
    flip_index: tuple[int, ...] = ()
    sigmas: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        count = len(self.keypoints)
        if count == 0:
            raise InputError(f"skeleton {self.name!r}: expected at least one keypoint, got none.")
        if len(set(self.keypoints)) != count:
            twice = sorted({k for k in self.keypoints if self.keypoints.count(k) > 1})
            raise InputError(f"skeleton {self.name!r}: keypoint names must differ; twice: {', '.join(twice)}.")
        flip = self.flip_index or tuple(range(count))
        if sorted(flip) != list(range(count)) or any(flip[flip[i]] != i for i in range(count)):
            raise InputError(
                f"skeleton {self.name!r}: flip_index must hold each of 0..{count - 1} once and swap pairs."
            )
        if any(not (0 <= a < count and 0 <= b < count and a != b) for a, b in self.links):
            raise InputError(f"skeleton {self.name!r}: links must join two of the keypoints 0..{count - 1}.")
        object.__setattr__(self, "flip_index", flip)
        if self.sigmas is not None:
            sigmas = np.array(self.sigmas, dtype=np.float32)
            if sigmas.shape != (count,) or not np.all((sigmas > 0) & np.isfinite(sigmas)):
                raise InputError(f"skeleton {self.name!r}: sigmas must be {count} positive numbers.")
            sigmas.flags.writeable = False
            object.__setattr__(self, "sigmas", sigmas)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Skeleton):
            return NotImplemented
        return (self.name, self.keypoints, self.links) == (other.name, other.keypoints, other.links)

    def __hash__(self) -> int:
        return hash((self.name, self.keypoints))

    def __reduce__(self) -> tuple[Any, ...]:
        # By way of the constructor, since numpy's arrays come out of pickling and copying writable.
        return type(self), tuple(getattr(self, f.name) for f in fields(self))

    def __repr__(self) -> str:
        return f"<Skeleton {self.name!r}, {len(self.keypoints)} keypoints>"

    @property
    def num_keypoints(self) -> int:
        """The number of keypoints, K."""
        return len(self.keypoints)

    @property
    def oks_sigmas(self) -> npt.NDArray[np.float32]:
        """(K,) float32 sigmas to compare poses with: the published ones, or 0.05 for all where there are none."""
        if self.sigmas is not None:
            return self.sigmas
        return np.full(self.num_keypoints, _DEFAULT_SIGMA, dtype=np.float32)

    @cached_property
    def sides(self) -> tuple[str, ...]:
        """``"left"``, ``"right"`` or ``"centre"`` for each keypoint, read off the names and the mirror pairs."""
        return tuple(_side(name, own_mirror=self.flip_index[i] == i) for i, name in enumerate(self.keypoints))

    def index(self, keypoint: str) -> int:
        """Return the index of the keypoint of that name.

        Raises:
            InputError: No keypoint has that name.
        """
        try:
            return self.keypoints.index(keypoint)
        except ValueError:
            raise InputError(
                f"skeleton {self.name!r} has no keypoint {keypoint!r}; it has {', '.join(self.keypoints)}."
            ) from None


def skeleton_names() -> tuple[str, ...]:
    """Return the names of the skeletons that come with the package, sorted.

    >>> "coco17" in skeleton_names()
    True
    """
    return tuple(sorted(path.stem for path in _DATA.glob("*.json")))


def load_skeleton(name_or_path: str | Path) -> Skeleton:
    """Return a skeleton by name (``"coco17"``, alias ``"coco"``) or from a JSON file of the same form.

    Raises:
        InputError: The name is unknown, or the file is missing or malformed.

    >>> load_skeleton("coco").num_keypoints
    17
    """
    name = str(name_or_path)
    key = _ALIASES.get(name.lower().replace("-", "_"), name.lower())
    if key in skeleton_names():
        return _load_packaged(key)
    path = Path(name_or_path)
    if path.suffix != ".json":
        raise InputError(
            f"unknown skeleton {name!r}; known are {', '.join(skeleton_names())}, or pass the path of a .json file."
        )
    return _load_file(path)


def skeleton_from_dict(data: Mapping[str, Any]) -> Skeleton:
    """Return the skeleton that a mapping describes (the content of a skeleton file).

    Raises:
        InputError: A field is missing or malformed.
    """
    try:
        sigmas = data.get("sigmas")
        return Skeleton(
            name=str(data["name"]),
            keypoints=tuple(str(k) for k in data["keypoints"]),
            links=tuple((int(a), int(b)) for a, b in data.get("links", ())),
            flip_index=tuple(int(i) for i in data.get("flip_index", ())),
            sigmas=None if sigmas is None else np.asarray(sigmas, dtype=np.float32),
        )
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"not a skeleton: {error!r}; needed are 'name' and 'keypoints', "
            "optional are 'links' (pairs of indices), 'flip_index' and 'sigmas'."
        ) from error


def unnamed_skeleton(num_keypoints: int) -> Skeleton:
    """Return a skeleton of ``num_keypoints`` numbered points without limbs, for networks of unknown data sets.

    >>> unnamed_skeleton(2).keypoints
    ('keypoint_0', 'keypoint_1')
    """
    return Skeleton(f"unnamed{num_keypoints}", tuple(f"keypoint_{i}" for i in range(num_keypoints)))


@cache
def _load_packaged(name: str) -> Skeleton:
    return _load_file(_DATA / f"{name}.json")


def _load_file(path: Path) -> Skeleton:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read the skeleton file {path}: {error}.") from error
    return skeleton_from_dict(data)


def _side(name: str, *, own_mirror: bool) -> str:
    if own_mirror:
        return "centre"
    lowered = name.lower()
    if lowered.startswith(("left", "l_")) or "_left" in lowered:
        return "left"
    if lowered.startswith(("right", "r_")) or "_right" in lowered:
        return "right"
    return "centre"
