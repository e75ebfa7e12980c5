"""How well people were followed: identities against truth, and the smoothness and delay of their joints.

Identity figures (IDF1, MOTA, HOTA and what they are made of) come from ``motrics``, which follows TrackEval, the reference
implementation, and takes any similarity; in crowds its switches, and with them MOTA, can differ by a few, since it goes on
with a person's last id over a gap. TrackEval itself cannot be asked for, because it brings an OpenCV that overwrites the
headless one. People are compared by box overlap or, where truth has joints, by object keypoint similarity.

Jitter and lag answer two different questions and are never merged: a filter can always buy one with the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rtmpose_infer.association import match
from rtmpose_infer.errors import BackendUnavailableError, InputError, ShapeError
from rtmpose_infer.evaluation.pose import PERSON_SHARE_OF_BOX
from rtmpose_infer.geometry import box_areas, iou_matrix, oks_matrix
from rtmpose_infer.results import Poses
from rtmpose_infer.skeletons import unnamed_skeleton
from rtmpose_infer.tracker import Proposals, Tracker, TrackerConfig

__all__ = [
    "IdentityReport",
    "MotionReport",
    "PeopleFrame",
    "identity_report",
    "keypoint_jitter",
    "keypoint_lag",
    "matched_motion_report",
    "motion_report",
    "people_from_poses",
    "track_boxes",
    "track_recorded",
    "tracks_jitter",
]

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]
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

    @classmethod
    def empty(cls, like: PeopleFrame | None = None) -> PeopleFrame:
        """Return a frame without people, with joints where ``like`` has them."""
        joints = None if like is None or like.keypoints is None else like.keypoints[:0]
        return cls(np.zeros(0, np.int64), np.zeros((0, 4), np.float32), joints)


@dataclass(frozen=True)
class IdentityReport:
    """Identity figures of one sequence, or of several together; shares are NaN where truth has nobody to be found.

    Attributes:
        idf1: Harmonic mean of identity precision and recall (Ristani et al. 2016), 0 to 1.
        mota: 1 − (misses + false alarms + switches) / truth (CLEAR MOT, Bernardin and Stiefelhagen 2008).
        hota: Higher order tracking accuracy (Luiten et al. 2021), 0 to 1.
        deta: Its detection part.
        assa: Its association part.
        id_switches: Times that a person went on under another id.
        fragmentations: Times that a person was lost and found again.
        reused_ids: Times that an id vanished with one person and came back on another.
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
    reused_ids: int
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
    """Steadiness and timeliness of joints against truth; NaN where there is nothing to judge, as where nobody was found.

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

    Two people are the same where their similarity reaches ``threshold``: box overlap, or object keypoint similarity
    over the joints that truth knows when ``sigmas`` is given. Who is ignored in truth is taken out first, together with
    the tracked person who matches best, as the MOTChallenge does with people behind glass.

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
    numbers, true_ids, found_ids, similarities, pairs = [], [], [], [], []
    for number, (there, found) in enumerate(zip(truth, tracked, strict=True)):
        if not (len(there.ids) or len(found.ids)):
            continue  # such frames bear on no figure, and one high frame number makes millions of them
        similarity = _similarity(there, found, sigmas)
        if there.ignored is not None and there.ignored.any():
            matched = _matched(similarity, threshold)
            dropped = np.zeros(len(found.ids), bool)
            dropped[[col for row, col in matched if there.ignored[row]]] = True
            similarity = similarity[~there.ignored][:, ~dropped]
            there = PeopleFrame(there.ids[~there.ignored], there.bboxes[~there.ignored])  # noqa: PLW2901
            found = PeopleFrame(found.ids[~dropped], found.bboxes[~dropped])  # noqa: PLW2901
        numbers.append(number)
        true_ids.append(there.ids.tolist())
        found_ids.append(found.ids.tolist())
        similarities.append(similarity.astype(np.float64).tolist())
        pairs.append(_matched(similarity, threshold))
    clear = motrics.compute_clear_from_similarity(true_ids, found_ids, similarities, threshold)
    identity = motrics.compute_identity_from_similarity(true_ids, found_ids, similarities, threshold)
    hota = motrics.compute_hota_from_similarity(true_ids, found_ids, similarities)
    known = 1.0 if clear.num_gt else math.nan
    return IdentityReport(
        idf1=known * identity.idf1,
        mota=known * clear.mota,
        hota=known * hota.hota,
        deta=known * hota.deta,
        assa=known * hota.assa,
        id_switches=clear.num_switches,
        fragmentations=clear.frag,
        reused_ids=_reused(numbers, true_ids, found_ids, pairs),
        misses=clear.num_misses,
        false_alarms=clear.num_false_positives,
        truth=clear.num_gt,
        precision=clear.clr_pr,
        recall=known * clear.clr_re,
        ids=len({i for ids in found_ids for i in ids}),
        people=len({i for ids in true_ids for i in ids}),
        frames=len(truth),
    )


def people_from_poses(poses: Poses) -> PeopleFrame:
    """Return tracked poses as people to compare.

    Raises:
        InputError: The poses were not tracked.
    """
    if poses.track_ids is None:
        raise InputError("the poses carry no track ids; track them first.")
    return PeopleFrame(poses.track_ids, poses.bboxes, poses.keypoints)


def track_recorded(frames: Sequence[Poses], config: TrackerConfig | None = None) -> list[Poses]:
    """Return recorded poses of single frames as one stream with identities.

    Args:
        frames: Poses of successive frames, as if the detector had run on each; without times, 30 frames a second.
        config: Settings of the tracking; ``det_interval`` has no effect.
    """
    if not frames:
        return []
    tracker = Tracker(frames[0].skeleton, config)
    tracked = []
    for number, poses in enumerate(frames):
        time_s = number / 30 if poses.timestamp_s is None else poses.timestamp_s
        tracked.append(_tracked(tracker, replace(poses, track_ids=None), time_s))
    return tracked


def track_boxes(frames: Sequence[PeopleFrame], scores: Sequence[Floats]) -> list[PeopleFrame]:
    """Return detected boxes as one stream with identities, at 30 frames a second.

    They are followed as poses of five joints, the corners and the centre.

    Args:
        frames: The boxes of successive frames; their ids are not looked at.
        scores: (N,) of each frame.
    """
    skeleton = unnamed_skeleton(5)
    spots = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0.5]], np.float32)
    tracker = Tracker(skeleton)
    people = [PeopleFrame.empty()] * len(frames)
    for number, (frame, score) in enumerate(zip(frames, scores, strict=True)):
        if not len(frame.ids) and tracker.is_idle:
            continue
        sides = frame.bboxes[:, 2:] - frame.bboxes[:, :2]
        joints = (frame.bboxes[:, None, :2] + spots * sides[:, None]).astype(np.float32)
        sure = np.ones(joints.shape[:2], np.float32)
        bboxes, box_scores = frame.bboxes.astype(np.float32), score.astype(np.float32)
        found = people_from_poses(_tracked(tracker, Poses(joints, sure, bboxes, box_scores, skeleton), number / 30))
        people[number] = PeopleFrame(found.ids, found.bboxes)
    return people


def _tracked(tracker: Tracker, poses: Poses, timestamp_s: float) -> Poses:
    """Return a frame's poses as a tracker follows them if the detector found every one."""
    proposals = Proposals(
        bboxes=poses.bboxes,
        bbox_scores=poses.bbox_scores,
        track_ids=np.zeros(len(poses), np.int64),
        detected=np.ones(len(poses), bool),
    )
    return tracker.update(proposals, poses, timestamp_s=timestamp_s, detected=True)


