"""What the pipeline returns: immutable, validated arrays of detections and of poses.

One object holds all people of a frame as parallel arrays; indexing it with an integer, a slice, a mask or indices keeps
the arrays together. Zero people is an object of length zero with the right shapes. Arrays are read-only: a result can
be kept, shared between threads and compared later without anyone changing it. Converters to other libraries' types are
in ``formats``, not here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rtmpose_infer.errors import DTypeError, ShapeError

if TYPE_CHECKING:
    from rtmpose_infer.skeletons import Skeleton

__all__ = ["Detections", "Poses"]

Index = int | np.integer[Any] | slice | npt.NDArray[np.bool_] | npt.NDArray[np.integer[Any]] | list[int]


def _frozen(
    what: str, value: Any, dtype: type[np.generic], shape: tuple[int | None, ...], words: str
) -> npt.NDArray[Any]:
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise DTypeError(what, expected=np.dtype(dtype).name, actual=array.dtype)
    if array.shape != shape and not _fits(array.shape, shape):
        raise ShapeError(what, expected=words, actual=array.shape)
    if dtype is np.int64 and array.dtype.kind in "fu" and not _is_whole(array):
        raise DTypeError(what, expected="int64", actual=f"{array.dtype} with other numbers than whole ones")
    if array.dtype != dtype or not _is_constant(array):
        array = array.astype(dtype, copy=True)
        array.flags.writeable = False
    return array


def _fits(actual: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(actual) == len(expected) and all(
        want is None or want == have for want, have in zip(expected, actual, strict=True)
    )


def _is_whole(array: npt.NDArray[Any]) -> bool:
    return bool((np.rint(array) == array).all() and (abs(array) < 2**63).all())


def _is_constant(array: npt.NDArray[Any]) -> bool:
    """Say whether nobody can change the array, not even through the one that it is a view of."""
    owner = array if array.base is None else array.base
    return not array.flags.writeable and isinstance(owner, np.ndarray) and not owner.flags.writeable


def _restore(result: Detections | Poses, state: dict[str, Any]) -> None:
    """Take what was pickled or copied: numpy's arrays come out of that writable."""
    for value in state.values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    result.__dict__.update(state)


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The boxes a detector found in one frame, best first.

    Attributes:
        bboxes: (N, 4) float32, x1 y1 x2 y2 in frame pixels (edge coordinates), inside the frame.
        scores: (N,) float32, 0 to 1.
        labels: (N,) int64 class indices of the network.

    Raises:
        ShapeError: An array has another shape.
        DTypeError: An array does not hold numbers, or ``labels`` holds others than whole ones.
    """

    bboxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        bboxes = _frozen("Detections.bboxes", self.bboxes, np.float32, (None, 4), "(N, 4)")
        count = len(bboxes)
        object.__setattr__(self, "bboxes", bboxes)
        for name, dtype in (("scores", np.float32), ("labels", np.int64)):
            value = _frozen(f"Detections.{name}", getattr(self, name), dtype, (count,), f"({count},)")
            object.__setattr__(self, name, value)

    @classmethod
    def empty(cls) -> Detections:
        """Return no detections."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    def __setstate__(self, state: dict[str, Any]) -> None:
        _restore(self, state)

    def __repr__(self) -> str:
        return f"<Detections of {len(self)}>"

    def __len__(self) -> int:
        return len(self.bboxes)

    def __getitem__(self, index: Index) -> Detections:
        """Return the chosen boxes; an integer gives one box as an object of length one."""
        rows = _rows(index)
        return Detections(self.bboxes[rows], self.scores[rows], self.labels[rows])

    def __iter__(self) -> Iterator[Detections]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True, eq=False, repr=False)
