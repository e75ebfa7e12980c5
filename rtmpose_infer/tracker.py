"""Identity: poses in, poses with ids out, for one stream of frames; pure numpy, no model and no clock inside.

One frame is three calls, and only the last one changes anything, so a frame that fails in a model leaves the tracker as
it was::

    detections = detector(frame) if tracker.detection_due(t, size) else None
    proposals = tracker.propose(detections, timestamp_s=t, frame_size_wh=size)      # whose pose to estimate
    poses = tracker.update(proposals, pose_network(frame, proposals.bboxes), timestamp_s=t, detected=...)

The decisions this file carries:

- A body moves as one. Each track has one velocity, averaged over the agreement of its joints; its last pose and box ride
  along rigidly, and on top of that with whatever the whole picture does when the camera moves. A filter per joint lets
  joints wander off and takes identities with them.
- A pose grown from a track's own box is evidence, not proof: when people cross, the crop of the one behind shows the
  one in front. So duplicates among the poses are removed first, and then one global assignment says who is who; growing
  from the own box is only a bonus. What is compared is the place of the body, its size and how its joints lie, each as
  a likelihood against "somebody unknown", wider the longer a person was not seen. Joints that score far below the
  person's best do not count: they are guesses behind something, or belong to whoever stands in front.
- A person who is covered is lost, not gone: the track coasts on with fading speed and growing uncertainty for
  ``track_lost_s``. A person who vanishes without being covered is forgotten sooner where newcomers are frequent, because
  an id given to the wrong person is worse than a new one. Lost people cost pose inference only after 1, 2, 4, 8, …
  frames, with ``"auto"`` more often at first; a detection near the expected place finds them too. In the assignment they
  come after those in view.
- A newcomer with good evidence (detector and joints) is shown at once; with weak evidence only when a second detection
  supports it. Tracks start at detections only, so a pose that slid onto something else never starts an identity.
- Boxes follow the joints with the margins learned from the last detection of the same person, and joints far outside
  the expected box do not count, so neither a bust shot nor a stray wrist makes a wrong crop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from rtmpose_infer.association import match, pose_similarity
from rtmpose_infer.errors import InputError, ShapeError
from rtmpose_infer.geometry import clip_boxes, iou_matrix
from rtmpose_infer.options import check_option, is_number, is_whole
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
_STEPS = 31  # between frames that tell a stream's rate: more than a burst after a stall brings
_VELOCITY_MEMORY_S = 0.4
_COASTING_S = 0.7  # time constant with which the speed of a person out of sight fades
# What is expected of a person: standard deviations when just seen, and their growth with the root of the seconds unseen.
_PLACE, _PLACE_DRIFT = 0.05, 0.3  # of the place, body sizes; a body size is about a metre for a person on foot
_SIZE, _SIZE_DRIFT = 0.06, 0.06  # of the logarithm of the size
_SHAPE, _SHAPE_DRIFT = 0.1, 0.1  # of joints in the body, body sizes; grows for a second
_ANY_SIZE, _ANY_SHAPE = 0.5, 0.2  # the same between two people
_SHAPE_FREEDOM = 2.0  # joints hang together: so many of them are as good as all
_SHAPE_MOST = 0.3  # a joint further away, body sizes, is as wrong as it can be
_ASTRAY = 0.5  # a joint that moved so much, body sizes, against the others does not tell the place
_NEARLY = 0.1  # body sizes by which a joint may be off and still lies as expected
_ALONE = 0.6  # body sizes within which another person's box makes it doubtful whose pose that is
_FADING = 0.6  # evidence for a person lost per second unseen
_NEWCOMER_GAIN = 1.5  # evidence against someone out of sight, per logarithm of the newcomers a second
_OVERLAP = 0.3  # of a detection with a tracked person's expected box that makes it that person's new box
_OVERLAP_INTERPOLATED = 0.7  # the same for a box that nobody saw, which between people who cross leads astray
_OWN_BONUS = 2.0  # evidence in having grown from the person's box
_BEST_JOINTS = 4
_LEAST_OF_BEST = 0.5  # joints that score less than this share of a person's best are not sure
_BOX_GAIN = 0.3  # share of the way that a box goes to where the joints say
_BOX_CHANGE = 0.05  # and most that it changes in a frame, in sides
_OPEN_S = 0.3  # shortest memory for those who vanished in the open
_OPEN_NEWCOMERS = 0.5  # they are remembered for as long as it takes for so many newcomers to appear
_NEWCOMER_MEMORY_S = 10.0
_COVERED_SHARE = 0.55  # who was covered that much when last seen went behind somebody
_WEAK_S = 0.2  # in hindsight, who never is convincing must have been seen for so long
_SEARCHED_S = 0.5  # with "auto", those lost are looked for on every second frame for so long
_LEAST_AUTO_INTERVAL, _MEAN_AUTO_INTERVAL = 3, 10  # frames between the detections that the tracker asks for
_CAMERA_MEMORY_S = 1.0
_CAMERA_GAIN = 0.3
_PROVISIONAL = 1 << 40  # the first number of tracks that nobody has seen, so that the identities shown have no gaps
_FEWEST_AGREEING = 3  # people whose shifts must be alike before they count as a motion of the camera
_OUTWARD = np.array([-1, -1, 1, 1], np.float32)  # the direction of each of a box's edges
_NO_DETECTIONS = Detections.empty()
_STRAY_MARGIN = 0.35  # joints further outside the expected box than this share of its sides do not shape the new one


@dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """How people are followed.

    Attributes:
        det_interval: Run the detector on every n-th frame (every ⌈n/2⌉-th while nobody is tracked, and at once when the
            frame's size has changed), or ``"auto"``: when the tracker's own evidence asks for it.
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

    Raises:
        InputError: A setting is of another type or out of range.
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
            check_option(f"TrackerConfig.{name}", getattr(self, name), expected, fine=fine)

        interval = self.det_interval
        check(
            "det_interval", "a whole number of frames from 1 on, or 'auto'", fine=interval == "auto" or _count(interval)
        )
        for name in ("max_det_interval", "min_keypoints"):
            check(name, "a whole number from 1 on", fine=_count(getattr(self, name)))
        check(
            "max_people", "a whole number from 1 on, or None", fine=self.max_people is None or _count(self.max_people)
        )
        check("track_lost_s", "0 or more seconds", fine=is_number(self.track_lost_s) and self.track_lost_s >= 0)
        for name in ("keypoint_threshold", "pose_threshold", "confirm_pose_threshold", "confirm_bbox_threshold"):
            check(name, "0 or more", fine=is_number(value := getattr(self, name)) and value >= 0)
        for name in ("oks_threshold", "iou_threshold"):
            check(name, "above 0 and at most 1", fine=is_number(value := getattr(self, name)) and 0 < value <= 1)
        check("smoothing", "a OneEuroConfig or None", fine=isinstance(self.smoothing, OneEuroConfig | None))


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

    ids: Integers  # (T,) from 1; from _PROVISIONAL on until confirmed
    founded: Integers  # (T,) number of its birth, whatever identity it is given later
    confirmed: Bools  # (T,)
    missed: Integers  # (T,) frames since last seen; 0: visible
    unseen_s: Floats  # (T,) seconds since last seen
    covered: Bools  # (T,) whether somebody else stood there when last seen
    hits: Integers  # (T,) frames seen
    levels: Floats  # (T,) joint score of this person where well seen
    bbox_scores: Floats  # (T,)
    bboxes: Floats  # (T, 4)
    margins: Floats  # (T, 4) from the joints' extent outward to the box: left, top, right, bottom; body sizes
    keypoints: Floats  # (T, K, 2) last seen places, carried along rigidly
    keypoints_unseen_s: Floats  # (T, K)
    velocities: Floats  # (T, 2) pixels per second
    coasted: Floats  # (T, 2) pixels moved by that velocity since last seen
    smoothing: SmoothingState

    @classmethod
    def empty(cls, num_keypoints: int) -> _Tracks:
        def floats(*shape: int) -> Floats:
            return np.zeros((0, *shape), np.float32)

        none = np.zeros(0, np.int64)
        return cls(
            ids=none, founded=none, confirmed=none.astype(bool), missed=none, unseen_s=floats(), covered=none.astype(bool),
            hits=none, levels=floats(), bbox_scores=floats(), bboxes=floats(4), margins=floats(4),
            keypoints=floats(num_keypoints, 2), keypoints_unseen_s=floats(num_keypoints), velocities=floats(2),
            coasted=floats(2), smoothing=SmoothingState.fresh(0, num_keypoints),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Bools | Rows) -> _Tracks:
        if _all_in_order(rows, len(self)):
            return self
        return self.changed(**{name: value[rows] for name, value in vars(self).items()})

    def changed(self, **changes: Any) -> _Tracks:
        """Return these tracks with other values of some fields; a tenth of what ``dataclasses.replace`` takes."""
        tracks = object.__new__(_Tracks)
        vars(tracks).update(vars(self), **changes)
        return tracks

    def joined(self, other: _Tracks) -> _Tracks:
        if not len(other):
            return self
        theirs = vars(other)
        parts = {
            name: np.concatenate([value, theirs[name]]) for name, value in vars(self).items() if name != "smoothing"
        }
        return self.changed(**parts, smoothing=self.smoothing.joined(other.smoothing))

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
    steps_s: tuple[float, ...] = ()  # the last few between two frames, the newest last
    frame_size_wh: tuple[int, int] | None = None
    since_detection: int | None = None  # frames, None before the first detection
    lost_since_detection: bool = False
    cut: bool = False  # whether most people vanished at once since the last detection
    next_id: int = 1
    newcomers_per_s: float = 0.0
    camera_velocity: tuple[float, float] = (0.0, 0.0)  # pixels per second, of the whole picture
    stats: TrackerStats = TrackerStats()

    @property
    def step_s(self) -> float:
        """Usual seconds between two frames: a median, so neither a pause nor a burst counts."""
        return sorted(self.steps_s)[(len(self.steps_s) - 1) // 2] if self.steps_s else _NOMINAL_STEP_S

    def camera_velocity_in(self, frame_size_wh: tuple[int, int] | None) -> tuple[float, float]:
        """Return the velocity of the whole picture in pixels per second of a frame of that size."""
        old_wh = self.frame_size_wh
        if old_wh is None or frame_size_wh is None or frame_size_wh == old_wh:
            return self.camera_velocity
        x, y = self.camera_velocity
        return x * frame_size_wh[0] / old_wh[0], y * frame_size_wh[1] / old_wh[1]


# A state, what was asked of it, and the answer: see ``Tracker._expected``.
_Foreseen = tuple[_State, tuple[float | None, tuple[int, int] | None], tuple[_Tracks, float]]


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
    levels: Floats  # (P,) score of the best joints
    bboxes: Floats  # (P, 4)
    bbox_scores: Floats  # (P,)

    def at(self, rows: Rows) -> _Seen:
        if _all_in_order(rows, len(self.ids)):
            return self
        return _Seen(**{name: value[rows] for name, value in vars(self).items()})


class Tracker:
    """Follows the people of one stream. Not for use by several threads at once; every stream has its own.

    Args:
        skeleton: What the poses' keypoints are.
        config: Settings; None for the defaults.
        hindsight: For streams whose end is known before anybody asks. People are returned before they are confirmed
            too, and ``track_ids`` number their tracks from the births on; ``identities`` says afterwards who they turned
            out to be, and leaves out who never was confirmed: weak evidence must last for 0.2 s there. Those
            out of sight are not looked for where no detection is: the caller, who knows the next one, does.

    Attributes:
        identities: With ``hindsight``, the identity of each number in ``track_ids``; one person may have several.
    """

    def __init__(self, skeleton: Skeleton, config: TrackerConfig | None = None, *, hindsight: bool = False) -> None:
        check_option("config", config, "a TrackerConfig or None", fine=isinstance(config, TrackerConfig | None))
        self.skeleton = skeleton
        self.identities: dict[int, int] = {}
        self._hindsight = hindsight
        self.config = config or TrackerConfig()
        self._smoother: Smoother = (
            NoSmoother() if self.config.smoothing is None else OneEuroSmoother(self.config.smoothing)
        )
        self._sigmas = skeleton.oks_sigmas
        self._nobody = _Tracks.empty(skeleton.num_keypoints)
        self._state = _State(self._nobody)
        self._foreseen: _Foreseen | None = None

    @property
    def stats(self) -> TrackerStats:
        """What was done since the tracker was made or reset."""
        return self._state.stats

    @property
    def is_idle(self) -> bool:
        """Whether nobody is in view or expected back."""
        return not len(self._state.tracks)

    def reset(self) -> None:
        """Forget everybody; ids start at 1 again."""
        self._state = _State(self._nobody)
        self.identities = {}

    def detection_due(self, timestamp_s: float | None = None, frame_size_wh: tuple[int, int] | None = None) -> bool:
        """Return whether the detector should run on the coming frame. Changes nothing.

        With a whole ``det_interval`` n: when n frames have passed since the last detection, so ⌈frames/n⌉ times in all
        while somebody is tracked; while nobody is, after half as many frames; and when the frame's size has changed.
        With ``"auto"``: after ``max_det_interval`` frames; earlier where nobody is tracked, somebody was lost or a newcomer
        is undecided, as long as that is no more often than every tenth frame on average; and when the scene was cut.

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
        if waited >= config.max_det_interval or (state.cut and waited >= 2):
            return True
        undecided = bool((tracks.visible & ~tracks.confirmed).any())
        asked = not watched or undecided or state.lost_since_detection
        return (
            asked
            and waited >= _LEAST_AUTO_INTERVAL
            and (state.stats.detections + 1) * _MEAN_AUTO_INTERVAL <= state.stats.frames + 1
        )

    def propose(
        self,
        detections: Detections | None,
        *,
        timestamp_s: float,
        frame_size_wh: tuple[int, int],
        interpolated: Bools | None = None,
    ) -> Proposals:
        """Return the boxes in which to estimate poses: those of tracked people and those of newcomers. Changes nothing.

        Args:
            detections: What the detector found in this frame; None when it did not run.
            timestamp_s: Time of the frame in seconds.
            frame_size_wh: Its width and height in pixels.
            interpolated: (N,) which detections were guessed from other frames; None: none. They take the place of a
                tracked person's own box only where they all but agree with it.

        Raises:
            InputError: The time is not a finite number, or the size not positive.
        """
        return self._proposed(
            detections, timestamp_s, frame_size_wh, interpolated=interpolated, most=self.config.max_people
        )

    def _proposed(
        self,
        detections: Detections | None,
        timestamp_s: float,
        frame_size_wh: tuple[int, int],
        *,
        interpolated: Bools | None,
        most: int | None,
    ) -> Proposals:
        _check_frame(timestamp_s, frame_size_wh)
        tracks, _ = self._expected(timestamp_s, frame_size_wh)
        detections = _NO_DETECTIONS if detections is None else detections
        tracks = _shifted(tracks, self._camera_shift_by_boxes(tracks, detections.bboxes))
        inside = _share_inside(tracks.bboxes, frame_size_wh) > 0.1
        live = _chosen(tracks.visible & inside)
        live = live[np.lexsort((tracks.ids[live], ~tracks.confirmed[live]))]
        probed = live[:0] if tracks.visible.all() else _chosen(inside & self._probing(tracks))

        bboxes = tracks.bboxes.copy()
        scores = tracks.bbox_scores.copy()
        supported = np.zeros(len(tracks), bool)
        found = np.zeros(0, np.intp)
        if len(detections):
            overlap = iou_matrix(tracks.bboxes[live], detections.bboxes)
            least = _OVERLAP if interpolated is None else np.where(interpolated, _OVERLAP_INTERPOLATED, _OVERLAP)
            rows, cols = match(overlap + detections.scores[None] * 0.1, overlap > least)
            bboxes[live[rows]] = detections.bboxes[cols]
            scores[live[rows]] = detections.scores[cols]
            supported[live[rows]] = True

            new = np.ones(len(detections), bool)
            new[cols] = False
            new &= ~(iou_matrix(detections.bboxes, bboxes[live]) > self.config.iou_threshold).any(axis=1)
            found = _without_duplicates(detections.bboxes, detections.scores, _chosen(new))
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
        kept &= np.cumsum(kept) <= (most or len(known) + len(found))
        return Proposals(
            bboxes=boxes[kept].astype(np.float32),
            bbox_scores=box_scores[kept].astype(np.float32),
            track_ids=ids[kept].astype(np.int64),
            detected=detected[kept],
        )

    def take(self, poses: Poses, *, timestamp_s: float, frame_size_wh: tuple[int, int]) -> tuple[Proposals, Poses]:
        """Return the people whom a one-stage network found, as if proposed and estimated. Changes nothing.

        All of them count as newcomers, so that place and pose alone decide who is who. Left out are duplicates and those
        beyond ``max_people``.

        Args:
            poses: Everybody in the frame.
            timestamp_s: Time of the frame in seconds.
            frame_size_wh: Its width and height in pixels.

        Raises:
            InputError: The time is not a finite number, or the size not positive.
        """
        people = Detections(poses.bboxes, poses.bbox_scores, np.zeros(len(poses), np.int64))
        wanted = self._proposed(people, timestamp_s, frame_size_wh, interpolated=None, most=None)
        boxes = wanted.bboxes[wanted.detected][: self.config.max_people]  # of tracked people first
        same = (people.bboxes[:, None] == boxes[None]).all(axis=2)
        first = same & (same.cumsum(axis=0) == 1)  # of boxes that coincide the first, which is best
        poses = poses[first.any(axis=1)]
        proposals = Proposals(
            bboxes=poses.bboxes,
            bbox_scores=poses.bbox_scores,
            track_ids=np.zeros(len(poses), np.int64),
            detected=np.ones(len(poses), bool),
        )
        return proposals, poses

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
            timestamp_s: Time of the frame in seconds; a time that does not advance counts as one usual step, one that
                hardly does as a quarter of it.
            detected: Whether the detector ran on this frame.
            clock: Is lapped after ``track`` (who is who) and after ``smooth``; what follows is left to the caller.

        Returns:
            The people in view: ``track_ids``, smoothed ``keypoints``, ``keypoints_raw``, boxes that follow the joints;
            ``frame_index`` counts this tracker's frames. Those who are not confirmed yet are left out, unless with
            ``hindsight``.

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

        seen = self._evident(proposals, poses, tracks)
        camera_shift = self._camera_shift_by_joints(tracks, seen)
        tracks = _shifted(tracks, camera_shift)
        seen = self._distinct(seen, tracks)
        rows, cols = self._associate(tracks, seen)
        known = seen.at(cols)
        followed = self._followed(tracks[rows], known, step=step)
        missing = np.ones(len(tracks), bool)
        missing[rows] = False
        open_s = _OPEN_NEWCOMERS / max(state.newcomers_per_s, 1e-6)
        gone = tracks[missing] if missing.any() else self._nobody
        lost = self._still_lost(gone, followed, step=step, frame_size_wh=frame_size, open_s=open_s)
        followed, lost, returned = self._returned(followed, lost, known)
        new = seen.ids == 0
        new[cols] = False
        born = self._born(seen.at(_chosen(new)), number=state.stats.tracks) if new.any() else self._nobody

        shown_tracks, next_id = _named(followed.joined(born), state.next_id)
        sources = np.concatenate([seen.sources[cols], seen.sources[new]])
        points = poses.keypoints_raw[sources]
        clock.lap("track")
        smoothed, smoothing = self._smoother.update(
            shown_tracks.smoothing,
            points,
            poses.keypoints_valid[sources] & np.isfinite(points).all(axis=2),
            scales_px=shown_tracks.sizes,
            dt_s=step,
            sure=np.concatenate([seen.valid[cols], seen.valid[new]]),
        )
        clock.lap("smooth")
        shown_tracks = shown_tracks.changed(smoothing=smoothing)
        result = self._result(shown_tracks, poses, sources, smoothed, frame_size_wh=frame_size, timestamp_s=timestamp_s)

        newly_lost = bool((lost.confirmed & (lost.missed == 1)).any())
        stats = state.stats
        self._state = _State(
            tracks=shown_tracks.joined(lost),
            timestamp_s=timestamp_s,
            steps_s=state.steps_s if state.timestamp_s is None else (*state.steps_s, step)[-_STEPS:],
            frame_size_wh=frame_size,
            since_detection=0 if detected else None if state.since_detection is None else state.since_detection + 1,
            lost_since_detection=newly_lost or (state.lost_since_detection and not detected),
            cut=not detected and (state.cut or _all_but_gone(tracks, lost)),
            next_id=next_id,
            newcomers_per_s=_rate(state.newcomers_per_s, len(born) if len(tracks) else 0, step),
            camera_velocity=_camera_velocity(state.camera_velocity_in(frame_size), camera_shift, step),
            stats=TrackerStats(
                frames=stats.frames + 1,
                detections=stats.detections + int(detected),
                poses=stats.poses + len(poses),
                tracks=stats.tracks + len(born),
                recovered=stats.recovered + int(np.count_nonzero(tracks.missed[rows])) + returned,
            ),
        )
        return result

    def _expected(self, timestamp_s: float | None, frame_size_wh: tuple[int, int] | None) -> tuple[_Tracks, float]:
        """Return the tracks as expected at that time in a frame of that size, and the step in seconds.

        The last answer is kept: all three steps of a frame ask for the same.
        """
        state = self._state
        asked = (timestamp_s, frame_size_wh)
        if self._foreseen is not None and self._foreseen[0] is state and self._foreseen[1] == asked:
            return self._foreseen[2]
        usual = step = state.step_s
        if timestamp_s is not None and state.timestamp_s is not None and timestamp_s > state.timestamp_s:
            # Frames that a network connection delivers at nearly the same time were not taken at the same time.
            step = max(timestamp_s - state.timestamp_s, usual / 4)
        tracks = state.tracks
        if frame_size_wh is not None and state.frame_size_wh is not None and frame_size_wh != state.frame_size_wh:
            tracks = _rescaled(tracks, state.frame_size_wh, frame_size_wh)
        if step > max(self.config.track_lost_s, 5 * usual):
            tracks = tracks[np.zeros(len(tracks), bool)]
        if len(tracks):
            tracks = _moved(tracks, step, state.camera_velocity_in(frame_size_wh))
        self._foreseen = state, asked, (tracks, step)
        return tracks, step

    def _probing(self, tracks: _Tracks) -> Bools:
        """Return who is looked for without a detection: those missed for 1, 2, 4, 8, … frames.

        With ``"auto"`` also on every second frame for a while: there the detector, which finds them otherwise, runs half
        as often, and these further poses cost less than what that saves.
        """
        missed = tracks.missed
        if self._hindsight:
            return np.zeros(len(tracks), bool)
        probing: Bools = missed & (missed - 1) == 0
        if self.config.det_interval == "auto":
            probing |= (missed % 2 == 0) & (tracks.unseen_s < _SEARCHED_S)
        return probing & (missed > 0)

    def _evident(self, proposals: Proposals, poses: Poses, tracks: _Tracks) -> _Seen:
        """Return the poses that show a person."""
        config = self.config
        finite = np.isfinite(poses.keypoints_raw).all(axis=2)
        scores = np.where(finite, poses.keypoint_scores, 0).astype(np.float32)
        levels = np.sort(scores, axis=1)[:, -_BEST_JOINTS:].mean(axis=1)
        known = dict(zip(tracks.ids.tolist(), tracks.levels.tolist(), strict=True))
        best = np.maximum(levels, [known.get(i, 0.0) for i in proposals.track_ids.tolist()])
        cutoff = np.maximum(config.keypoint_threshold, _LEAST_OF_BEST * best)
        valid = finite & (scores >= cutoff[:, None])
        count = valid.sum(axis=1)
        quality = np.where(valid, poses.keypoint_scores, 0).sum(axis=1) / np.maximum(count, 1)
        least = min(config.min_keypoints, self.skeleton.num_keypoints)
        kept = _chosen((count >= least) & (quality >= config.pose_threshold))
        return _Seen(
            sources=kept,
            ids=proposals.track_ids[kept],
            own=proposals.track_ids[kept] > 0,
            detected=proposals.detected[kept],
            keypoints=np.where(valid[kept][..., None], poses.keypoints_raw[kept], 0).astype(np.float32),
            valid=valid[kept],
            quality=quality[kept].astype(np.float32),
            levels=levels[kept],
            bboxes=proposals.bboxes[kept],
            bbox_scores=proposals.bbox_scores[kept],
        )

    def _camera_shift_by_boxes(self, tracks: _Tracks, bboxes: Floats) -> Floats:
        """Return the (2,) shift of the whole picture against what was expected, as the detections agree on it."""
        live = _chosen(tracks.visible) if len(bboxes) >= _FEWEST_AGREEING else ()
        if len(live) < _FEWEST_AGREEING:
            return np.zeros(2, np.float32)
        apart = _centers(bboxes)[None] - _centers(tracks.bboxes[live])[:, None]
        rows, cols = _plausible(apart, tracks.sizes[live], _sizes(bboxes))
        return _common_shift(apart[rows, cols], tracks.sizes[live[rows]], rows)

    def _camera_shift_by_joints(self, tracks: _Tracks, seen: _Seen) -> Floats:
        """Return the (2,) shift of the whole picture against what was expected, as the poses agree on it."""
        live = _chosen(tracks.visible)
        if len(live) < _FEWEST_AGREEING:
            return np.zeros(2, np.float32)
        pairs = tracks.ids[live][:, None] == seen.ids[None]
        new = _chosen(seen.ids == 0)
        if len(new):
            apart = _centers(seen.bboxes[new])[None] - _centers(tracks.bboxes[live])[:, None]
            rows, cols = _plausible(apart, tracks.sizes[live], _sizes(seen.bboxes[new]))
            pairs[rows, new[cols]] = True
        rows, cols = np.nonzero(pairs)
        who = live[rows]
        sizes = tracks.sizes[who]
        both = (tracks.keypoints_unseen_s[who] < 0.5) & seen.valid[cols]
        shifts, _ = _rigid_shift(tracks.keypoints[who], seen.keypoints[cols], both, sizes)
        some = both.sum(axis=1) >= 2
        return _common_shift(shifts[some], sizes[some], rows[some])

    def _distinct(self, seen: _Seen, tracks: _Tracks) -> _Seen:
        """Return one pose per person: of two that are alike, a confirmed track's before a detection's, then the better one.

        If another track's crop showed the same person, the pose that stays loses the bonus of growing from its own box:
        the assignment then decides by place alone whose it is.
        """
        count = len(seen.ids)
        if count < 2:
            return seen
        overlap = iou_matrix(seen.bboxes, seen.bboxes)
        first, second = np.nonzero(overlap > 0.1)
        first, second = first[first < second], second[first < second]
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
        visible = np.array([0 < i < _PROVISIONAL and tracks.missed[row_of_id[int(i)]] == 0 for i in seen.ids])
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
        return replace(seen, own=own).at(_chosen(alive))

    def _associate(self, tracks: _Tracks, seen: _Seen) -> tuple[Rows, Rows]:
        """Return which track (row) is which pose (column)."""
        if not len(tracks) or not len(seen.ids):
            return np.zeros(0, np.intp), np.zeros(0, np.intp)
        everything = np.arange(len(seen.ids))
        live_rows, live_cols = self._matched(tracks, _chosen(tracks.visible), seen, everything, 0.0)
        lost = _chosen(~tracks.visible)
        if not len(lost):
            return live_rows, live_cols
        # Out of sight comes second: a pose grown from the box of someone in view is that person or nobody.
        rest = np.setdiff1d(everything, live_cols)
        rest = rest[~np.isin(seen.ids[rest], tracks.ids[tracks.visible])]
        lost_rows, lost_cols = self._matched(tracks, lost, seen, rest, self._least_of_returning)
        return np.concatenate([live_rows, lost_rows]), np.concatenate([live_cols, lost_cols])

    def _matched(self, tracks: _Tracks, who: Rows, seen: _Seen, what: Rows, least: float) -> tuple[Rows, Rows]:
        """Return the pairs of the chosen tracks and poses for which the evidence above ``least`` is greatest in all.

        Where a pose grew from the box of somebody in view, lies as expected, and nobody else is near, no evidence need be
        weighed: there is enough of it even if all joints moved outwards as far as ``_NEARLY`` allows, and too little for
        anybody at ``_ALONE``. So it is with most people in most frames.
        """
        if not len(who) or not len(what):
            return who[:0], what[:0]
        own = (tracks.ids[who, None] == seen.ids[None, what]) & seen.own[None, what]
        here, there = tracks.bboxes[who], seen.bboxes[what]
        apart = np.abs(_centers(there)[None] - _centers(here)[:, None]).max(axis=2) / _sizes(here)[:, None]
        settled = own & _undisputed(own | (apart < _ALONE)) & tracks.visible[who, None]
        rows, cols = settled.nonzero()
        settled[rows, cols] = _as_expected(tracks, who[rows], seen, what[cols])
        if settled.sum() == min(settled.shape):
            rows, cols = settled.nonzero()
            return who[rows], what[cols]
        gains = settled.astype(np.float32)
        rows, cols = ((own | (apart < 2)) & ~settled.any(axis=1)[:, None] & ~settled.any(axis=0)).nonzero()
        gains[rows, cols] = _evidence(tracks, who[rows], seen, what[cols]) + _OWN_BONUS * own[rows, cols] - least
        rows, cols = match(gains, gains > 0)
        return who[rows], what[cols]

    @property
    def _least_of_returning(self) -> float:
        """Evidence that it takes to believe in a return: more where newcomers are frequent."""
        return _NEWCOMER_GAIN * math.log(max(self._state.newcomers_per_s, 1.0))

    def _returned(self, followed: _Tracks, lost: _Tracks, seen: _Seen) -> tuple[_Tracks, _Tracks, int]:
        """Return the tracks after checking of all that are to be shown for the first time whether they are somebody lost.

        Of a person who comes out from behind another, the first frame shows half a body, with joints that are guesses. It
        starts a track that is not shown yet; only when that is about to be shown is enough known to recognise the person.

        Args:
            followed: The tracks seen in this frame.
            lost: Those out of sight.
            seen: The pose of each followed track, in their order.

        Returns:
            Followed and lost tracks, and how many of the lost became followed ones.
        """
        fresh = _chosen(followed.confirmed & (followed.ids >= _PROVISIONAL))
        if not len(fresh) or not len(lost):
            return followed, lost, 0
        back, rows = self._matched(lost, np.arange(len(lost)), seen, fresh, self._least_of_returning)
        ids, away = followed.ids.copy(), np.ones(len(lost), bool)
        ids[rows], away[back] = lost.ids[back], False
        return followed.changed(ids=ids), lost[away], len(back)

    def _convincing(self, seen: _Seen) -> Bools:
        """Return (P,) bool, whose evidence is good enough to confirm a track at once."""
        good = (seen.quality >= self.config.confirm_pose_threshold) & seen.detected
        convincing: Bools = good & (seen.bbox_scores >= self.config.confirm_bbox_threshold)
        return convincing

    def _followed(self, before: _Tracks, now: _Seen, *, step: float) -> _Tracks:
        """Return the expected tracks after a frame in which all of them were seen.

        Weak evidence counts when a second detection supports it; in hindsight, which need not hurry, only for a person who
        has been seen for a while.
        """
        count = len(before)
        least = _WEAK_S / step if self._hindsight else 1
        supported = now.detected & (before.hits >= least)
        return _corrected(before, now, np.float32(step)).changed(
            missed=np.zeros(count, np.int64),
            unseen_s=np.zeros(count, np.float32),
            coasted=np.zeros((count, 2), np.float32),
            hits=before.hits + 1,
            levels=np.maximum(now.levels, before.levels * np.float32(0.98)),
            bbox_scores=now.bbox_scores,
            confirmed=before.confirmed | supported | self._convincing(now),
            smoothing=_restarted(before.smoothing, before.missed > 0),
        )

    def _still_lost(
        self, gone: _Tracks, followed: _Tracks, *, step: float, frame_size_wh: tuple[int, int] | None, open_s: float
    ) -> _Tracks:
        """Return those of the tracks without a pose in this frame that are worth remembering.

        Who went behind somebody is expected back for ``track_lost_s``. Who vanished in the open, or at the edge of the
        frame, may have left; where newcomers are frequent, whoever appears there is soon more likely one of them.
        """
        if not len(gone):
            return gone
        missed = gone.missed + 1
        covered_now = _covered(gone.bboxes, followed.bboxes[followed.confirmed], frame_size_wh)
        covered = np.where(missed == 1, covered_now, gone.covered | (covered_now & (missed <= 3)))
        longest = self.config.track_lost_s
        memory = np.where(covered, longest, min(max(open_s, _OPEN_S), longest))
        unseen = gone.unseen_s + np.float32(step)
        kept = gone.confirmed & (unseen <= np.maximum(memory, 1.5 * step))
        return gone.changed(missed=missed, unseen_s=unseen, covered=covered)[kept]

    def _born(self, seen: _Seen, *, number: int) -> _Tracks:
        count, num_keypoints = seen.valid.shape
        sizes = _sizes(seen.bboxes)
        extents = _extents(seen.keypoints, _near(seen.keypoints, seen.valid, seen.bboxes))
        margins = _margins(extents, seen.bboxes, sizes)
        founded = np.arange(number + 1, number + count + 1, dtype=np.int64)
        return _Tracks(
            ids=founded + _PROVISIONAL,
            founded=founded,
            confirmed=self._convincing(seen),
            missed=np.zeros(count, np.int64),
            unseen_s=np.zeros(count, np.float32),
            covered=np.zeros(count, bool),
            hits=np.ones(count, np.int64),
            levels=seen.levels,
            bbox_scores=seen.bbox_scores,
            bboxes=seen.bboxes,
            margins=margins,
            keypoints=seen.keypoints,
            keypoints_unseen_s=np.where(seen.valid, 0, np.inf).astype(np.float32),
            velocities=np.zeros((count, 2), np.float32),
            coasted=np.zeros((count, 2), np.float32),
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
        ids = tracks.ids
        if self._hindsight:
            known = dict(zip(tracks.founded.tolist(), ids.tolist(), strict=True))
            self.identities |= {number: identity for number, identity in known.items() if identity < _PROVISIONAL}
            ids = tracks.founded
        rows = _chosen(tracks.confirmed | self._hindsight)
        rows = rows[np.argsort(ids[rows])]
        bboxes = tracks.bboxes[rows]
        chosen = sources[rows]
        probabilities = poses.keypoint_probabilities
        return Poses(
            keypoints=smoothed[rows],
            keypoint_scores=poses.keypoint_scores[chosen],
            bboxes=bboxes if frame_size_wh is None else clip_boxes(bboxes, frame_size_wh),
            bbox_scores=tracks.bbox_scores[rows],
            skeleton=poses.skeleton,
            track_ids=ids[rows],
            keypoints_raw=poses.keypoints_raw[chosen],
            keypoint_probabilities=None if probabilities is None else probabilities[chosen],
            frame_index=self._state.stats.frames,
            timestamp_s=timestamp_s,
            frame_size_wh=frame_size_wh,
        )


def _named(tracks: _Tracks, next_id: int) -> tuple[_Tracks, int]:
    """Give those that were confirmed just now their identities, in the order in which they were first seen.

    Returns:
        The tracks, and the next identity that is free.
    """
    rows = _chosen(tracks.confirmed & (tracks.ids >= _PROVISIONAL))
    if not len(rows):
        return tracks, next_id
    ids = tracks.ids.copy()
    ids[rows[np.argsort(tracks.ids[rows])]] = np.arange(next_id, next_id + len(rows))
    return tracks.changed(ids=ids), next_id + len(rows)


def _chosen(mask: Bools) -> Rows:
    """Return where a (N,) mask is true, in a fifth of the time that ``np.flatnonzero`` takes."""
    return mask.nonzero()[0]


def _all_in_order(rows: Bools | Rows, count: int) -> bool:
    """Say whether these are all rows of ``count`` as they stand, which is so in most frames."""
    if len(rows) != count:
        return False
    return bool(rows.all()) if rows.dtype == bool else rows.tolist() == list(range(count))


def _count(value: object) -> bool:
    return is_whole(value) and value >= 1


def _check_frame(timestamp_s: float, frame_size_wh: tuple[int, int] | None) -> None:
    check_option("timestamp_s", timestamp_s, "a finite number of seconds", fine=is_number(timestamp_s))
    if frame_size_wh is not None and min(frame_size_wh) < 1:
        raise InputError(f"frame_size_wh must be a positive width and height, got {frame_size_wh!r}.")


def _all_but_gone(tracks: _Tracks, lost: _Tracks) -> bool:
    """Return whether several people were in view, and hardly any of them was seen in this frame."""
    before = np.count_nonzero(tracks.visible & tracks.confirmed)
    vanished = np.count_nonzero(lost.missed == 1)
    return bool(before >= 2 and vanished >= 0.8 * before)


def _twice(places: Floats) -> Floats:
    """Return (…, 4): the (…, 2) once for each corner of a box."""
    return np.concatenate([places, places], axis=-1)


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


def _moved(tracks: _Tracks, step: float, camera_velocity: tuple[float, float]) -> _Tracks:
    """Return the tracks after ``step`` seconds of their motion and of the whole picture's."""
    dt = np.float32(step)
    velocities = tracks.velocities
    if not tracks.visible.all():
        fading = np.where(tracks.visible, np.float32(1), np.float32(math.exp(-step / _COASTING_S)))
        velocities = velocities * fading[:, None]
    shift = tracks.velocities * dt
    moved = tracks.changed(
        keypoints_unseen_s=tracks.keypoints_unseen_s + dt, velocities=velocities, coasted=tracks.coasted + shift
    )
    return _shifted(moved, shift + np.array(camera_velocity, np.float32) * np.float32(min(step, 0.2)))


def _shifted(tracks: _Tracks, shift: Floats) -> _Tracks:
    """Return the tracks moved by (2,) or (T, 2) pixels."""
    if not shift.any():
        return tracks
    shift = shift.astype(np.float32, copy=False)
    return tracks.changed(bboxes=tracks.bboxes + _twice(shift), keypoints=tracks.keypoints + shift[..., None, :])


def _plausible(apart: Floats, sizes: Floats, other_sizes: Floats) -> tuple[Rows, Rows]:
    """Return the pairs of people who are close enough and alike enough in size to be one, moved with the picture."""
    reach = 1.5 * sizes[:, None]
    ratio = np.abs(np.log(other_sizes[None] / sizes[:, None]))
    rows, cols = np.nonzero((np.abs(apart).max(axis=2) < reach) & (ratio < 0.4))
    return rows, cols


def _common_shift(shifts: Floats, sizes: Floats, people: Rows) -> Floats:
    """Return the (2,) shift that most people share; zero unless three or more, and at least half of them, do.

    Args:
        shifts: (E, 2) pixels by which a person may have moved.
        sizes: (E,) that person's size in pixels.
        people: (E,) who it is.
    """
    count = len(set(people.tolist()))
    if count < _FEWEST_AGREEING:
        return np.zeros(2, np.float32)
    apart = np.abs(shifts[:, None] - shifts[None]).max(axis=2)
    agreeing = apart < (0.12 * sizes + 1)[None]
    best = agreeing[agreeing.sum(axis=1).argmax()]
    if len(set(people[best].tolist())) < max(_FEWEST_AGREEING, count / 2):
        return np.zeros(2, np.float32)
    weight = 1 / sizes[best] ** 2
    return np.asarray(weight @ shifts[best] / weight.sum(), np.float32)


def _camera_velocity(velocity: tuple[float, float], shift: Floats, step: float) -> tuple[float, float]:
    """Return the velocity of the picture after it moved by ``shift`` more than expected in ``step`` seconds."""
    fading = math.exp(-step / _CAMERA_MEMORY_S)
    x, y = (v * fading + _CAMERA_GAIN * float(d) / step for v, d in zip(velocity, shift, strict=True))
    return x, y


def _rescaled(tracks: _Tracks, old_wh: tuple[int, int], new_wh: tuple[int, int]) -> _Tracks:
    """Return the tracks in a frame of another size: the same picture scaled, or else nobody is known there."""
    factors = np.array([new_wh[0] / old_wh[0], new_wh[1] / old_wh[1]], np.float32)
    if not 0.97 < factors[0] / factors[1] < 1.03:
        return tracks[np.zeros(len(tracks), bool)]
    return tracks.changed(
        bboxes=tracks.bboxes * _twice(factors),
        keypoints=tracks.keypoints * factors,
        velocities=tracks.velocities * factors,
        coasted=tracks.coasted * factors,
        smoothing=tracks.smoothing.scaled(factors),
    )


def _corrected(before: _Tracks, now: _Seen, step: np.float32) -> _Tracks:
    """Return the expected tracks corrected by what was seen of them."""
    sizes = before.sizes
    recovered = (before.missed > 0)[:, None]
    both = now.valid & (before.keypoints_unseen_s <= 1.5 * step) & ~recovered
    enough = both.sum(axis=1, keepdims=True) >= 2
    by_joints, agreement = _rigid_shift(before.keypoints, now.keypoints, both, sizes)
    if not enough.all():
        by_joints = np.where(enough, by_joints, _centers(now.bboxes) - _centers(before.bboxes))
        agreement = np.where(enough[:, 0], agreement, 0.5)
    shift, elapsed = by_joints, before.unseen_s + step
    share = 1 - np.exp(-elapsed / _VELOCITY_MEMORY_S)
    share = np.maximum(share, 1 / (before.hits + 1)) * agreement
    velocities = before.velocities + (share / elapsed)[:, None] * shift

    keypoints = np.where(now.valid[..., None], now.keypoints, before.keypoints + shift[:, None])
    unseen = np.where(now.valid, np.float32(0), before.keypoints_unseen_s)
    expected = np.where(recovered, now.bboxes, before.bboxes + _twice(shift))
    extents = _extents(keypoints, _near(keypoints, unseen < 1, expected))
    detected = now.detected[:, None]
    margins = before.margins
    if detected.any():
        fresh_margins = _margins(extents, now.bboxes, sizes)
        margins = np.where(detected & np.isfinite(extents), (margins + fresh_margins) / 2, margins)
    most = _BOX_CHANGE * _twice(expected[:, 2:] - expected[:, :2])
    by_joints = _framed(extents, margins, sizes, expected)
    bboxes = expected + np.clip(_BOX_GAIN * (by_joints - expected), -most, most)
    bboxes = np.where(detected, (bboxes + now.bboxes) / 2, bboxes)
    return before.changed(
        bboxes=bboxes.astype(np.float32),
        margins=margins,
        keypoints=keypoints,
        keypoints_unseen_s=unseen,
        velocities=velocities.astype(np.float32),
    )


def _rigid_shift(expected: Floats, observed: Floats, both: Bools, sizes: Floats) -> tuple[Floats, Floats]:
    """Return the (N, 2) shifts of whole bodies, from joints of which some may be wrong, and (N,) the share that agree.

    The median over the joints, sharpened by the mean over those that agree with it.
    """
    count = np.maximum(both.sum(axis=1), 1)
    difference = observed - expected
    median = _median(difference, both)
    apart = difference - median[:, None]
    weight = np.where(both, np.exp(-_squared(apart) / (2 * (0.1 * sizes[:, None]) ** 2)), 0)
    total = weight.sum(axis=1)
    shift = median + _weighted(apart, weight) / np.maximum(total, 1e-6)[:, None]
    return shift.astype(np.float32), (total / count).astype(np.float32)


def _squared(vectors: Floats) -> Floats:
    """Return (…) squared lengths of (…, 2); several times as fast as a sum over so short an axis."""
    squared: Floats = vectors[..., 0] ** 2 + vectors[..., 1] ** 2
    return squared


def _weighted(places: Floats, weights: Floats) -> Floats:
    """Return (N, 2) sums of (N, K, 2) with (N, K) weights."""
    return np.asarray(np.einsum("nk,nkc->nc", weights, places))


def _median(values: Floats, valid: Bools) -> Floats:
    """Return (N, 2) medians of (N, K, 2) over the valid ones; zero where there are none."""
    middle = (np.maximum(valid.sum(axis=1), 1) - 1) // 2
    ranked = np.sort(np.where(valid[..., None], values, np.inf), axis=1)
    median: Floats = ranked[np.arange(len(values)), middle]
    median[~np.isfinite(median)] = 0
    return median


def _undisputed(near: Bools) -> Bools:
    """Return (N, M) which pairs have no other in their row and none in their column.

    >>> _undisputed(np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]], bool)).astype(int).tolist()
    [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    """
    undisputed: Bools = near & (near.sum(axis=1) == 1)[:, None] & (near.sum(axis=0) == 1)
    return undisputed


def _as_expected(tracks: _Tracks, rows: Rows, seen: _Seen, cols: Rows) -> Bools:
    """Return (P,) whether each pose (column) has all its joints where they are expected of the track (row), or nearly."""
    both = seen.valid[cols] & (tracks.keypoints_unseen_s[rows] < 0.5)
    moved = np.abs(seen.keypoints[cols] - tracks.keypoints[rows]).max(axis=2)
    near = (moved < _NEARLY * tracks.sizes[rows, None]) | ~both
    as_expected: Bools = near.all(axis=1) & (both.sum(axis=1) >= 3)
    return as_expected


def _evidence(tracks: _Tracks, rows: Rows, seen: _Seen, cols: Rows) -> Floats:
    """Return (P,) by how much each of P poses (columns) speaks for a track (row), as the log of a likelihood ratio.

    The alternative is a person of whom nothing is known. What counts is the place of the body as one, its size, and how
    its joints lie; how much each counts depends on how long ago the track was seen.
    """
    bboxes, keypoints = tracks.bboxes[rows], tracks.keypoints[rows]
    seen_bboxes, seen_keypoints = seen.bboxes[cols], seen.keypoints[cols]
    unseen = tracks.unseen_s[rows] + np.float32(_NOMINAL_STEP_S)
    age = np.sqrt(unseen)
    place = _PLACE + _PLACE_DRIFT * age
    size = _SIZE + _SIZE_DRIFT * age
    shape = _SHAPE + _SHAPE_DRIFT * np.minimum(age, 1)

    sizes = _sizes(bboxes)
    both = (tracks.keypoints_unseen_s[rows] < 1 + unseen[:, None]) & seen.valid[cols]
    joints = both.sum(axis=1)
    enough = joints >= 3
    moved = seen_keypoints - keypoints
    astray = _squared(moved - _median(moved, both)[:, None]) > np.square(_ASTRAY * sizes)[:, None]
    agreeing = both & ~astray
    share = agreeing / np.maximum(agreeing.sum(axis=1), 1)[:, None]
    here_mean, there_mean = _weighted(keypoints, share), _weighted(seen_keypoints, share)
    here, there = keypoints - here_mean[:, None], seen_keypoints - there_mean[:, None]
    radius_here = np.sqrt((share * _squared(here)).sum(axis=1)) + 1
    radius_there = np.sqrt((share * _squared(there)).sum(axis=1)) + 1
    residual = _squared(there * (radius_here / radius_there)[:, None, None] - here)
    residual = np.minimum(residual / np.square(sizes)[:, None], _SHAPE_MOST**2)
    apart = (both * residual).sum(axis=1) / np.maximum(joints, 1)

    offset = np.where(enough[:, None], there_mean - here_mean, _centers(seen_bboxes) - _centers(bboxes))
    offset = offset / sizes[:, None]
    # Someone out of sight may have stopped anywhere on the way.
    path = tracks.coasted[rows] / sizes[:, None]
    along = (offset * path).sum(axis=1) / np.maximum(_squared(path), 1e-9)
    offset = offset - np.clip(along, -1, 0)[:, None] * path
    grown = np.where(enough, np.log(radius_there / radius_here), np.log(_sizes(seen_bboxes) / sizes))
    grown = np.minimum(np.abs(grown), 1.5)

    by_place = -2 * np.log(place) - _squared(offset) / (2 * place**2)
    by_size = np.log(_ANY_SIZE / size) - grown**2 * (1 / size**2 - 1 / _ANY_SIZE**2) / 2
    by_shape = _SHAPE_FREEDOM * (np.log(_ANY_SHAPE / shape) - apart * (1 / shape**2 - 1 / _ANY_SHAPE**2) / 2)
    evidence: Floats = by_place + by_size + np.where(enough, by_shape, 0) - _FADING * unseen
    return evidence


def _restarted(smoothing: SmoothingState, rows: Bools) -> SmoothingState:
    """Return the state in which the joints of the chosen people start afresh."""
    if not rows.any():
        return smoothing
    return replace(smoothing, unseen_s=np.where(rows[:, None], np.float32(np.inf), smoothing.unseen_s))


def _near(keypoints: Floats, valid: Bools, bboxes: Floats) -> Bools:
    """Return (N, K) which valid joints lie in the box or not far from it."""
    sides = bboxes[:, 2:] - bboxes[:, :2]
    low, high = bboxes[:, :2] - _STRAY_MARGIN * sides, bboxes[:, 2:] + _STRAY_MARGIN * sides
    inside = (keypoints >= low[:, None]) & (keypoints <= high[:, None])
    near: Bools = valid & inside.all(axis=2)
    return near


def _extents(keypoints: Floats, near: Bools) -> Floats:
    """Return (N, 4) boxes around the joints that are near; infinite where none is."""
    low = np.where(near[..., None], keypoints, np.inf).min(axis=1)
    high = np.where(near[..., None], keypoints, -np.inf).max(axis=1)
    return np.concatenate([low, high], axis=1)


def _rate(rate: float, count: int, step: float) -> float:
    """Return the running mean per second of something that happened ``count`` times in ``step`` seconds."""
    share = 1 - math.exp(-step / _NEWCOMER_MEMORY_S)
    return rate + share * (count / step - rate)


def _covered(bboxes: Floats, others: Floats, frame_size_wh: tuple[int, int] | None) -> Bools:
    """Return (N,) whether someone in front covers a good part of each box, and the box is not at the frame's edge."""
    top_left = np.maximum(bboxes[:, None, :2], others[None, :, :2])
    sides = np.maximum(np.minimum(bboxes[:, None, 2:], others[None, :, 2:]) - top_left, 0)
    share = sides.prod(axis=2) / np.square(_sizes(bboxes))[:, None]
    in_front = others[None, :, 3] > (bboxes[:, 3] - 0.05 * (bboxes[:, 3] - bboxes[:, 1]))[:, None]
    covered: Bools = ((share > _COVERED_SHARE) & in_front).any(axis=1)
    if frame_size_wh is not None:
        covered &= (bboxes[:, 0] > 2) & (bboxes[:, 2] < frame_size_wh[0] - 2)
    return covered


def _margins(extents: Floats, bboxes: Floats, sizes: Floats) -> Floats:
    """Return (N, 4) how far the boxes reach beyond the joints' extents, in body sizes; 0 without joints."""
    margins = (bboxes - extents) * _OUTWARD / sizes[:, None]
    return np.where(np.isfinite(margins), margins, 0).astype(np.float32)


def _framed(extents: Floats, margins: Floats, sizes: Floats, otherwise: Floats) -> Floats:
    """Return (N, 4) boxes around the joints' extents with the given margins; ``otherwise`` where that gives no box."""
    boxes = extents + _OUTWARD * margins * sizes[:, None]
    large = boxes[:, 2:] - boxes[:, :2] > 0.2 * (otherwise[:, 2:] - otherwise[:, :2])
    return np.where(large.all(axis=1, keepdims=True), boxes, otherwise).astype(np.float32)
