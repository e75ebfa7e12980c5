"""How well people were followed: identities against truth, and the smoothness and delay of their joints.

Identity figures (IDF1, MOTA, HOTA and what they are made of) come from ``motrics``, which is checked against TrackEval, the
reference implementation, and takes any similarity; TrackEval itself cannot be asked for, because it brings an OpenCV that
overwrites the headless one. People are compared by box overlap or, where truth has joints, by object keypoint similarity.

Jitter and lag answer two different questions and are never merged: a filter can always buy one with the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rtmpose_infer.association import match
from rtmpose_infer.errors import BackendUnavailableError, InputError, ShapeError
from rtmpose_infer.geometry import box_areas, iou_matrix, oks_matrix

__all__ = [
    "IdentityReport",
    "MotionReport",
    "PeopleFrame",
    "identity_report",
    "keypoint_jitter",
    "keypoint_lag",
    "motion_report",
]

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]
_PERSON_SHARE_OF_BOX = 0.53  # COCO's persons fill this share of their boxes at the median
_LARGEST_LAG = 15  # frames


@dataclass(frozen=True, eq=False)
class PeopleFrame:
    """The people of one frame, true or tracked.

    Attributes:
        ids: (N,) int64.
        bboxes: (N, 4) x1 y1 x2 y2 in frame pixels.
        keypoints: (N, K, 2) frame pixels, NaN where unknown; None when only boxes are known.
        ignored: (N,) bool; of truth: people whom nobody has to find, and whom it is no mistake to find. None: nobody.
    """

    ids: npt.NDArray[np.int64]
    bboxes: Floats
    keypoints: Floats | None = None
    ignored: Bools | None = None

    def __post_init__(self) -> None:
        count = len(self.ids)
        for name, shape in (("bboxes", (count, 4)), ("ignored", (count,))):
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ShapeError(f"PeopleFrame.{name}", expected=str(shape), actual=value.shape)
        if self.keypoints is not None and (self.keypoints.ndim != 3 or len(self.keypoints) != count):
            raise ShapeError("PeopleFrame.keypoints", expected=f"({count}, K, 2)", actual=self.keypoints.shape)
        if len(set(self.ids.tolist())) != count:
            raise InputError(f"PeopleFrame.ids: expected every id once in a frame, got {sorted(self.ids.tolist())}.")


@dataclass(frozen=True)
class IdentityReport:
    """Identity figures of one sequence, or of several together.

    Attributes:
        idf1: Harmonic mean of identity precision and recall (Ristani et al. 2016), 0 to 1.
        mota: 1 − (misses + false alarms + switches) / truth (CLEAR MOT, Bernardin and Stiefelhagen 2008).
        hota: Higher order tracking accuracy (Luiten et al. 2021), 0 to 1.
        deta: Its detection part.
        assa: Its association part.
        id_switches: Times that a person went on under another id.
        fragmentations: Times that a person was lost and found again.
        misses: People × frames not found.
        false_alarms: People × frames found where nobody is.
        truth: People × frames to be found.
        precision: Share of what was found that is true.
        recall: Share of truth that was found.
        ids: Ids given out.
        people: People there are.
        frames: Frames.
    """

    idf1: float
    mota: float
    hota: float
    deta: float
    assa: float
    id_switches: int
    fragmentations: int
    misses: int
    false_alarms: int
    truth: int
    precision: float
    recall: float
    ids: int
    people: int
    frames: int

    def as_dict(self) -> dict[str, float]:
        """Return the figures by name."""
        return asdict(self)


@dataclass(frozen=True)
class MotionReport:
    """Steadiness and timeliness of joints against truth.

    Attributes:
        error_px: Root mean square distance from the truth.
        moving_error_px: The same over moving joints.
        jitter_px: Root mean square acceleration, pixels per frame squared.
        truth_jitter_px: The same of the truth.
        lag_frames: Delay of moving joints.
    """

    error_px: float
    moving_error_px: float
    jitter_px: float
    truth_jitter_px: float
    lag_frames: float

    def as_dict(self) -> dict[str, float]:
        """Return the figures by name."""
        return asdict(self)


def identity_report(
    truth: Sequence[PeopleFrame],
    tracked: Sequence[PeopleFrame],
    *,
    threshold: float = 0.5,
    sigmas: Floats | None = None,
) -> IdentityReport:
    """Return the identity figures of one sequence.

    Two people are the same where their similarity reaches ``threshold``: box overlap, or object keypoint similarity over
    the joints that truth knows when ``sigmas`` is given. Who is ignored in truth is taken out first, together with the
    tracked person who matches best, as the MOTChallenge does with people behind glass.

    Args:
        truth: Who was there, frame by frame.
        tracked: Who was found in the same frames.
        threshold: Between 0 and 1.
        sigmas: (K,) OKS sigmas, to compare by joints; None compares boxes.

    Raises:
        InputError: The numbers of frames differ, or joints are asked for and missing.
        BackendUnavailableError: ``motrics`` is not installed.
    """
    try:
        import motrics  # an optional extra
    except ImportError as error:
        raise BackendUnavailableError(
            "tracking figures need the package motrics; install it with: pip install 'rtmpose-infer[eval]'"
        ) from error
    if len(truth) != len(tracked):
        raise InputError(f"truth has {len(truth)} frames and tracked has {len(tracked)}; expected as many.")
    true_ids, found_ids, similarities = [], [], []
    for there, found in zip(truth, tracked, strict=True):
        similarity = _similarity(there, found, sigmas)
        if there.ignored is not None and there.ignored.any():
            matched = _matched(similarity, threshold)
            dropped = np.zeros(len(found.ids), bool)
            dropped[[col for row, col in matched if there.ignored[row]]] = True
            similarity = similarity[~there.ignored][:, ~dropped]
            there = PeopleFrame(there.ids[~there.ignored], there.bboxes[~there.ignored])  # noqa: PLW2901
            found = PeopleFrame(found.ids[~dropped], found.bboxes[~dropped])  # noqa: PLW2901
        true_ids.append(there.ids.tolist())
        found_ids.append(found.ids.tolist())
        similarities.append(similarity.astype(np.float64).tolist())
    clear = motrics.compute_clear_from_similarity(true_ids, found_ids, similarities, threshold)
    identity = motrics.compute_identity_from_similarity(true_ids, found_ids, similarities, threshold)
    hota = motrics.compute_hota_from_similarity(true_ids, found_ids, similarities)
    return IdentityReport(
        idf1=identity.idf1,
        mota=clear.mota,
        hota=hota.hota,
        deta=hota.deta,
        assa=hota.assa,
        id_switches=clear.num_switches,
        fragmentations=clear.frag,
        misses=clear.num_misses,
        false_alarms=clear.num_false_positives,
        truth=clear.num_gt,
        precision=clear.clr_pr,
        recall=clear.clr_re,
        ids=len({i for ids in found_ids for i in ids}),
        people=len({i for ids in true_ids for i in ids}),
        frames=len(truth),
    )


def keypoint_jitter(keypoints: Floats) -> float:
    """Return the root mean square acceleration of joints, in pixels per frame squared.

    Args:
        keypoints: (T, ..., 2) places over T frames; NaN where unknown, and what touches it does not count.

    >>> keypoint_jitter(np.array([[0.0, 0], [1, 0], [2, 0], [3, 0]]))
    0.0
    """
    squared = (np.diff(np.asarray(keypoints, np.float64), 2, axis=0) ** 2).sum(axis=-1)
    known = np.isfinite(squared)
    return float(np.sqrt(squared[known].mean())) if known.any() else 0.0


def keypoint_lag(truth: Floats, estimate: Floats, *, moving: Bools | None = None) -> float:
    """Return by how many frames an estimate trails the truth: the delay at which both agree best.

    The delay that minimises the squared distance between ``estimate[t]`` and ``truth[t − delay]``, found exactly for a truth
    that moves straight between frames; between −2 and 15.

    Args:
        truth: (T, ..., 2) places over T frames, NaN where unknown.
        estimate: The same shape.
        moving: (T, ...) bool, what to look at; None: everything.

    >>> path = np.cumsum(np.linspace(0, 3, 40))[:, None] * np.ones(2)
    >>> round(keypoint_lag(path[5:], path[3:-2]), 3)
    2.0
    """
    truth, estimate = np.asarray(truth, np.float64), np.asarray(estimate, np.float64)
    frames = len(truth)
    first, last = _LARGEST_LAG + 1, frames - 2
    if last <= first:
        first, last = min(3, frames), max(frames - 2, 0)
    finite = np.asarray(np.isfinite(estimate).all(axis=-1))
    known = finite if moving is None else moving & finite
    best_cost, best_lag = np.inf, 0.0
    for whole in range(-2, first - 1):
        near, far = truth[first - whole : last - whole], truth[first - whole - 1 : last - whole - 1]
        chosen = known[first:last] & np.isfinite(near).all(axis=-1) & np.isfinite(far).all(axis=-1)
        if not chosen.any():
            continue
        apart, step = (estimate[first:last] - near)[chosen], (far - near)[chosen]
        share = float(np.clip((apart * step).sum() / max((step**2).sum(), 1e-12), 0, 1))
        cost = float(((apart - share * step) ** 2).mean())
        if cost < best_cost:
            best_cost, best_lag = cost, whole + share
    return best_lag


def motion_report(truth: Floats, estimate: Floats, *, sizes_px: Floats, moving_speed: float = 0.6) -> MotionReport:
    """Return steadiness and timeliness of joints, from (T, ..., 2) truth and estimate, NaN where unknown.

    Args:
        truth: (T, ..., 2) places over T frames.
        estimate: The same shape.
        sizes_px: Body sizes (square root of the box's area), of a shape that broadcasts to (T, ...).
        moving_speed: A joint moves when its true speed reaches this share of a thirtieth of the body size per frame; 0.6
            is 0.6 body sizes a second at 30 frames a second.
    """
    truth, estimate = np.asarray(truth, np.float64), np.asarray(estimate, np.float64)
    known = np.asarray(np.isfinite(truth).all(axis=-1) & np.isfinite(estimate).all(axis=-1))
    squared = np.where(known, ((truth - estimate) ** 2).sum(axis=-1), np.nan)
    speed = np.zeros(truth.shape[:-1])
    speed[1:-1] = np.sqrt((((truth[2:] - truth[:-2]) / 2) ** 2).sum(axis=-1))
    moving = known & (np.nan_to_num(speed) >= moving_speed / 30 * np.asarray(sizes_px))
    both = np.where(known[..., None], estimate, np.nan)
    return MotionReport(
        error_px=_root_mean(squared[known]),
        moving_error_px=_root_mean(squared[moving]),
        jitter_px=keypoint_jitter(both),
        truth_jitter_px=keypoint_jitter(np.where(known[..., None], truth, np.nan)),
        lag_frames=keypoint_lag(truth, both, moving=moving),
    )


def _root_mean(squared: Floats) -> float:
    return float(np.sqrt(squared.mean())) if squared.size else 0.0


def _similarity(there: PeopleFrame, found: PeopleFrame, sigmas: Floats | None) -> Floats:
    if not len(there.ids) or not len(found.ids):
        return np.zeros((len(there.ids), len(found.ids)))
    if sigmas is None:
        return np.asarray(iou_matrix(there.bboxes, found.bboxes), np.float64)
    if there.keypoints is None or found.keypoints is None:
        raise InputError("to compare people by joints, truth and tracked people both need keypoints.")
    areas = box_areas(there.bboxes) * _PERSON_SHARE_OF_BOX
    # A joint that truth knows and the tracker does not report counts as wrong, so it must not drop out as unknown.
    points = np.where(np.isfinite(found.keypoints), found.keypoints, 1e7)
    return np.asarray(oks_matrix(points, there.keypoints, areas=areas, sigmas=sigmas).T, np.float64)


def _matched(similarity: Floats, threshold: float) -> list[tuple[int, int]]:
    """Return the pairs of the greatest total similarity among those that reach the threshold."""
    rows, cols = match(similarity, similarity >= threshold)
    return list(zip(rows.tolist(), cols.tolist(), strict=True))