class Poses:
    """The poses of all people in one frame.

    N people, K keypoints. A keypoint that the network did not find has score ≤ 0 and NaN coordinates: it is marked,
    never given a made-up place; ``keypoints_valid`` is the mask.

    Attributes:
        keypoints: (N, K, 2) float32, x y in frame pixels (pixel centres at integers), smoothed when tracked.
        keypoint_scores: (N, K) float32, the network's raw scores (SimCC: the lower of both axes' maxima; may exceed 1).
        bboxes: (N, 4) float32, x1 y1 x2 y2 in frame pixels; from the detector, or from the pose where the track
            carried it.
        bbox_scores: (N,) float32, the detector's score of the person (1 for boxes given by the caller).
        skeleton: What the keypoints mean.
        track_ids: (N,) int64 identities, from 1; None when the poses were not tracked.
        keypoints_raw: (N, K, 2) float32 before smoothing; the same array as ``keypoints`` when nothing was smoothed.
        keypoint_probabilities: (N, K) float32 calibrated 0 to 1, only for networks that come with a calibration.
        frame_index: Number of the frame in its stream, from 0; None for a single picture.
        timestamp_s: Time of the frame in seconds; None for a single picture.
        frame_size_wh: Width and height of the frame in pixels; None where unknown.

    Raises:
        ShapeError: An array has another shape.
        DTypeError: An array does not hold numbers, or ``track_ids`` holds others than whole ones.
    """

    keypoints: npt.NDArray[np.float32]
    keypoint_scores: npt.NDArray[np.float32]
    bboxes: npt.NDArray[np.float32]
    bbox_scores: npt.NDArray[np.float32]
    skeleton: Skeleton
    track_ids: npt.NDArray[np.int64] | None = None
    keypoints_raw: npt.NDArray[np.float32] = field(default=None)  # type: ignore[arg-type]  # set in __post_init__
    keypoint_probabilities: npt.NDArray[np.float32] | None = None
    frame_index: int | None = None
    timestamp_s: float | None = None
    frame_size_wh: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        k = self.skeleton.num_keypoints
        keypoints = _frozen("Poses.keypoints", self.keypoints, np.float32, (None, k, 2), f"(N, {k}, 2)")
        n = len(keypoints)
        object.__setattr__(self, "keypoints", keypoints)
        if getattr(self, "keypoints_raw") is None:  # noqa: B009  # only the constructor's default
            object.__setattr__(self, "keypoints_raw", keypoints)
        shapes: tuple[tuple[str, type[np.generic], tuple[int, ...]], ...] = (
            ("keypoint_scores", np.float32, (n, k)),
            ("bboxes", np.float32, (n, 4)),
            ("bbox_scores", np.float32, (n,)),
            ("keypoints_raw", np.float32, (n, k, 2)),
            ("track_ids", np.int64, (n,)),
            ("keypoint_probabilities", np.float32, (n, k)),
        )
        for name, dtype, shape in shapes:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _frozen(f"Poses.{name}", value, dtype, shape, str(shape)))

    @classmethod
    def empty(
        cls,
        skeleton: Skeleton,
        *,
        tracked: bool = False,
        frame_index: int | None = None,
        timestamp_s: float | None = None,
        frame_size_wh: tuple[int, int] | None = None,
    ) -> Poses:
        """Return a frame without people; ``tracked`` gives it an empty ``track_ids``, the rest is as in ``Poses``."""
        k = skeleton.num_keypoints
        return cls(
            keypoints=np.zeros((0, k, 2), np.float32),
            keypoint_scores=np.zeros((0, k), np.float32),
            bboxes=np.zeros((0, 4), np.float32),
            bbox_scores=np.zeros(0, np.float32),
            skeleton=skeleton,
            track_ids=np.zeros(0, np.int64) if tracked else None,
            frame_index=frame_index,
            timestamp_s=timestamp_s,
            frame_size_wh=frame_size_wh,
        )

    @property
    def keypoints_valid(self) -> npt.NDArray[np.bool_]:
        """(N, K) bool, True where the network found the keypoint."""
        valid: npt.NDArray[np.bool_] = self.keypoint_scores > 0
        return valid

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """(N,) float32 person scores: box score times the mean of the keypoint scores above 0.2 (COCO's habit)."""
        mask = self.keypoint_scores > 0.2
        total = np.where(mask, self.keypoint_scores, 0).sum(axis=1)
        scores: npt.NDArray[np.float32] = (self.bbox_scores * total / np.maximum(mask.sum(axis=1), 1)).astype(
            np.float32
        )
        return scores

    def __setstate__(self, state: dict[str, Any]) -> None:
        _restore(self, state)

    def __repr__(self) -> str:
        # Arrays of a crowd would fill a screen of a notebook, or a log.
        parts = [f"<Poses of {len(self)}, {self.skeleton.name}"]
        if self.track_ids is not None and len(self):
            parts.append(f"ids {' '.join(map(str, self.track_ids.tolist()))}")
        if self.frame_index is not None:
            parts.append(f"frame {self.frame_index}")
        if self.timestamp_s is not None:
            parts.append(f"{self.timestamp_s:.3f} s")
        return ", ".join(parts) + ">"

    def __len__(self) -> int:
        return len(self.keypoints)

    def __getitem__(self, index: Index) -> Poses:
        """Return the chosen people; an integer gives one person as an object of length one."""
        rows = _rows(index)
        changes: dict[str, Any] = {
            f.name: value[rows] for f in fields(self) if isinstance(value := getattr(self, f.name), np.ndarray)
        }
        if self.keypoints_raw is self.keypoints:
            changes["keypoints_raw"] = None  # they stay one array
        return replace(self, **changes)

    def __iter__(self) -> Iterator[Poses]:
        return (self[i] for i in range(len(self)))


def _rows(index: Index) -> Any:
    """Return the index in a form that keeps the axis of people: an integer becomes a list of one."""
    return [int(index)] if isinstance(index, (int, np.integer)) and not isinstance(index, bool) else index
