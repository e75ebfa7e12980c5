"""The trackers of the laboratory, each behind the same call: a frame's number in, people with ids out.

A peer is driven through its own public interface, with the observer in the place of its models, and wherever its
interface leaves a choice, the one that is better for it is taken:

- rtmlib returns no ids; they are read off its bookkeeping at the moment they are decided, before its reordering permutes people,
  and poses without evidence are dropped as a user of its scores would drop them.
- A box tracker has no poses; the observer's pose in each box is added. Between detections, and in the place of a detection that
  failed, it gets the boxes around the last poses, without those that overlap: that serves it better than to feed the same boxes
  back as they are, or to leave it without any.
- MMDeploy's tracker exists only in C++ and binds to network files. It runs in an environment of its own, on frames and networks
  that say what the observer says (``scripted.py``). Beside it runs its algorithm, written again from its description: pool,
  suppress, match by gated Mahalanobis distance per joint, then by overlap; ten frames of memory.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from world import SKELETON, Observer

from rtmpose_infer.evaluation.tracking import PeopleFrame
from rtmpose_infer.geometry import boxes_from_keypoints, iou_matrix, nms, oks_matrix
from rtmpose_infer.tracker import Tracker, TrackerConfig

Step = Callable[[int], PeopleFrame]
EVIDENCE = 0.3
BOX_TRACKER_OPTIONS: dict[str, dict[str, object]] = {
    "ByteTrackTracker": {},
    "OCSORTTracker": {},
    "BoTSORTTracker": {"enable_cmc": False},  # there are no pictures to read the camera's motion from
    "CBIoUTracker": {},
}


def ours(observer: Observer, det_interval: int | str = 5, **options: object) -> Step:
    """Return this project's tracker."""
    tracker = Tracker(SKELETON, TrackerConfig(det_interval=det_interval, **options))
    size = observer.scene.frame_size_wh

    def step(frame: int) -> PeopleFrame:
        time_s = float(observer.scene.times_s[frame])
        due = tracker.detection_due(time_s, size)
        detections = observer.detect(frame) if due else None
        proposals = tracker.propose(detections, timestamp_s=time_s, frame_size_wh=size)
        poses = observer.pose(frame, proposals.bboxes, proposals.bbox_scores)
        shown = tracker.update(proposals, poses, timestamp_s=time_s, detected=due)
        return PeopleFrame(shown.track_ids, shown.bboxes, shown.keypoints)

    return step


