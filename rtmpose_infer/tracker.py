"""Identity: poses in, poses with ids out, for one stream of frames; pure numpy, no model and no clock inside.

One frame is three calls, and only the last one changes anything, so a frame that fails in a model leaves the tracker as
it was::

    detections = detector(frame) if tracker.detection_due(t, size) else None
    proposals = tracker.propose(detections, timestamp_s=t, frame_size_wh=size)      # whose pose to estimate
    poses = tracker.update(proposals, pose_network(frame, proposals.bboxes), timestamp_s=t, detected=...)

The decisions this file carries:

- A body moves as one. Each track has one motion filter (centre and log-size with their velocities, white acceleration,
  everything in body sizes, so that near and far people behave alike); its last pose rides along rigidly. A filter per
  joint lets joints wander off and takes identities with them.
- A pose grown from a track's own box is evidence, not proof: when people cross, the crop of the one behind shows the
  one in front. So duplicates among the poses are removed first, and then one global assignment on pose and box likeness
  says who is who; growing from the own box is only a bonus.
- A person who is covered is lost, not gone: the track coasts on with fading speed and growing uncertainty for
  ``track_lost_s``. Pose inference is spent on it only after 1, 2, 4, 8, … frames without it; a detection near the
  expected place finds it too.
- A newcomer with good evidence (detector and joints) is shown at once; with weak evidence only when a second detection
  supports it. Tracks start at detections only, so a pose that slid onto something else never founds an identity.
- Boxes follow the joints with the margins learned from the last detection of the same person, and joints far outside
  the expected box do not count, so neither a bust shot nor a stray wrist makes a wrong crop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from rtmpose_infer.association import match, pose_similarity
from rtmpose_infer.errors import InputError, ShapeError
from rtmpose_infer.geometry import clip_boxes, iou_matrix
from rtmpose_infer.results import Detections, Poses
from rtmpose_infer.smoothing import NoSmoother, OneEuroConfig, OneEuroSmoother, Smoother, SmoothingState
from rtmpose_infer.stages import NO_CLOCK, StageClock

if TYPE_CHECKING:
    from rtmpose_infer.skeletons import Skeleton

__all__ = ["Proposals", "Tracker", "TrackerConfig", "TrackerStats"]

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp]

_NOMINAL_STEP_S = 1 / 30
_ACCELERATION = 6.0  # body sizes per second squared; a body size is about a metre for a person on foot
_INITIAL_SPEED = 1.5  # standard deviation, body sizes per second
_PLACE_NOISE = 0.04  # standard deviation of a measured place, body sizes
_SCALE_ACCELERATION = 0.6  # of the logarithm of the size, per second squared
_SCALE_SPEED = 0.2
_SCALE_NOISE = 0.06
_COASTING_S = 0.7  # time constant with which the speed of a person out of sight fades
_OWN_BONUS = 0.15
_LEAST_LIKENESS = 0.2
_LEAST_RECOVERY = 0.1
_STRAY_MARGIN = 0.35  # joints further outside the expected box than this share of its sides do not shape the new one


@dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """How people are followed.

    Attributes:
        det_interval: Run the detector on every n-th frame, or ``"auto"``: when the tracker's own evidence asks for it.
        max_det_interval: With ``"auto"``, the longest time between two detections, in frames.
        track_lost_s: Seconds for which someone out of sight can come back under the same id.
        keypoint_threshold: Joints with a lower score are not used to tell people apart or to place boxes.
        min_keypoints: A pose with fewer joints above ``keypoint_threshold`` is no person.
        pose_threshold: A pose whose mean score over these joints is lower is no person.
        confirm_pose_threshold: A newcomer with such a mean joint score and ``confirm_bbox_threshold`` is shown at once;
            any other only when a second detection supports it.
        confirm_bbox_threshold: Detector score for the same.
        oks_threshold: Two poses more alike than this are one person.
        iou_threshold: A detection that overlaps a tracked person's box more than this, and is not that person's own, is
            dropped.
        max_people: Estimate at most this many poses in a frame, visible people first; None for no limit.
        smoothing: One-Euro settings, or None to leave the joints as the network gave them.
    """

    det_interval: int | Literal["auto"] = 5
    max_det_interval: int = 11
    track_lost_s: float = 3.0
    keypoint_threshold: float = 0.3
    min_keypoints: int = 3
    pose_threshold: float = 0.35
    confirm_pose_threshold: float = 0.45
    confirm_bbox_threshold: float = 0.45
    oks_threshold: float = 0.7
    iou_threshold: float = 0.7
    max_people: int | None = None
    smoothing: OneEuroConfig | None = field(default_factory=OneEuroConfig)

    def __post_init__(self) -> None:
        def check(name: str, expected: str, *, fine: bool) -> None:
            if not fine:
                raise InputError(f"TrackerConfig.{name} must be {expected}, got {getattr(self, name)!r}.")

        interval = self.det_interval
        check(
            "det_interval", "a whole number of frames from 1 on, or 'auto'", fine=interval == "auto" or _count(interval)
        )
        for name in ("max_det_interval", "min_keypoints"):
            check(name, "a whole number from 1 on", fine=_count(getattr(self, name)))
        check(
            "max_people", "a whole number from 1 on, or None", fine=self.max_people is None or _count(self.max_people)
        )
        check("track_lost_s", "0 or more seconds", fine=0 <= self.track_lost_s < math.inf)
        for name in ("keypoint_threshold", "pose_threshold", "confirm_pose_threshold", "confirm_bbox_threshold"):
            check(name, "0 or more", fine=0 <= getattr(self, name) < math.inf)
        for name in ("oks_threshold", "iou_threshold"):
            check(name, "above 0 and at most 1", fine=0 < getattr(self, name) <= 1)


@dataclass(frozen=True, eq=False)
class Proposals:
    """The boxes in which to estimate a pose in this frame.

    Attributes:
        bboxes: (M, 4) float32, x1 y1 x2 y2 in frame pixels.
        bbox_scores: (M,) float32 detector scores; of a tracked person the last one.
        track_ids: (M,) int64, the track whose box it is; 0 for a detection of nobody known.
        detected: (M,) bool, whether a detection of this frame stands behind the box.
    """

    bboxes: Floats
    bbox_scores: Floats
    track_ids: Integers
    detected: Bools

    def __len__(self) -> int:
        return len(self.bboxes)


@dataclass(frozen=True)
class TrackerStats:
    """What a tracker has done since it was made or reset.

    Attributes:
        frames: Frames updated.
        detections: Frames on which the detector ran.
        poses: Poses that were estimated.
        tracks: Ids given out, shown or not.
        recovered: Times that someone out of sight came back under the same id.
    """

    frames: int = 0
    detections: int = 0
    poses: int = 0
    tracks: int = 0
    recovered: int = 0


@dataclass(frozen=True, eq=False)
class _Tracks:
    """All tracks of a stream as parallel arrays; places are those expected at the state's time."""

    ids: Integers  # (T,)
    confirmed: Bools  # (T,)
    missed: Integers  # (T,) frames since last seen; 0: visible
    unseen_s: Floats  # (T,) seconds since last seen
    hits: Integers  # (T,) frames seen
    undetected: Integers  # (T,) detector runs in a row that did not see the person
    bbox_scores: Floats  # (T,)
    bboxes: Floats  # (T, 4)
    margins: Floats  # (T, 4) from the joints' extent outward to the box: left, top, right, bottom; body sizes
    keypoints: Floats  # (T, K, 2) last seen places, carried along rigidly
    keypoints_unseen_s: Floats  # (T, K)
    velocities: Floats  # (T, 3) x, y in pixels and log-size, per second
    variances: Floats  # (T, 3, 3) of place, place × velocity, velocity, in body sizes; for x, y, log-size
    smoothing: SmoothingState

    @classmethod
    def empty(cls, num_keypoints: int) -> _Tracks:
        def floats(*shape: int) -> Floats:
            return np.zeros((0, *shape), np.float32)

        none = np.zeros(0, np.int64)
        return cls(
            ids=none, confirmed=none.astype(bool), missed=none, unseen_s=floats(), hits=none, undetected=none,
            bbox_scores=floats(), bboxes=floats(4), margins=floats(4), keypoints=floats(num_keypoints, 2),
            keypoints_unseen_s=floats(num_keypoints), velocities=floats(3), variances=floats(3, 3),
            smoothing=SmoothingState.fresh(0, num_keypoints),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Bools | Rows) -> _Tracks:
        return _Tracks(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def joined(self, other: _Tracks) -> _Tracks:
        parts = {
            f.name: np.concatenate([getattr(self, f.name), getattr(other, f.name)])
            for f in fields(self)
            if f.name != "smoothing"
        }
        return _Tracks(**parts, smoothing=self.smoothing.joined(other.smoothing))

    @property
    def sizes(self) -> Floats:
        return _sizes(self.bboxes)

    @property
    def visible(self) -> Bools:
        visible: Bools = self.missed == 0
        return visible


@dataclass(frozen=True, eq=False)
class _State:
    tracks: _Tracks
    timestamp_s: float | None = None
    step_s: float = _NOMINAL_STEP_S
    frame_size_wh: tuple[int, int] | None = None
    since_detection: int | None = None  # frames, None before the first detection
    lost_since_detection: bool = False
    next_id: int = 1
    stats: TrackerStats = TrackerStats()


@dataclass(frozen=True, eq=False)
class _Seen:
    """The poses of this frame that show a person, as parallel arrays of P rows."""

    sources: Rows  # (P,) rows of the frame's poses
    ids: Integers  # (P,) the proposal's track, 0 for a detection
    own: Bools  # (P,) whether growing from that track's box is still an argument
    detected: Bools  # (P,)
    keypoints: Floats  # (P, K, 2), zero where not valid
    valid: Bools  # (P, K)
    quality: Floats  # (P,) mean score of the valid joints
    bboxes: Floats  # (P, 4)
    bbox_scores: Floats  # (P,)

    def at(self, rows: Rows) -> _Seen:
        return _Seen(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


class Tracker:
    """Follows the people of one stream. Not for use by several threads at once; every stream has its own.

    Args:
        skeleton: What the poses' keypoints are.
        config: Settings; None for the defaults.
    """

    def __init__(self, skeleton: Skeleton, config: TrackerConfig | None = None) -> None:
        self.skeleton = skeleton
        self.config = config or TrackerConfig()
        self._smoother: Smoother = (
            NoSmoother() if self.config.smoothing is None else OneEuroSmoother(self.config.smoothing)
        )
        self._sigmas = skeleton.oks_sigmas
        self._state = _State(_Tracks.empty(skeleton.num_keypoints))

    @property
    def stats(self) -> TrackerStats:
        """What was done since the tracker was made or reset."""
        return self._state.stats

    def reset(self) -> None:
        """Forget everybody; ids start at 1 again."""
        self._state = _State(_Tracks.empty(self.skeleton.num_keypoints))

    def detection_due(self, timestamp_s: float | None = None, frame_size_wh: tuple[int, int] | None = None) -> bool:
        """Return whether the detector should run on the coming frame. Changes nothing.

        With a whole ``det_interval`` n: when n frames have passed since the last detection, so ⌈frames/n⌉ times in all
        while somebody is tracked; while nobody is, after half as many frames; and when the frame's size has changed.

        Args:
            timestamp_s: Time of the coming frame in seconds; None: one usual step after the last one.
            frame_size_wh: Its width and height in pixels; None: as before.
        """
        state, config = self._state, self.config
        if state.since_detection is None:
            return True
        if frame_size_wh is not None and state.frame_size_wh is not None and frame_size_wh != state.frame_size_wh:
            return True
        waited = state.since_detection + 1
        tracks = self._expected(timestamp_s, frame_size_wh)[0]
        watched = bool((tracks.visible & tracks.confirmed).any())
        if config.det_interval != "auto":
            return waited >= (config.det_interval if watched else math.ceil(config.det_interval / 2))
        if waited >= config.max_det_interval:
            return True
        undecided = bool((tracks.visible & ~tracks.confirmed).any())
        return waited >= 3 and (not watched or state.lost_since_detection or undecided)

    def propose(
        self, detections: Detections | None, *, timestamp_s: float, frame_size_wh: tuple[int, int]
    ) -> Proposals:
        """Return the boxes in which to estimate poses: those of tracked people and those of newcomers. Changes nothing.

        Args:
            detections: What the detector found in this frame; None when it did not run.
            timestamp_s: Time of the frame in seconds.
            frame_size_wh: Its width and height in pixels.

        Raises:
            InputError: The time is not a finite number, or the size not positive.
        """
        _check_frame(timestamp_s, frame_size_wh)
        tracks, _ = self._expected(timestamp_s, frame_size_wh)
        detections = Detections.empty() if detections is None else detections
        inside = _share_inside(tracks.bboxes, frame_size_wh) > 0.1
        live = np.flatnonzero(tracks.visible & inside)
        probed = np.flatnonzero(inside & _probing(tracks.missed))
        live = live[np.lexsort((tracks.ids[live], ~tracks.confirmed[live]))]

        bboxes = tracks.bboxes.copy()
        scores = tracks.bbox_scores.copy()
        overlap = iou_matrix(tracks.bboxes[live], detections.bboxes)
        rows, cols = match(overlap + detections.scores[None] * 0.1, overlap > 0.3)
        bboxes[live[rows]] = detections.bboxes[cols]
        scores[live[rows]] = detections.scores[cols]
        supported = np.zeros(len(tracks), bool)
        supported[live[rows]] = True

        new = np.ones(len(detections), bool)
        new[cols] = False
        new &= ~(iou_matrix(detections.bboxes, bboxes[live]) > self.config.iou_threshold).any(axis=1)
        found = _without_duplicates(detections.bboxes, detections.scores, np.flatnonzero(new))
        if len(probed) and len(found):
            covered = (iou_matrix(bboxes[probed], detections.bboxes[found]) > 0.5).any(axis=1)
            probed = probed[~covered]

        known = np.concatenate([live, probed])
        boxes = np.concatenate([bboxes[live], detections.bboxes[found], bboxes[probed]])
        box_scores = np.concatenate([scores[live], detections.scores[found], scores[probed]])
        ids = np.concatenate([tracks.ids[live], np.zeros(len(found), np.int64), tracks.ids[probed]])
        detected = np.concatenate([supported[live], np.ones(len(found), bool), np.zeros(len(probed), bool)])
        boxes = clip_boxes(boxes, frame_size_wh)
        kept = ((boxes[:, 2:] - boxes[:, :2]) > 1).all(axis=1)
        kept &= np.cumsum(kept) <= (self.config.max_people or len(known) + len(found))
        return Proposals(
            bboxes=boxes[kept].astype(np.float32),
            bbox_scores=box_scores[kept].astype(np.float32),
            track_ids=ids[kept].astype(np.int64),
            detected=detected[kept],
        )

    def update(
        self,
        proposals: Proposals,
        poses: Poses,
        *,
        timestamp_s: float,
        detected: bool,
        clock: StageClock = NO_CLOCK,
    ) -> Poses:
        """Take the poses of the proposals, and return those of the confirmed people in view, with ids.

        Args:
            proposals: What ``propose`` returned for this frame.
            poses: One pose for each proposal, in that order.
            timestamp_s: Time of the frame in seconds; a time that does not advance counts as one usual step.
            detected: Whether the detector ran on this frame.
            clock: Is lapped after ``track`` (who is who) and after ``smooth``; what follows is left to the caller.

        Returns:
            The people in view: ``track_ids``, smoothed ``keypoints``, ``keypoints_raw``, boxes that follow the joints.

        Raises:
            ShapeError: The numbers of poses and proposals differ.
            InputError: The skeleton is another one, or the time is not a finite number.
        """
        if len(poses) != len(proposals):
            raise ShapeError(
                "poses", expected=f"one pose for each of the {len(proposals)} proposals", actual=len(poses)
            )
        if poses.skeleton != self.skeleton:
            raise InputError(f"poses: expected skeleton {self.skeleton.name!r}, got {poses.skeleton.name!r}.")
        _check_frame(timestamp_s, poses.frame_size_wh)
        state = self._state
        frame_size = poses.frame_size_wh or state.frame_size_wh
        tracks, step = self._expected(timestamp_s, frame_size)

        seen = self._evident(proposals, poses)
        seen = self._distinct(seen, tracks)
        rows, cols = self._associate(tracks, seen)
        followed, lost = self._advanced(tracks, seen, rows, cols, step=step, detected=detected)
        unclaimed = np.ones(len(seen.ids), bool)
        unclaimed[cols] = False
        born = self._born(seen.at(np.flatnonzero(unclaimed & (seen.ids == 0))), next_id=state.next_id)

        shown_tracks = followed.joined(born)
        sources = np.concatenate([seen.sources[cols], seen.sources[unclaimed & (seen.ids == 0)]])
        points = poses.keypoints_raw[sources]
        clock.lap("track")
        smoothed, smoothing = self._smoother.update(
            shown_tracks.smoothing,
            points,
            poses.keypoints_valid[sources] & np.isfinite(points).all(axis=2),
            scales_px=shown_tracks.sizes,
            dt_s=step,
        )
        clock.lap("smooth")
        shown_tracks = replace(shown_tracks, smoothing=smoothing)
        result = self._result(shown_tracks, poses, sources, smoothed, frame_size_wh=frame_size, timestamp_s=timestamp_s)

        newly_lost = bool((lost.confirmed & (lost.missed == 1)).any())
        stats = state.stats
        self._state = _State(
            tracks=shown_tracks.joined(lost),
            timestamp_s=timestamp_s,
            step_s=step if _usual(step, state) else state.step_s,
            frame_size_wh=frame_size,
            since_detection=0 if detected else None if state.since_detection is None else state.since_detection + 1,
            lost_since_detection=newly_lost or (state.lost_since_detection and not detected),
            next_id=state.next_id + len(born),
            stats=TrackerStats(
                frames=stats.frames + 1,
                detections=stats.detections + int(detected),
                poses=stats.poses + len(poses),
                tracks=stats.tracks + len(born),
                recovered=stats.recovered + int(np.count_nonzero(tracks.missed[rows])),
            ),
        )
        return result

    def _expected(self, timestamp_s: float | None, frame_size_wh: tuple[int, int] | None) -> tuple[_Tracks, float]:
        """Return the tracks as expected at that time in a frame of that size, and the step in seconds."""
        state = self._state
        step = state.step_s
        if timestamp_s is not None and state.timestamp_s is not None and timestamp_s > state.timestamp_s:
            step = timestamp_s - state.timestamp_s
        tracks = state.tracks
        if frame_size_wh is not None and state.frame_size_wh is not None and frame_size_wh != state.frame_size_wh:
            tracks = _rescaled(tracks, state.frame_size_wh, frame_size_wh)
        if step > max(self.config.track_lost_s, 5 * state.step_s):
            tracks = tracks[np.zeros(len(tracks), bool)]
        return (_moved(tracks, step) if len(tracks) else tracks), step

    def _evident(self, proposals: Proposals, poses: Poses) -> _Seen:
        """Return the poses that show a person."""
        config = self.config
        finite = np.isfinite(poses.keypoints_raw).all(axis=2)
        valid = finite & (poses.keypoint_scores >= config.keypoint_threshold)
        count = valid.sum(axis=1)
        quality = np.where(valid, poses.keypoint_scores, 0).sum(axis=1) / np.maximum(count, 1)
        least = min(config.min_keypoints, self.skeleton.num_keypoints)
        kept = np.flatnonzero((count >= least) & (quality >= config.pose_threshold))
        return _Seen(
            sources=kept,
            ids=proposals.track_ids[kept],
            own=proposals.track_ids[kept] > 0,
            detected=proposals.detected[kept],
            keypoints=np.where(valid[kept][..., None], poses.keypoints_raw[kept], 0).astype(np.float32),
            valid=valid[kept],
            quality=quality[kept].astype(np.float32),
            bboxes=proposals.bboxes[kept],
            bbox_scores=proposals.bbox_scores[kept],
        )

    def _distinct(self, seen: _Seen, tracks: _Tracks) -> _Seen:
        """Return one pose per person: of two that are alike, a track's before a detection's, then the better one.

        The pose that stays is nobody's own any more when another track's crop showed the same person: the assignment
        decides by place alone whose it is.
        """
        count = len(seen.ids)
        if count < 2:
            return seen
        overlap = iou_matrix(seen.bboxes, seen.bboxes)
        first, second = np.nonzero(np.triu(overlap > 0.1, 1))
        if not len(first):
            return seen
        sizes = _sizes(seen.bboxes)
        alike = (
            pose_similarity(
                seen.keypoints[first],
                seen.keypoints[second],
                seen.valid[first] & seen.valid[second],
                sizes_px=np.minimum(sizes[first], sizes[second]),
                sigmas=self._sigmas,
            )
            > self.config.oks_threshold
        )
        first, second = first[alike], second[alike]
        if not len(first):
            return seen
        row_of_id = {int(i): row for row, i in enumerate(tracks.ids)}
        visible = np.array([i > 0 and tracks.missed[row_of_id[int(i)]] == 0 for i in seen.ids])
        order = np.lexsort((-seen.quality, -visible.astype(np.int8)))
        same = np.zeros((count, count), bool)
        same[first, second] = same[second, first] = True
        alive = np.ones(count, bool)
        own = seen.own.copy()
        for row in order:
            if alive[row]:
                rivals = same[row] & alive
                own[row] &= not (rivals & visible).any()
                alive[rivals] = False
        return replace(seen, own=own).at(np.flatnonzero(alive))

    def _associate(self, tracks: _Tracks, seen: _Seen) -> tuple[Rows, Rows]:
        """Return which track (row) is which pose (column): people in view first, then those out of sight."""
        if not len(tracks) or not len(seen.ids):
            return np.zeros(0, np.intp), np.zeros(0, np.intp)
        live = np.flatnonzero(tracks.visible)
        live_rows, live_cols = self._match_visible(tracks, live, seen)
        rest = np.setdiff1d(np.arange(len(seen.ids)), live_cols)
        lost = np.flatnonzero(~tracks.visible)
        lost_rows, lost_cols = self._match_lost(tracks, lost, seen, rest)
        return np.concatenate([live_rows, lost_rows]), np.concatenate([live_cols, lost_cols])

    def _match_visible(self, tracks: _Tracks, live: Rows, seen: _Seen) -> tuple[Rows, Rows]:
        overlap = iou_matrix(tracks.bboxes[live], seen.bboxes)
        own = (tracks.ids[live][:, None] == seen.ids[None]) & seen.own[None]
        rows, cols = np.nonzero((overlap > 0.05) | own)
        known = tracks.keypoints_unseen_s[live[rows]] < 0.5
        tolerance = np.sqrt(tracks.variances[live[rows], 0, 0] + _PLACE_NOISE**2)
        both = known & seen.valid[cols]
        pose = pose_similarity(
            tracks.keypoints[live[rows]],
            seen.keypoints[cols],
            both,
            sizes_px=tracks.sizes[live[rows]],
            sigmas=self._sigmas,
            tolerance=tolerance,
        )
        box = overlap[rows, cols]
        comparable = both.sum(axis=1) >= 2
        likeness = np.where(comparable, 0.7 * pose + 0.3 * box, box)
        fine = likeness > _LEAST_LIKENESS
        similarity = np.zeros(overlap.shape, np.float32)
        allowed = np.zeros(overlap.shape, bool)
        similarity[rows, cols] = likeness + _OWN_BONUS * own[rows, cols]
        allowed[rows, cols] = fine
        chosen_rows, chosen_cols = match(similarity, allowed)
        return live[chosen_rows], chosen_cols

    def _match_lost(self, tracks: _Tracks, lost: Rows, seen: _Seen, rest: Rows) -> tuple[Rows, Rows]:
        if not len(lost) or not len(rest):
            return np.zeros(0, np.intp), np.zeros(0, np.intp)
        boxes = tracks.bboxes[lost]
        sizes = _sizes(boxes)
        offset = (_centers(seen.bboxes[rest])[None] - _centers(boxes)[:, None]) / sizes[:, None, None]
        place_variance = tracks.variances[lost, :2, 0].mean(axis=1) + 0.1**2
        grown = np.log(_sizes(seen.bboxes[rest]))[None] - np.log(sizes)[:, None]
        size_variance = tracks.variances[lost, 2, 0] + 0.15**2
        exponent = (offset**2).sum(axis=2) / place_variance[:, None] + grown**2 / size_variance[:, None]
        likeness = np.exp(-exponent / 2)
        own = (tracks.ids[lost][:, None] == seen.ids[rest][None]) & seen.own[rest][None]
        # A pose grown from another track's box belongs to that track or to nobody.
        foreign = (seen.ids[rest] > 0)[None] & ~own
        allowed = (likeness > _LEAST_RECOVERY) & ~foreign & (np.abs(grown) < 0.7)
        rows, cols = match((likeness + _OWN_BONUS * own).astype(np.float32), allowed)
        return lost[rows], rest[cols]

    def _advanced(
        self, tracks: _Tracks, seen: _Seen, rows: Rows, cols: Rows, *, step: float, detected: bool
    ) -> tuple[_Tracks, _Tracks]:
        """Return the tracks that were seen, moved to where they are, and those still worth remembering."""
        config = self.config
        missing = np.ones(len(tracks), bool)
        missing[rows] = False
        gone = tracks[missing]
        lost = replace(
            gone,
            missed=gone.missed + 1,
            unseen_s=gone.unseen_s + np.float32(step),
            undetected=gone.undetected + int(detected),
        )
        lost = lost[lost.confirmed & (lost.unseen_s <= max(config.track_lost_s, 1.5 * step))]

        before, now = tracks[rows], seen.at(cols)
        supported = now.detected
        corrected = _corrected(before, now, np.float32(step))
        followed = replace(
            corrected,
            missed=np.zeros(len(rows), np.int64),
            unseen_s=np.zeros(len(rows), np.float32),
            hits=before.hits + 1,
            undetected=np.where(supported, 0, before.undetected + int(detected)),
            bbox_scores=now.bbox_scores,
            confirmed=before.confirmed | (supported & (before.hits >= 1)),
        )
        followed = replace(followed, smoothing=_restarted(before.smoothing, before.missed > 0))
        return followed, lost

    def _born(self, seen: _Seen, *, next_id: int) -> _Tracks:
        count, num_keypoints = seen.valid.shape
        config = self.config
        variances = np.zeros((count, 3, 3), np.float32)
        variances[:, :2, 0] = _PLACE_NOISE**2
        variances[:, :2, 2] = _INITIAL_SPEED**2
        variances[:, 2, 0] = _SCALE_NOISE**2
        variances[:, 2, 2] = _SCALE_SPEED**2
        sizes = _sizes(seen.bboxes)
        margins = _margins(seen.keypoints, _near(seen.keypoints, seen.valid, seen.bboxes), seen.bboxes, sizes)
        return _Tracks(
            ids=np.arange(next_id, next_id + count, dtype=np.int64),
            confirmed=(seen.quality >= config.confirm_pose_threshold)
            & (seen.bbox_scores >= config.confirm_bbox_threshold),
            missed=np.zeros(count, np.int64),
            unseen_s=np.zeros(count, np.float32),
            hits=np.ones(count, np.int64),
            undetected=np.zeros(count, np.int64),
            bbox_scores=seen.bbox_scores,
            bboxes=seen.bboxes,
            margins=margins,
            keypoints=seen.keypoints,
            keypoints_unseen_s=np.where(seen.valid, 0, np.inf).astype(np.float32),
            velocities=np.zeros((count, 3), np.float32),
            variances=variances,
            smoothing=SmoothingState.fresh(count, num_keypoints),
        )

    def _result(
        self,
        tracks: _Tracks,
        poses: Poses,
        sources: Rows,
        smoothed: Floats,
        *,
        frame_size_wh: tuple[int, int] | None,
        timestamp_s: float,
    ) -> Poses:
        rows = np.flatnonzero(tracks.confirmed)
        rows = rows[np.argsort(tracks.ids[rows])]
        bboxes = tracks.bboxes[rows]
        chosen = poses[sources[rows]]
        return replace(
            chosen,
            keypoints=smoothed[rows],
            keypoints_raw=chosen.keypoints_raw,
            bboxes=bboxes if frame_size_wh is None else clip_boxes(bboxes, frame_size_wh),
            bbox_scores=tracks.bbox_scores[rows],
            track_ids=tracks.ids[rows],
            timestamp_s=timestamp_s,
            frame_size_wh=frame_size_wh,
        )


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_frame(timestamp_s: float, frame_size_wh: tuple[int, int] | None) -> None:
    if not math.isfinite(timestamp_s):
        raise InputError(f"timestamp_s must be a finite number of seconds, got {timestamp_s!r}.")
    if frame_size_wh is not None and min(frame_size_wh) < 1:
        raise InputError(f"frame_size_wh must be a positive width and height, got {frame_size_wh!r}.")


def _usual(step: float, state: _State) -> bool:
    """Return whether a step tells the stream's frame rate, and is neither the first nor a pause."""
    return state.timestamp_s is not None and step < 5 * state.step_s


def _probing(missed: Integers) -> Bools:
    """Return who is looked for without a detection: those missed for 1, 2, 4, 8, … frames."""
    probing: Bools = (missed > 0) & (missed & (missed - 1) == 0)
    return probing


def _centers(bboxes: Floats) -> Floats:
    centers: Floats = (bboxes[:, :2] + bboxes[:, 2:]) / 2
    return centers


def _sizes(bboxes: Floats) -> Floats:
    """Return (N,) body sizes in pixels: the square root of the box's area."""
    sides = np.maximum(bboxes[:, 2:] - bboxes[:, :2], 1)
    sizes: Floats = np.sqrt(sides[:, 0] * sides[:, 1])
    return sizes


def _share_inside(bboxes: Floats, frame_size_wh: tuple[int, int]) -> Floats:
    """Return (N,) the share of each box that lies in the frame."""
    inside = clip_boxes(bboxes, frame_size_wh)
    sides, whole = inside[:, 2:] - inside[:, :2], np.maximum(bboxes[:, 2:] - bboxes[:, :2], 1e-3)
    share: Floats = (sides / whole).prod(axis=1)
    return share


def _without_duplicates(bboxes: Floats, scores: Floats, rows: Rows) -> Rows:
    """Return the rows whose box does not all but coincide with that of a better one."""
    order = rows[np.argsort(-scores[rows], kind="stable")]
    overlap = iou_matrix(bboxes[order], bboxes[order])
    kept = np.ones(len(order), bool)
    for i in range(len(order)):
        if kept[i]:
            kept[i + 1 :] &= overlap[i, i + 1 :] <= 0.8
    return order[kept]


def _moved(tracks: _Tracks, step: float) -> _Tracks:
    """Return the tracks after ``step`` seconds of their motion."""
    dt = np.float32(step)
    fading = np.where(tracks.visible, np.float32(1), np.float32(math.exp(-step / _COASTING_S)))[:, None]
    shift = (tracks.velocities * dt)[:, None, :2]
    growth = np.exp(np.clip(tracks.velocities[:, 2] * dt, -0.2, 0.2))[:, None, None]
    corners = tracks.bboxes.reshape(-1, 2, 2)
    middle = corners.mean(axis=1, keepdims=True)
    place, cross, speed = (tracks.variances[:, :, i] for i in range(3))
    noise = np.array([_ACCELERATION, _ACCELERATION, _SCALE_ACCELERATION], np.float32) ** 2
    variances = np.stack(
        [
            place + 2 * dt * cross + dt**2 * speed + noise * dt**4 / 4,
            cross + dt * speed + noise * dt**3 / 2,
            speed + noise * dt**2,
        ],
        axis=2,
    )
    return replace(
        tracks,
        bboxes=((corners - middle) * growth + middle + shift).reshape(-1, 4),
        keypoints=(tracks.keypoints - middle) * growth + middle + shift,
        keypoints_unseen_s=tracks.keypoints_unseen_s + dt,
        velocities=tracks.velocities * fading,
        variances=variances.astype(np.float32),
    )


def _rescaled(tracks: _Tracks, old_wh: tuple[int, int], new_wh: tuple[int, int]) -> _Tracks:
    """Return the tracks in a frame of another size: the same picture scaled, or else nobody is known there."""
    factors = np.array([new_wh[0] / old_wh[0], new_wh[1] / old_wh[1]], np.float32)
    if not 0.97 < factors[0] / factors[1] < 1.03:
        return tracks[np.zeros(len(tracks), bool)]
    velocities = tracks.velocities.copy()
    velocities[:, :2] *= factors
    return replace(
        tracks,
        bboxes=tracks.bboxes * np.tile(factors, 2),
        keypoints=tracks.keypoints * factors,
        velocities=velocities,
        smoothing=tracks.smoothing.scaled(factors),
    )


def _corrected(before: _Tracks, now: _Seen, step: np.float32) -> _Tracks:
    """Return the expected tracks corrected by what was seen of them."""
    sizes = before.sizes
    recovered = before.missed > 0
    both = now.valid & (before.keypoints_unseen_s <= 1.5 * step) & ~recovered[:, None]
    enough = both.sum(axis=1) >= 2
    by_joints, spread = _rigid_shift(before.keypoints, now.keypoints, both, sizes)
    by_box = _centers(now.bboxes) - _centers(before.bboxes)
    shift = np.where(enough[:, None], by_joints, by_box)
    growth = np.where(now.detected | recovered, np.log(_sizes(now.bboxes) / sizes), np.where(enough, spread, 0))
    innovation = np.concatenate([shift / sizes[:, None], np.clip(growth, -0.7, 0.7)[:, None]], axis=1)

    place, cross, speed = (before.variances[:, :, i] for i in range(3))
    noise = np.array([_PLACE_NOISE, _PLACE_NOISE, _SCALE_NOISE], np.float32) ** 2
    total = place + noise
    gain, velocity_gain = place / total, cross / total
    scale = np.stack([sizes, sizes, np.ones_like(sizes)], axis=1)
    variances = np.stack([place * (1 - gain), cross * (1 - gain), speed - velocity_gain * cross], axis=2)

    moved = gain[:, :2] * shift
    carried = before.keypoints + moved[:, None]
    keypoints = np.where(now.valid[..., None], now.keypoints - (shift - moved)[:, None], carried)
    unseen = np.where(now.valid, np.float32(0), before.keypoints_unseen_s)
    sizes = sizes * np.exp(gain[:, 2] * innovation[:, 2])
    expected = _resized(before.bboxes + np.tile(moved, 2), sizes)
    expected = np.where(recovered[:, None], now.bboxes, expected)

    near = _near(keypoints, unseen < 1, expected)
    learned = now.detected & near.any(axis=1)
    margins = np.where(
        learned[:, None], (before.margins + _margins(keypoints, near, now.bboxes, sizes)) / 2, before.margins
    )
    return replace(
        before,
        bboxes=_framed(keypoints, near, margins, sizes, expected),
        margins=margins,
        keypoints=keypoints,
        keypoints_unseen_s=unseen,
        velocities=before.velocities + velocity_gain * innovation * scale,
        variances=variances,
    )


def _rigid_shift(expected: Floats, observed: Floats, both: Bools, sizes: Floats) -> tuple[Floats, Floats]:
    """Return the (N, 2) shift and (N,) log growth of whole bodies from joints of which some may be wrong.

    The shift is the median over the joints, sharpened by the mean over those that agree with it.
    """
    count = np.maximum(both.sum(axis=1), 1)
    difference = np.where(both[..., None], observed - expected, np.inf)
    ranked = np.sort(difference, axis=1)
    middle = (count - 1) // 2
    people = np.arange(len(count))
    median = ranked[people, middle]
    median = np.where(np.isfinite(median), median, 0)
    apart = np.where(both[..., None], difference - median[:, None], 0)
    weight = np.where(both, np.exp(-(apart**2).sum(axis=2) / (2 * (0.1 * sizes[:, None]) ** 2)), 0)[..., None]
    total = np.maximum(weight.sum(axis=1), 1e-6)
    shift = median + (weight * apart).sum(axis=1) / total

    def spread(points: Floats) -> Floats:
        mean = (weight * points).sum(axis=1) / total
        radius: Floats = np.sqrt((weight * (points - mean[:, None]) ** 2).sum(axis=(1, 2)) / total[:, 0])
        return radius

    ratio = (spread(np.where(both[..., None], observed, 0)) + 1e-3) / (spread(expected) + 1e-3)
    return shift.astype(np.float32), np.log(np.clip(ratio, 0.8, 1.25)).astype(np.float32)


def _restarted(smoothing: SmoothingState, rows: Bools) -> SmoothingState:
    """Return the state in which the joints of the chosen people start afresh."""
    return replace(smoothing, unseen_s=np.where(rows[:, None], np.float32(np.inf), smoothing.unseen_s))


def _resized(bboxes: Floats, sizes: Floats) -> Floats:
    """Return boxes scaled about their centres to the given body sizes."""
    factor = (sizes / _sizes(bboxes))[:, None, None]
    corners = bboxes.reshape(-1, 2, 2)
    middle = corners.mean(axis=1, keepdims=True)
    resized: Floats = ((corners - middle) * factor + middle).reshape(-1, 4)
    return resized


def _near(keypoints: Floats, valid: Bools, bboxes: Floats) -> Bools:
    """Return (N, K) which valid joints lie in the box or not far from it."""
    sides = bboxes[:, 2:] - bboxes[:, :2]
    low, high = bboxes[:, :2] - _STRAY_MARGIN * sides, bboxes[:, 2:] + _STRAY_MARGIN * sides
    inside = (keypoints >= low[:, None]) & (keypoints <= high[:, None])
    near: Bools = valid & inside.all(axis=2)
    return near


def _extents(keypoints: Floats, near: Bools) -> Floats:
    low = np.where(near[..., None], keypoints, np.inf).min(axis=1)
    high = np.where(near[..., None], keypoints, -np.inf).max(axis=1)
    return np.concatenate([low, high], axis=1)


def _margins(keypoints: Floats, near: Bools, bboxes: Floats, sizes: Floats) -> Floats:
    """Return (N, 4) how far the boxes reach beyond the joints, in body sizes; 0 without joints."""
    outward = np.array([-1, -1, 1, 1], np.float32)
    margins = (bboxes - _extents(keypoints, near)) * outward / sizes[:, None]
    return np.where(near.any(axis=1, keepdims=True), margins, 0).astype(np.float32)


def _framed(keypoints: Floats, near: Bools, margins: Floats, sizes: Floats, otherwise: Floats) -> Floats:
    """Return (N, 4) boxes around the joints with the given margins; ``otherwise`` where that gives no box."""
    outward = np.array([-1, -1, 1, 1], np.float32)
    boxes = _extents(keypoints, near) + outward * margins * sizes[:, None]
    large = boxes[:, 2:] - boxes[:, :2] > 0.2 * (otherwise[:, 2:] - otherwise[:, :2])
    fine = near.any(axis=1, keepdims=True) & large.all(axis=1, keepdims=True)
    return np.where(fine, boxes, otherwise).astype(np.float32)
