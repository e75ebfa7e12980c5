"""Boxes, overlaps and the mapping between a frame and a network's input: all geometry, in numpy alone.

Conventions (everywhere in the package): integer coordinates are pixel centres, x to the right, y down. Boxes are
x1 y1 x2 y2. The crop transform is a uniform scale and a shift, kept as numbers rather than as matrices, so that its
inverse is exact and the whole frame's people are mapped back by one vectorised expression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rtmpose_infer.errors import DTypeError, InputError, ShapeError

__all__ = [
    "CropTransform",
    "box_areas",
    "boxes_from_keypoints",
    "check_boxes",
    "clip_boxes",
    "crop_transform",
    "iou_matrix",
    "nms",
    "oks_matrix",
    "xywh_from_xyxy",
    "xyxy_from_xywh",
]

Floats = npt.NDArray[np.float32]
_LARGEST_COORDINATE = 1e7


def check_boxes(bboxes: npt.ArrayLike, what: str = "bboxes") -> Floats:
    """Return boxes as (N, 4) float32 after checking them; an empty sequence gives shape (0, 4).

    Args:
        bboxes: N boxes, x1 y1 x2 y2 in frame pixels; they may lie outside the frame.
        what: How messages name the argument.

    Raises:
        ShapeError: Not (N, 4).
        DTypeError: Not numbers.
        InputError: A coordinate is NaN, infinite or beyond ±10⁷, or a box is inverted or has no area.
    """
    try:
        array = np.asarray(bboxes)
    except ValueError as error:  # rows of different length
        raise ShapeError(what, expected="(N, 4)", actual="rows of different length") from error
    if array.shape in {(0,), (0, 4)}:
        return np.zeros((0, 4), np.float32)
    if array.dtype.kind not in "fiu":
        raise DTypeError(what, expected="float32", actual=array.dtype)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ShapeError(what, expected="(N, 4)", actual=array.shape, hint="One box is [[x1, y1, x2, y2]].")
    with np.errstate(over="ignore"):  # becomes infinite, which the next check names
        boxes = array.astype(np.float32)
    bad = ~np.all(np.abs(boxes) <= _LARGEST_COORDINATE, axis=1)  # NaN compares false, so it is caught too
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(f"{what}: row {row} has a NaN, infinite or absurd coordinate: {boxes[row].tolist()}.")
    bad = (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"{what}: row {row} is inverted or has no area: {boxes[row].tolist()}; expected x1 < x2 and y1 < y2 "
            "(x, y, width, height boxes go through xyxy_from_xywh first)."
        )
    return boxes


def xyxy_from_xywh(bboxes_xywh: npt.ArrayLike) -> Floats:
    """Return (N, 4) boxes as two corners, from corner and size.

    >>> xyxy_from_xywh([[10, 20, 30, 40]]).tolist()
    [[10.0, 20.0, 40.0, 60.0]]
    """
    boxes = np.array(bboxes_xywh, dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def xywh_from_xyxy(bboxes: npt.ArrayLike) -> Floats:
    """Return (N, 4) boxes as corner and size, from two corners.

    >>> xywh_from_xyxy([[10, 20, 40, 60]]).tolist()
    [[10.0, 20.0, 30.0, 40.0]]
    """
    boxes = np.array(bboxes, dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def clip_boxes(bboxes: Floats, frame_size_wh: tuple[int, int]) -> Floats:
    """Return the (N, 4) boxes cut to the frame, x from 0 to the width and y from 0 to the height of ``frame_size_wh``."""
    width, height = frame_size_wh
    return np.minimum(np.maximum(bboxes, 0), np.array([width, height, width, height], np.float32))


def box_areas(bboxes: Floats) -> Floats:
    """Return (N,) areas in square pixels; an inverted box has area 0."""
    sides = np.maximum(bboxes[:, 2:] - bboxes[:, :2], 0)
    areas: Floats = sides[:, 0] * sides[:, 1]
    return areas


def iou_matrix(bboxes_a: Floats, bboxes_b: Floats) -> Floats:
    """Return the (N, M) intersection over union of (N, 4) and (M, 4) boxes, 0 to 1.

    >>> iou_matrix(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2]])).round(4).tolist()
    [[0.3333]]
    """
    top_left = np.maximum(bboxes_a[:, None, :2], bboxes_b[None, :, :2])
    bottom_right = np.minimum(bboxes_a[:, None, 2:], bboxes_b[None, :, 2:])
    sides = np.maximum(bottom_right - top_left, 0)
    shared = sides[..., 0] * sides[..., 1]
    union = box_areas(bboxes_a)[:, None] + box_areas(bboxes_b)[None] - shared
    iou: Floats = shared / np.maximum(union, 1e-9)
    return iou


def nms(
    bboxes: Floats, scores: Floats, *, iou_threshold: float, labels: npt.NDArray[Any] | None = None
) -> npt.NDArray[np.intp]:
    """Return the indices of the boxes that greedy non-maximum suppression keeps, best first.

    Args:
        bboxes: (N, 4) float32.
        scores: (N,) float32; a higher score wins, ties go to the lower index.
        iou_threshold: Boxes that overlap a kept one by more than this are dropped.
        labels: (N,) classes; boxes of different classes never suppress each other. None: all one class.

    >>> nms(np.array([[0., 0, 9, 9], [1, 0, 10, 9], [20, 0, 29, 9]]), np.array([.8, .9, .3]), iou_threshold=.5).tolist()
    [1, 2]
    """
    order = np.argsort(-scores, kind="stable")
    boxes = bboxes[order]
    same = None if labels is None else labels[order]
    alive = np.ones(len(order), bool)
    kept = []
    for i in range(len(order)):
        if not alive[i]:
            continue
        kept.append(order[i])
        rest = np.flatnonzero(alive[i + 1 :]) + i + 1
        if not len(rest):
            break
        drop = iou_matrix(boxes[i : i + 1], boxes[rest])[0] > iou_threshold
        if same is not None:
            drop &= same[rest] == same[i]
        alive[rest[drop]] = False
    return np.array(kept, dtype=np.intp)


def oks_matrix(
    keypoints_a: Floats,
    keypoints_b: Floats,
    *,
    areas: Floats,
    sigmas: Floats,
    valid_a: npt.NDArray[np.bool_] | None = None,
    valid_b: npt.NDArray[np.bool_] | None = None,
) -> Floats:
    """Return the (N, M) object keypoint similarity of two sets of poses, 0 to 1.

    COCO's definition: the mean over joints of exp(−d² / (2·area·(2σ)²)). Only joints that are valid in both poses
    count; a pair without a joint in common has similarity 0.

    Args:
        keypoints_a: (N, K, 2) float32; NaN where not valid.
        keypoints_b: (M, K, 2) float32.
        areas: (M,) area in square pixels of the persons of ``keypoints_b``, or (N, M) for each pair.
        sigmas: (K,) OKS sigmas of the skeleton.
        valid_a: (N, K) bool; None: finite joints.
        valid_b: (M, K) bool; None: finite joints.
    """
    known_a = np.asarray(np.isfinite(keypoints_a[..., 0]) if valid_a is None else valid_a)
    known_b = np.asarray(np.isfinite(keypoints_b[..., 0]) if valid_b is None else valid_b)
    both = known_a[:, None] & known_b[None]
    a = np.where(known_a[..., None], keypoints_a, 0)
    b = np.where(known_b[..., None], keypoints_b, 0)
    difference = a[:, None] - b[None]
    squared = difference[..., 0] ** 2 + difference[..., 1] ** 2
    spread = 2 * np.maximum(areas, 1e-6)[..., None] * (2 * sigmas) ** 2
    similarity = np.exp(-squared / spread) * both
    oks: Floats = similarity.sum(axis=2) / np.maximum(both.sum(axis=2), 1)
    return oks


def boxes_from_keypoints(keypoints: Floats, valid: npt.NDArray[np.bool_]) -> Floats:
    """Return the (N, 4) tight boxes around the valid joints of (N, K, 2) keypoints; NaN for a pose without any."""
    masked = np.where(valid[..., None], keypoints, np.inf)
    low = masked.min(axis=1)
    high = np.where(valid[..., None], keypoints, -np.inf).max(axis=1)
    boxes = np.concatenate([low, high], axis=1).astype(np.float32)
    boxes[~valid.any(axis=1)] = np.nan
    return boxes


@dataclass(frozen=True, eq=False)
class CropTransform:
    """How N persons' boxes map to N network inputs, and back.

    ``p_input = (p_frame − centers)·scales + (W, H)/2``, MMPose's TopDownAffine without unbiased data processing.

    Attributes:
        centers: (N, 2) float32 box centres in frame pixels.
        scales: (N,) float32 input pixels per frame pixel.
        input_size_wh: The network's input size (W, H).
    """

    centers: Floats
    scales: Floats
    input_size_wh: tuple[int, int]

    def __getitem__(self, rows: slice) -> CropTransform:
        """Return the transforms of some of the boxes."""
        return CropTransform(self.centers[rows], self.scales[rows], self.input_size_wh)

    def matrices(self) -> npt.NDArray[np.float64]:
        """Return the (N, 2, 3) float64 matrices frame → input, as ``cv2.warpAffine`` takes them."""
        half = np.array(self.input_size_wh, np.float64) / 2
        out = np.zeros((len(self.scales), 2, 3))
        out[:, 0, 0] = out[:, 1, 1] = self.scales
        out[:, :, 2] = half - self.scales[:, None].astype(np.float64) * self.centers
        return out

    def to_frame(self, points_input: Floats) -> Floats:
        """Return (N, K, 2) float32 frame pixels from (N, K, 2) input pixels."""
        half = np.array(self.input_size_wh, np.float32) / 2
        points = (points_input - half) / self.scales[:, None, None] + self.centers[:, None]
        return np.asarray(points, np.float32)

    def to_input(self, points: Floats) -> Floats:
        """Return (N, K, 2) float32 input pixels from (N, K, 2) frame pixels; the inverse of ``to_frame``."""
        half = np.array(self.input_size_wh, np.float32) / 2
        points_input = (points - self.centers[:, None]) * self.scales[:, None, None] + half
        return np.asarray(points_input, np.float32)


def crop_transform(bboxes: Floats, input_size_wh: tuple[int, int], *, padding: float = 1.25) -> CropTransform:
    """Return the transform that shows each box, enlarged by ``padding`` and widened to the input's aspect.

    Args:
        bboxes: (N, 4) float32 in frame pixels, checked (see ``check_boxes``).
        input_size_wh: The network's input size (W, H).
        padding: Factor on both sides of the box; 1.25 in MMPose's models unless they say otherwise.
    """
    width, height = input_size_wh
    centers = (bboxes[:, :2] + bboxes[:, 2:]) / 2
    sides = (bboxes[:, 2:] - bboxes[:, :2]) * np.float32(padding)
    widened = np.maximum(sides[:, 0], sides[:, 1] * np.float32(width / height))
    scales = (width / np.maximum(widened, 1e-3)).astype(np.float32)
    return CropTransform(centers.astype(np.float32), scales, (width, height))