def tracks_jitter(tracked: Sequence[PeopleFrame]) -> float:
    """Return the root mean square acceleration of the joints of everybody, in pixels per frame squared.

    Only stretches of frames without a gap count; NaN where there are none.

    Raises:
        InputError: A frame has people without joints.
    """
    places: dict[int, list[tuple[int, Floats]]] = {}
    for number, frame in enumerate(tracked):
        if frame.keypoints is None and len(frame.ids):
            raise InputError("jitter needs joints; these people have only boxes.")
        for person, joints in zip(frame.ids.tolist(), () if frame.keypoints is None else frame.keypoints, strict=True):
            places.setdefault(person, []).append((number, joints))
    squared: list[Floats] = []
    for steps in places.values():
        numbers = np.array([number for number, _ in steps])
        joints = np.array([place for _, place in steps], np.float64)
        if len(numbers) >= 3:
            unbroken = (np.diff(numbers, 2) == 0) & (numbers[2:] - numbers[:-2] == 2)
            accelerations = (np.diff(joints, 2, axis=0)[unbroken] ** 2).sum(axis=-1)
            squared.append(accelerations[np.isfinite(accelerations)])
    return _root_mean(np.concatenate(squared)) if squared else math.nan


def matched_motion_report(
    truth: Sequence[PeopleFrame], tracked: Sequence[PeopleFrame], *, sigmas: Floats, threshold: float = 0.5
) -> MotionReport:
    """Return steadiness and timeliness of the joints of everybody who was found, under whatever id.

    Args:
        truth: Who was there, with joints, frame by frame.
        tracked: Who was found in the same frames, with the same joints.
        sigmas: (K,) OKS sigmas, to find out who is who.
        threshold: OKS from which a tracked person is a true one.

    Raises:
        InputError: The numbers of frames differ, or joints are missing.
    """
    if len(truth) != len(tracked):
        raise InputError(f"truth has {len(truth)} frames and tracked has {len(tracked)}; expected as many.")
    people = sorted({int(i) for frame in truth for i in frame.ids})
    column = {person: i for i, person in enumerate(people)}
    shape = (len(truth), len(people), len(sigmas), 2)
    there, found = np.full(shape, np.nan), np.full(shape, np.nan)
    sizes = np.full(shape[:2], np.nan)
    for number, (true, seen) in enumerate(zip(truth, tracked, strict=True)):
        for row, col in _matched(_similarity(true, seen, sigmas), threshold):
            if true.keypoints is None or seen.keypoints is None:
                raise InputError("steadiness and lag need joints of truth and of tracked people.")
            person = column[int(true.ids[row])]
            there[number, person], found[number, person] = true.keypoints[row], seen.keypoints[col]
            sizes[number, person] = np.sqrt(box_areas(true.bboxes[row : row + 1])[0])
    return motion_report(there, found, sizes_px=np.nan_to_num(sizes, nan=1.0)[..., None])