def rtmlib(observer: Observer, det_interval: int = 5) -> Step:
    """Return rtmlib's PoseTracker."""
    from rtmlib import PoseTracker

    now = [0]

    class Detector:
        det_mode = "human"

        def __call__(self, _: object) -> np.ndarray:
            return observer.detect(now[0]).bboxes

    class Network:
        def __call__(self, _: object, bboxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            boxes = np.asarray(bboxes, np.float32).reshape(-1, 4)
            if not len(boxes):  # without boxes rtmlib's networks take the whole frame for a person
                boxes = np.array([[0, 0, *observer.scene.frame_size_wh]], np.float32)
            poses = observer.pose(now[0], boxes)
            self.last = poses
            return poses.keypoints.copy(), poses.keypoint_scores.copy()

    class Models:
        def __init__(self, **_: object) -> None:
            self.det_model, self.pose_model = Detector(), Network()

    class Watched(PoseTracker):
        def track_by_iou(self, bbox: np.ndarray) -> tuple[int, object]:
            answer = super().track_by_iou(bbox)
            self.decided.append(answer[0])
            return answer

    with contextlib.redirect_stdout(io.StringIO()):
        tracker = Watched(Models, det_frequency=det_interval)

    def step(frame: int) -> PeopleFrame:
        now[0] = frame
        tracker.decided = []
        tracker(None)
        poses = tracker.pose_model.last
        ids = np.array(tracker.decided, np.int64)
        good = (poses.keypoint_scores.mean(axis=1) >= EVIDENCE) & (ids >= 0)
        _, first = np.unique(ids[good], return_index=True)
        rows = np.flatnonzero(good)[first]
        return PeopleFrame(ids[rows], _padded(poses.keypoints[rows]), poses.keypoints[rows])

    return step


def box_tracker(observer: Observer, name: str, det_interval: int = 5, **options: object) -> Step:
    """Return a tracker of the package ``trackers`` by class name, its people posed by the observer."""
    import supervision
    import trackers

    tracker = getattr(trackers, name)(**BOX_TRACKER_OPTIONS[name] | options)
    followed = [np.zeros((0, 4), np.float32), np.zeros(0, np.float32)]

    def step(frame: int) -> PeopleFrame:
        boxes, scores = followed
        kept = nms(boxes, scores, iou_threshold=0.5)
        boxes, scores = boxes[kept], scores[kept]
        if frame % det_interval == 0:
            found = observer.detect(frame)
            # Whom the detector missed is still there: where no detection is, the boxes around the last poses stand in.
            missed = ~(iou_matrix(boxes, found.bboxes) > 0.5).any(axis=1)
            boxes = np.concatenate([found.bboxes, boxes[missed]])
            scores = np.concatenate([found.scores, scores[missed]])
        tracked = tracker.update(
            supervision.Detections(xyxy=boxes.copy(), confidence=scores.copy(), class_id=np.zeros(len(boxes), int))
        )
        ids = np.asarray(tracked.tracker_id if tracked.tracker_id is not None else [], np.int64)
        poses = observer.pose(frame, tracked.xyxy)
        good = poses.keypoint_scores.mean(axis=1) >= EVIDENCE
        followed[0] = _padded(poses.keypoints[good])
        followed[1] = np.asarray(tracked.confidence, np.float32)[good]
        shown = good & (ids >= 0)
        return PeopleFrame(ids[shown], np.asarray(tracked.xyxy)[shown], poses.keypoints[shown])

    return step


def mmdeploy_cpp(observer: Observer, det_interval: int = 5, *, python: str) -> Step:
    """Return MMDeploy's C++ PoseTracker with its defaults, except for the detector interval.

    The whole scene is played at the first frame; how many poses it estimated cannot be seen from outside.

    Args:
        observer: What there is to see; the scripted networks answer in his place.
        det_interval: Frames from one detection to the next.
        python: Interpreter of the environment with mmdeploy-runtime.
    """
    import scripted

    tracked: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    observer.poses_estimated = None

    def step(frame: int) -> PeopleFrame:
        if not tracked:
            tracked.extend(
                scripted.track(python, observer.sights, det_interval=det_interval, sigmas=SKELETON.oks_sigmas)
            )
        observer.detector_calls += frame % det_interval == 0
        return PeopleFrame(*tracked[frame])

    return step


def mmdeploy_algorithm(observer: Observer, det_interval: int = 5) -> Step:
    """Return MMDeploy's tracking algorithm with its defaults, except for the detector interval."""
    people: list[_MMDeployTrack] = []
    next_id = [0]
    size = observer.scene.frame_size_wh

    def step(frame: int) -> PeopleFrame:
        boxes, ranks, scores, owners = [], [], [], []
        if frame % det_interval == 0:
            found = observer.detect(frame)
            for box, score in zip(found.bboxes, found.scores, strict=True):
                if score >= 0.5:
                    boxes.append(box), ranks.append(1), scores.append(score), owners.append(None)
        for person in people:
            box = person.predicted_box()
            if box is not None:
                visible = person.missing == 0
                boxes.append(box), ranks.append(2 if visible else 0), scores.append(1.0), owners.append(person)
        pooled = np.array(boxes, np.float32).reshape(-1, 4)
        kept = nms(pooled, np.array(ranks) * 10 + np.array(scores, float), iou_threshold=0.7)
        poses = observer.pose(frame, np.clip(pooled[kept], 0, np.array([*size, *size])))
        owner_of = [owners[i] for i in kept]
        rank_of = np.array([ranks[i] for i in kept])
        strong = poses.keypoint_scores >= 0.5
        alive = strong.sum(axis=1) >= 9
        order = [i for i in np.lexsort((-poses.keypoint_scores.mean(axis=1), rank_of != 2)) if alive[i]]
        own_box = boxes_from_keypoints(poses.keypoints, strong)
        area = np.maximum((own_box[:, 2:] - own_box[:, :2]).prod(axis=1), 1)
        alike = oks_matrix(poses.keypoints, poses.keypoints, areas=area, sigmas=SKELETON.oks_sigmas)
        chosen: list[int] = []
        for i in order:
            if all(alike[i, j] <= 0.5 for j in chosen):
                chosen.append(i)
        candidates = {i: _grown(own_box[i]) for i in chosen}
        matched: dict[int, _MMDeployTrack] = {}
        pairs = []
        for person in people:
            if person.missing == 0:
                for i in chosen:
                    if owner_of[i] is None or owner_of[i] is person:
                        pairs.append((person.likeness(poses.keypoints[i], strong[i]), id(person), i, person))
        taken: set[int] = set()
        for gain, _, i, person in sorted(pairs, key=lambda p: -p[0]):
            if gain > -1 and i not in matched and id(person) not in taken:
                matched[i] = person
                taken.add(id(person))
        pairs = []
        for person in people:
            if id(person) not in taken:
                for i in chosen:
                    if i not in matched:
                        overlap = float(iou_matrix(person.last_box[None], candidates[i][None])[0, 0])
                        pairs.append((overlap, id(person), i, person))
        for overlap, _, i, person in sorted(pairs, key=lambda p: -p[0]):
            if overlap >= 0.4 and i not in matched and id(person) not in taken:
                matched[i] = person
                taken.add(id(person))
        for i in chosen:
            person = matched.get(i)
            if person is None:
                person = _MMDeployTrack(next_id[0])
                next_id[0] += 1
                people.append(person)
                taken.add(id(person))
            person.correct(poses.keypoints[i], poses.keypoint_scores[i], strong[i], candidates[i])
        for person in people:
            if id(person) not in taken:
                person.missing += 1
        people[:] = [p for p in people if p.missing <= 10]
        for person in people:
            person.predict()
        shown = [p for p in people if p.missing == 0]
        return PeopleFrame(
            np.array([p.id for p in shown], np.int64),
            np.array([p.last_box for p in shown], np.float32).reshape(-1, 4),
            np.array([p.shown for p in shown], np.float32).reshape(-1, 17, 2),
        )

    return step


@dataclass
class _MMDeployTrack:
    """A person with a constant-velocity Kalman filter per joint and one for the box."""

    id: int
    missing: int = 0
    mean: np.ndarray | None = None  # (18, 4) of joints and the box centre: x, y, vx, vy
    cov: np.ndarray | None = None  # (18, 3) place, cross, velocity
    last_box: np.ndarray = field(default_factory=lambda: np.zeros(4))
    strong: np.ndarray | None = None
    shown: np.ndarray | None = None
    velocity: np.ndarray | None = None

    def _size(self) -> float:
        return float(np.sqrt(max((self.last_box[2] - self.last_box[0]) * (self.last_box[3] - self.last_box[1]), 1)))

    def predicted_box(self) -> np.ndarray | None:
        if self.missing:
            center = self.mean[17, :2]
            half = (self.last_box[2:] - self.last_box[:2]) / 2
            return np.concatenate([center - half, center + half])
        if self.strong.sum() < 9:
            return None
        points = self.mean[:17, :2][self.strong]
        return _grown(np.concatenate([points.min(0), points.max(0)]))

    def likeness(self, keypoints: np.ndarray, strong: np.ndarray) -> float:
        both = strong & self.strong
        if not both.any():
            return -np.inf
        noise = (self._size() / 20) ** 2
        squared = ((keypoints - self.mean[:17, :2]) ** 2).sum(axis=1) / (self.cov[:17, 0] + noise)
        gated = squared > 5.99
        inside = both & ~gated
        distance = float(squared[inside].mean()) if inside.any() else 5.99
        return 1 - distance / 5.99 - float((both & gated).sum()) / both.sum() * 2

    def correct(self, keypoints: np.ndarray, scores: np.ndarray, strong: np.ndarray, box: np.ndarray) -> None:
        measured = np.concatenate([keypoints, ((box[:2] + box[2:]) / 2)[None]])
        recovered = self.missing > 0
        self.last_box = box
        size = self._size()
        position, speed = (size / 20) ** 2, (size / 160) ** 2
        if self.mean is None or recovered:
            self.mean = np.concatenate([measured, np.zeros((18, 2))], axis=1)
            self.cov = np.tile([2 * position, 0.0, 10 * speed], (18, 1))
        else:
            total = self.cov[:, 0] + position
            gain, turn = self.cov[:, 0] / total, self.cov[:, 1] / total
            rest = measured - self.mean[:, :2]
            self.mean[:, :2] += gain[:, None] * rest
            self.mean[:, 2:] += turn[:, None] * rest
            self.cov = np.stack(
                [self.cov[:, 0] * (1 - gain), self.cov[:, 1] * (1 - gain), self.cov[:, 2] - turn * self.cov[:, 1]],
                axis=1,
            )
        if self.shown is None:
            self.shown, self.velocity = keypoints.copy(), np.zeros_like(keypoints)
        else:
            if recovered:
                self.velocity = np.zeros_like(keypoints)
            self.velocity += _gain(1.0) * ((keypoints - self.shown) - self.velocity)
            self.shown = self.shown + _gain(1.0 + 0.007 * np.abs(self.velocity)) * (keypoints - self.shown)
        self.strong, self.missing = strong, 0

    def predict(self) -> None:
        size = self._size()
        position, speed = (size / 20) ** 2, (size / 160) ** 2
        self.mean[:, :2] += self.mean[:, 2:]
        place, cross, velocity = self.cov.T
        self.cov = np.stack([place + 2 * cross + velocity + position, cross + velocity, velocity + speed], axis=1)


def _gain(cutoff: float | np.ndarray) -> np.ndarray:
    return 1 / (1 + 1 / (2 * np.pi * np.asarray(cutoff)))


def _grown(box: np.ndarray) -> np.ndarray:
    center, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * 1.25
    return np.concatenate([center - half, center + half])


def _padded(keypoints: np.ndarray) -> np.ndarray:
    """Return boxes 1.25 times as large as the joints' extent."""
    low, high = keypoints.min(axis=1), keypoints.max(axis=1)
    center, half = (low + high) / 2, (high - low) / 2 * 1.25
    return np.concatenate([center - half, center + half], axis=1).reshape(-1, 4).astype(np.float32)
