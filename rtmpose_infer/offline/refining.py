"""What needs the whole video: joining the pieces of a person's track, and smoothing without lag."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rtmpose_infer.association import match

__all__ = ["Piece", "advancing_times", "joined_ids", "smooth_two_way"]

Floats = npt.NDArray[np.float32]

_PLACE_SPREAD = 0.5  # standard deviation of the place after one second out of sight, body sizes
_SIZE_SPREAD = 0.35  # of the logarithm of the size
_AGREEING = 5  # joints from which what they have in common is the body's motion
_NOMINAL_STEP_S = 1 / 30
_FEWEST_TURNS = 5  # frames of alternating views that tell by how much the views differ


@dataclass(frozen=True, eq=False)
class Piece:
    """An unbroken stretch of one person's track.

    Attributes:
        track_id: Its id.
        start_s: Time of its first frame in seconds.
        end_s: Time of its last frame.
        first_bbox: (4,) box in its first frame.
        last_bbox: (4,) box in its last frame.
        first_velocity: (2,) pixels per second at its start.
        last_velocity: (2,) at its end.
    """

    track_id: int
    start_s: float
    end_s: float
    first_bbox: Floats
    last_bbox: Floats
    first_velocity: Floats
    last_velocity: Floats


def joined_ids(pieces: list[Piece], *, longest_gap_s: float) -> dict[int, int]:
    """Return the id that each piece's id becomes when pieces of one person are joined; the earliest id wins.

    Two pieces may be one person when the second begins after the first has ended, within ``longest_gap_s``, at the
    place where both motions, carried on into the gap, meet. All pairs are decided at once.
    """
    if len(pieces) < 2:
        return {p.track_id: p.track_id for p in pieces}
    pieces = sorted(pieces, key=lambda p: p.start_s)
    ends = np.array([p.end_s for p in pieces])
    starts = np.array([p.start_s for p in pieces])
    gaps = starts[None] - ends[:, None]
    possible = (gaps > 0) & (gaps <= longest_gap_s)
    last, first = np.stack([p.last_bbox for p in pieces]), np.stack([p.first_bbox for p in pieces])
    sizes_last, sizes_first = _sizes(last), _sizes(first)
    # A motion is trusted for half a second; after that people have turned or stopped.
    trusted = np.clip(gaps, 0, 0.5)[..., None]
    ahead = _centers(last)[:, None] + trusted / 2 * np.stack([p.last_velocity for p in pieces])[:, None]
    back = _centers(first)[None] - trusted / 2 * np.stack([p.first_velocity for p in pieces])[None]
    size = np.sqrt(sizes_last[:, None] * sizes_first[None])
    away = np.linalg.norm(ahead - back, axis=2) / size / (_PLACE_SPREAD * np.sqrt(np.maximum(gaps, 1 / 30)) + 0.15)
    grown = np.log(sizes_first[None] / sizes_last[:, None]) / _SIZE_SPREAD
    likeness = np.exp(-(away**2 + grown**2) / 2).astype(np.float32)
    rows, cols = match(likeness, possible & (likeness > 0.6))
    becomes = {p.track_id: p.track_id for p in pieces}
    for col, row in sorted(zip(cols.tolist(), rows.tolist(), strict=True)):  # by start, so chains resolve forward
        becomes[pieces[col].track_id] = becomes[pieces[row].track_id]
    return becomes


def advancing_times(times_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return (T,) times in which frames at one and the same time are spread evenly up to the next.

    Two frames that a file gives the same time were not taken at the same time, and what moved between them is no noise.

    Args:
        times_s: (T,) ascending seconds, which may stand still.

    >>> advancing_times(np.array([0.0, 0.0, 1.0, 1.0])).tolist()
    [0.0, 0.5, 1.0, 1.5]
    """
    count = len(times_s)
    first = np.flatnonzero(np.diff(times_s, prepend=-np.inf) > 0)
    if len(first) == count:
        return times_s
    step = (times_s[-1] - times_s[0]) / first[-1] if first[-1] else _NOMINAL_STEP_S  # mean, for what has no next time
    end = times_s[-1] + step * (count - first[-1])
    return np.asarray(np.interp(np.arange(count), [*first, count], [*times_s[first], end]), np.float64)


def smooth_two_way(
    keypoints: Floats,
    scores: Floats,
    times_s: npt.NDArray[np.float64],
    *,
    width_s: float,
    views: npt.NDArray[np.integer] | None = None,
) -> Floats:
    """Return keypoints smoothed with the frames before and after, so without lag.

    A parabola is fitted around every frame by weighted least squares (Savitzky and Golay 1964, with real times and a
    Gaussian window); weights grow with the joint's score, and joints far from a first fit count little in the
    second, so that one wild joint does not bend its neighbours. What all joints deviate by at once is a jerk of the
    body or of the camera, not noise, and is left in.

    Args:
        keypoints: (T, K, 2) float32 of one person; NaN where there is none.
        scores: (T, K) float32.
        times_s: (T,) ascending seconds; need not be regular.
        width_s: Standard deviation of the window.
        views: (T,) what the network saw: 1 the crop, −1 the mirrored one, 0 both. By how much the two differ on the
            whole is taken out first: all joints may lie to one side in one view and to the other in the next, which
            would look like a jerk of the body in every frame.

    Returns:
        (T, K, 2) float32; NaN stays NaN.
    """
    known: npt.NDArray[np.bool_] = np.asarray(np.isfinite(keypoints[..., 0]) & (scores > 0))
    if views is not None:
        keypoints = keypoints - views[:, None, None] * _sway(keypoints, views)
    values = np.where(known[..., None], keypoints, 0).astype(np.float64)
    weights = np.where(known, np.clip(scores, 0.05, 1) ** 2, 0).astype(np.float64)
    fitted = _parabola(values, weights, times_s, width_s)
    common = _common_motion(values - fitted, known)[:, None]
    residual = np.linalg.norm(values - common - fitted, axis=2)
    person = np.sqrt(np.maximum(_extent(values, known), 1.0))[:, None]
    doubt = 1 / (1 + (residual / (0.06 * person)) ** 2) ** 2
    fitted = _parabola(values - common, weights * doubt, times_s, width_s) + common
    return np.where(known[..., None], fitted, np.nan).astype(np.float32)


