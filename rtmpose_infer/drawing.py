"""Skeletons drawn over a frame: anti-aliased, with a dark rim so that they stand out on light and dark backgrounds.

Everything scales with the person: limbs, rims, joints and labels of someone far away are thin, those of someone near
are bold (how bold at most grows with frames beyond 1080p), and fingers stay thinner than the arm they hang on. Joints
below the score threshold, or without coordinates, are not drawn and neither are their limbs. Nearer (larger) people are
drawn over farther ones.
"""

from __future__ import annotations

import math
from functools import cache
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from rtmpose_infer.errors import DTypeError, InputError, ShapeError
from rtmpose_infer.options import check_option

if TYPE_CHECKING:
    from rtmpose_infer.preprocess import AnyFrame
    from rtmpose_infer.results import Poses
    from rtmpose_infer.skeletons import Skeleton

__all__ = ["draw_poses"]

Colour = tuple[int, int, int]

# OpenCV's fixed-point coordinates: sub-pixel lines do not tremble when a person moves slowly.
_SHIFT = 4
_ONE = 1 << _SHIFT
_RIM: Colour = (24, 20, 20)
_WHITE: Colour = (250, 250, 250)
# Blue and orange stay apart for every kind of colour blindness. All colours are BGR.
_SIDE_COLOURS: dict[str, Colour] = {"left": (255, 183, 53), "right": (61, 138, 255), "centre": (244, 244, 244)}
_ID_COLOURS: tuple[Colour, ...] = (
    (95, 90, 255),
    (241, 196, 46),
    (51, 194, 255),
    (90, 224, 124),
    (255, 128, 181),
    (176, 211, 34),
    (199, 143, 255),
    (66, 145, 255),
    (255, 155, 108),
    (87, 225, 212),
    (229, 115, 229),
    (196, 229, 242),
)
_RIGHT_SHADE = 0.68
_FONT = cv2.FONT_HERSHEY_DUPLEX
_FULL_HD_AREA = 1920 * 1080


def draw_poses(
    frame: AnyFrame,
    poses: Poses,
    *,
    score_threshold: float = 0.3,
    colour_by: Literal["side", "id"] = "side",
    show_ids: bool = True,
    show_boxes: bool = False,
    out: AnyFrame | None = None,
) -> npt.NDArray[np.uint8]:
    """Return the frame with the poses drawn on it.

    Args:
        frame: (H, W, 3) uint8 BGR; unchanged unless it is also ``out``.
        poses: People in this frame's pixels, of any skeleton.
        score_threshold: Joints with a lower ``keypoint_scores`` are hidden, and limbs with a hidden end.
        colour_by: ``"side"``: left blue, right orange, middle white. ``"id"``: a colour for each person, darker on
            the right side of the body.
        show_ids: Write each person's track id above the head; nothing is written when the poses were not tracked.
        show_boxes: Draw ``poses.bboxes`` too.
        out: (H, W, 3) uint8 C-contiguous array to draw into; pass ``frame`` itself to draw in place without a copy.

    Returns:
        ``out``, or a new array.

    Raises:
        ShapeError: The frame is not (H, W, 3), or ``out`` has another shape.
        DTypeError: The frame or ``out`` is not uint8.
        InputError: An option is of another type or unknown, or ``out`` is read-only or not contiguous.
    """
    picture = _checked_image("frame", frame)
    check_option("score_threshold", score_threshold, "a number", fine=isinstance(score_threshold, Real))
    check_option("colour_by", colour_by, "'side' or 'id'", fine=colour_by in ("side", "id"))
    canvas = np.array(picture, order="C") if out is None else _checked_image("out", out)
    if out is not None and out is not frame:
        if canvas.shape != picture.shape:
            raise ShapeError("out", expected=str(picture.shape), actual=canvas.shape)
        np.copyto(canvas, picture)
    if not (canvas.flags.c_contiguous and canvas.flags.writeable):
        raise InputError("out: expected a writeable C-contiguous array; draw into a copy (leave out=None) instead.")
    height, width = picture.shape[:2]
    # Whole arrays at once: per-joint numpy calls would cost more than the drawing.
    points = poses.keypoints
    reach = (-float(width), -float(height)), (2.0 * width, 2.0 * height)
    with np.errstate(invalid="ignore"):
        # A joint a whole frame outside is junk, and its coordinates may not fit OpenCV's integers.
        inside = ((points > reach[0]) & (points < reach[1])).all(axis=2)
        shown = inside & (poses.keypoint_scores >= score_threshold)
    growth = max(1.0, math.sqrt(height * width / _FULL_HD_AREA))
    points = np.where(shown[:, :, None], points, np.float32(0))
    labels = []
    boxes = np.clip(poses.bboxes, 0, (width, height, width, height)).tolist()  # NaN stays NaN
    sizes = [max(_person_size(points[row][shown[row]]), _box_size(boxes[row])) for row in range(len(points))]
    for row in sorted(range(len(points)), key=sizes.__getitem__):  # far to near
        track_id = None if poses.track_ids is None else int(poses.track_ids[row])
        id_colour = _ID_COLOURS[((row + 1 if track_id is None else track_id) - 1) % len(_ID_COLOURS)]
        seen, size = points[row][shown[row]], sizes[row]
        if show_boxes:
            _draw_box(canvas, poses.bboxes[row], id_colour, size=size, growth=growth)
        if len(seen) == 0:
            continue
        palette = _SIDE_COLOURS if colour_by == "side" else _shades(id_colour)
        _draw_person(canvas, points[row], shown[row], poses.skeleton, palette=palette, size=size, growth=growth)
        if show_ids and track_id is not None:
            labels.append((str(track_id), seen, poses.bboxes[row], id_colour, size))
    # On top of everyone, or a neighbour's limbs would hide them.
    for text, seen, bbox, id_colour, size in labels:
        _draw_label(canvas, text, seen, bbox, colour=id_colour, size=size, growth=growth)
    return canvas