def keypoint_jitter(keypoints: Floats) -> float:
    """Return the root mean square acceleration of joints, in pixels per frame squared; NaN where none is known.

    Args:
        keypoints: (T, ..., 2) places over T frames; NaN where unknown, and what touches it does not count.

    >>> keypoint_jitter(np.array([[0.0, 0], [1, 0], [2, 0], [3, 0]]))
    0.0
    """
    squared = (np.diff(np.asarray(keypoints, np.float64), 2, axis=0) ** 2).sum(axis=-1)
    known = np.isfinite(squared)
    return _root_mean(squared[known])


def keypoint_lag(truth: Floats, estimate: Floats, *, moving: Bools | None = None) -> float:
    """Return by how many frames an estimate trails the truth: the delay at which both agree best.

    The delay that minimises the squared distance between ``estimate[t]`` and ``truth[t − delay]``, found exactly for a
    truth that moves straight between frames; between −2 and 15, over fewer than 19 frames between −2 and 2. NaN where
    nothing can be compared.

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
    best_cost, best_lag = np.inf, math.nan
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
        moving_speed: A joint moves when its true speed reaches this share of a thirtieth of the body size per frame;
            0.6 is 0.6 body sizes a second at 30 frames a second.
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
    return float(np.sqrt(squared.mean())) if squared.size else math.nan


def _reused(
    numbers: list[int], true_ids: list[list[int]], found_ids: list[list[int]], pairs: list[list[tuple[int, int]]]
) -> int:
    """Return how often an id was absent, and then shown on somebody else than before."""
    last_seen: dict[int, int] = {}
    last_person: dict[int, int] = {}
    returning: set[int] = set()
    reused = 0
    for number, there, shown, matched in zip(numbers, true_ids, found_ids, pairs, strict=True):
        returning.update(i for i in shown if last_seen.get(i, number) < number - 1)
        last_seen.update(dict.fromkeys(shown, number))
        for row, col in matched:
            person, i = there[row], shown[col]
            reused += i in returning and last_person.get(i, person) != person
            returning.discard(i)
            last_person[i] = person
    return reused


def _similarity(there: PeopleFrame, found: PeopleFrame, sigmas: Floats | None) -> Floats:
    if not len(there.ids) or not len(found.ids):
        return np.zeros((len(there.ids), len(found.ids)))
    if sigmas is None:
        return np.asarray(iou_matrix(there.bboxes, found.bboxes), np.float64)
    if there.keypoints is None or found.keypoints is None:
        raise InputError("to compare people by joints, truth and tracked people both need keypoints.")
    areas = box_areas(there.bboxes) * PERSON_SHARE_OF_BOX
    # A joint that truth knows and the tracker does not report counts as wrong, so it must not drop out as unknown.
    points = np.where(np.isfinite(found.keypoints), found.keypoints, 1e7)
    return np.asarray(oks_matrix(points, there.keypoints, areas=areas, sigmas=sigmas).T, np.float64)


def _matched(similarity: Floats, threshold: float) -> list[tuple[int, int]]:
    """Return the pairs of the greatest total similarity among those that reach the threshold."""
    rows, cols = match(similarity, similarity >= threshold)
    return list(zip(rows.tolist(), cols.tolist(), strict=True))