def _sway(keypoints: Floats, views: npt.NDArray[np.integer]) -> Floats:
    """Return (K, 2) half the median offset of each joint in view 1 from where it lies in view −1, in pixels."""
    sides = views[1:-1, None, None] * (keypoints[1:-1] - (keypoints[:-2] + keypoints[2:]) / 2) / 2
    turns = (views[1:-1] != 0) & (views[:-2] == -views[1:-1]) & (views[2:] == -views[1:-1])
    sides = sides[turns]
    told = np.isfinite(sides).sum(axis=0) >= _FEWEST_TURNS
    sides[:, ~told] = 0
    return np.asarray(np.nanmedian(sides, axis=0) if len(sides) else np.zeros(told.shape), np.float32)


def _parabola(
    values: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    times_s: npt.NDArray[np.float64],
    width_s: float,
) -> npt.NDArray[np.float64]:
    """Fit a + b·dt + c·dt² around each time; return a. Falls back to lower orders where too few frames carry weight."""
    count = len(times_s)
    step = np.median(np.diff(times_s)) if count > 1 else width_s
    reach = max(1, min(count - 1, int(np.ceil(3 * width_s / max(step, 1e-6))))) if count > 1 else 0
    s = np.zeros((5, *weights.shape))
    m = np.zeros((3, *values.shape))
    for offset in range(-reach, reach + 1):
        here = slice(max(0, -offset), count - max(0, offset))
        there = slice(max(0, offset), count - max(0, -offset))
        dt = (times_s[there] - times_s[here]) / width_s
        w = weights[there] * np.exp(-(dt**2) / 2)[:, None]
        powers = dt[:, None] ** np.arange(5)[:, None, None]
        s[:, here] += powers * w
        m[:, here] += powers[:3, ..., None] * (w[..., None] * values[there])
    # A little ridge on slope and curvature: with one frame it is that frame, with two their mean line.
    ridge = 1e-3 * s[0] + 1e-9
    s2, s4 = s[2] + ridge, s[4] + ridge
    determinant = s[0] * (s2 * s4 - s[3] ** 2) - s[1] * (s[1] * s4 - s[3] * s[2]) + s[2] * (s[1] * s[3] - s2 * s[2])
    top = (
        m[0] * (s2 * s4 - s[3] ** 2)[..., None]
        - m[1] * (s[1] * s4 - s[2] * s[3])[..., None]
        + m[2] * (s[1] * s[3] - s[2] * s2)[..., None]
    )
    least = 1e-12 * np.maximum(s[0], 1e-12) ** 3  # of frames that carry next to no weight as of others
    return np.where((determinant > least)[..., None], top / np.maximum(determinant, least)[..., None], values)


def _common_motion(residual: npt.NDArray[np.float64], known: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return (T, 2) by how much the body as one deviates, as far as its joints agree on it."""
    count = known.sum(axis=1)[:, None]
    some = np.where(known[..., None], residual, np.nan)
    some[count[:, 0] == 0] = 0
    middle = np.nanmedian(some, axis=1)
    spread = 1.48 * np.nanmedian(np.abs(some - middle[:, None]), axis=1)
    doubt = spread**2 * np.pi / 2 / np.maximum(count, 1)  # variance of the median
    share = np.where(count >= _AGREEING, np.maximum(1 - 9 * doubt / np.maximum(middle**2, 1e-12), 0), 0)
    return np.asarray(share * middle, np.float64)


def _extent(values: npt.NDArray[np.float64], known: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return (T,) areas of the boxes around the known joints."""
    low = np.where(known[..., None], values, np.inf).min(axis=1)
    high = np.where(known[..., None], values, -np.inf).max(axis=1)
    anyone = np.asarray(known.any(axis=1))
    sides = np.where(anyone[:, None], high - low, 0)
    return np.asarray(np.prod(np.maximum(sides, 0), axis=1), np.float64)


def _centers(bboxes: Floats) -> Floats:
    return np.asarray((bboxes[:, :2] + bboxes[:, 2:]) / 2, np.float32)


def _sizes(bboxes: Floats) -> Floats:
    sides = np.maximum(bboxes[:, 2:] - bboxes[:, :2], 1)
    return np.asarray(np.sqrt(sides[:, 0] * sides[:, 1]), np.float32)