def _checked_image(what: str, image: Any) -> npt.NDArray[np.uint8]:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise DTypeError(what, expected="uint8", actual=getattr(image, "dtype", type(image).__name__))
    if image.ndim != 3 or image.shape[2] != 3:
        raise ShapeError(what, expected="(H, W, 3)", actual=image.shape, hint="Convert it with cv2.cvtColor.")
    return image


def _person_size(points: npt.NDArray[np.float32]) -> float:
    """Return the square root of the extent's area in pixels, for (n, 2) joints; thin extents count as half as wide."""
    if len(points) == 0:
        return 0.0
    low, high = points.min(axis=0), points.max(axis=0)
    return _extent(float(high[0] - low[0]), float(high[1] - low[1]))


def _box_size(bbox: list[float]) -> float:
    """Return about the size that all joints of a person in this box would have, so that few joints are drawn as bold."""
    width, height = bbox[2] - bbox[0], bbox[3] - bbox[1]
    return 0.85 * _extent(width, height) if width > 0 and height > 0 else 0.0  # NaN compares false


def _extent(width: float, height: float) -> float:
    longest = max(width, height)
    return math.sqrt(max(width, longest / 2) * max(height, longest / 2))


@cache
def _shades(colour: Colour) -> dict[str, Colour]:
    blue, green, red = (round(channel * _RIGHT_SHADE) for channel in colour)
    return {"left": colour, "centre": colour, "right": (blue, green, red)}


@cache
def _limbs(skeleton: Skeleton) -> tuple[tuple[int, int, str], ...]:
    """Return first joint, second joint and side of each limb; one between a left and a right joint is in the centre."""
    sides = skeleton.sides
    limbs = []
    for a, b in skeleton.links:
        own = {sides[a], sides[b]} - {"centre"}
        limbs.append((a, b, own.pop() if len(own) == 1 else "centre"))
    return tuple(limbs)


@cache
def _linked(skeleton: Skeleton) -> npt.NDArray[np.bool_]:
    linked = np.zeros(skeleton.num_keypoints, np.bool_)
    linked[[joint for link in skeleton.links for joint in link]] = True
    return linked


def _draw_person(
    canvas: npt.NDArray[np.uint8],
    points: npt.NDArray[np.float32],
    shown: npt.NDArray[np.bool_],
    skeleton: Skeleton,
    *,
    palette: dict[str, Colour],
    size: float,
    growth: float,
) -> None:
    bold = min(max(size / 75, 1.0), 14.0 * growth)
    fixed = np.rint(points * _ONE).astype(np.int64).tolist()
    is_shown = shown.tolist()
    radii = [0.0] * len(fixed)
    lines = []
    for a, b, side in _limbs(skeleton):
        if not (is_shown[a] and is_shown[b]):
            continue
        length = math.dist(fixed[a], fixed[b]) / _ONE
        # Short limbs (fingers, a face far away) must not turn into blobs.
        thick = max(1, round(min(bold, 1 + length / 10)))
        radius = 0.5 + 0.55 * thick
        radii[a], radii[b] = max(radii[a], radius), max(radii[b], radius)
        lines.append((fixed[a], fixed[b], palette[side], thick))
    rim = 2 * max(1, round(bold / 4))
    for start, end, _, thick in lines:
        cv2.line(canvas, start, end, _RIM, thick + (rim if thick > 1 else 2), cv2.LINE_AA, _SHIFT)
    for start, end, colour, thick in lines:
        cv2.line(canvas, start, end, colour, thick, cv2.LINE_AA, _SHIFT)
    sides = skeleton.sides
    loose = shown & ~_linked(skeleton)
    dot = min(max(_person_size(points[loose]) / 90, 0.9), bold)
    is_loose = loose.tolist()
    for joint, point in enumerate(fixed):
        if not is_shown[joint]:
            continue
        radius = dot if is_loose[joint] else (radii[joint] or 0.5 + 0.55 * bold)
        colour = palette[sides[joint]]
        if radius >= 1:
            cv2.circle(canvas, point, round((radius + max(0.8, rim / 3)) * _ONE), _RIM, -1, cv2.LINE_AA, _SHIFT)
            colour = _mixed(colour, _WHITE, 0.55)
        cv2.circle(canvas, point, round(radius * _ONE), colour, -1, cv2.LINE_AA, _SHIFT)


@cache
def _mixed(colour: Colour, other: Colour, share: float) -> Colour:
    blue, green, red = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return blue, green, red


def _draw_box(
    canvas: npt.NDArray[np.uint8], bbox: npt.NDArray[np.float32], colour: Colour, *, size: float, growth: float
) -> None:
    height, width = canvas.shape[:2]
    if not np.isfinite(bbox).all():
        return
    # Box coordinates are edges: the last pixel inside lies one before the far edge.
    x1, y1, x2, y2 = np.clip(bbox, (0, 0, 1, 1), (width - 1, height - 1, width, height)).tolist()
    corners = (round(x1), round(y1)), (round(x2) - 1, round(y2) - 1)
    thick = max(1, round(min(size / 150, 4 * growth)))
    cv2.rectangle(canvas, *corners, _RIM, thick + max(2, round(thick / 2)), cv2.LINE_AA)
    cv2.rectangle(canvas, *corners, colour, thick, cv2.LINE_AA)


def _draw_label(
    canvas: npt.NDArray[np.uint8],
    text: str,
    points: npt.NDArray[np.float32],
    bbox: npt.NDArray[np.float32],
    *,
    colour: Colour,
    size: float,
    growth: float,
) -> None:
    """Write on a pill of the person's colour, above the head and inside the frame."""
    height, width = canvas.shape[:2]
    scale = min(max(size / 420, 0.38), 0.95 * growth)
    stroke = max(1, round(scale))
    (text_w, text_h), _ = cv2.getTextSize(text, _FONT, scale, stroke)
    thick = round(text_h * 1.8)
    rim = max(1, round(thick / 12))
    top = points[points[:, 1].argmin()]
    y = float(top[1])
    if np.isfinite(bbox).all() and bbox[1] > y - size:
        y = min(y, float(bbox[1]))
    reach = thick / 2 + rim
    half = text_w / 2 + reach * 0.55
    x = min(max(float(top[0]), half), max(half, width - 1 - half))
    y = min(max(y - 0.05 * size - reach, reach), max(reach, height - 1 - reach))
    inner = max(0.0, text_w / 2 - 0.22 * thick)
    start = (round((x - inner) * _ONE), round(y * _ONE))
    end = (round((x + inner) * _ONE), round(y * _ONE))
    cv2.line(canvas, start, end, _RIM, thick + 2 * rim, cv2.LINE_AA, _SHIFT)
    cv2.line(canvas, start, end, colour, thick, cv2.LINE_AA, _SHIFT)
    blue, green, red = colour
    dark_text = 0.114 * blue + 0.587 * green + 0.299 * red > 110
    origin = (round(x - text_w / 2), round(y + text_h / 2))
    cv2.putText(canvas, text, origin, _FONT, scale, _RIM if dark_text else _WHITE, stroke, cv2.LINE_AA)
