"""Long scenes of many people whose poses are known, and an observer who sees them imperfectly.

Who is where comes from people tracked by hand in real videos (MOTChallenge ground truth); how joints move inside a box
comes from real actions (Penn Action). The observer stands for the detector and the pose network: what he answers for a frame
and a box depends on nothing but the seed, the frame and the box, so every tracker sees the same world.

What the observer does wrong, each with a setting in ``Noise``:

- misses people, more of them the less is visible, and none are found of whom less than a fifth is;
- sees boxes where nobody is, and moves and stretches the boxes of those who are there;
- moves joints: one part that is the same whatever the crop, one that changes with the crop;
- in front of covered joints he is unsure (low scores), wanders, and takes the joint of the person in front;
- answers for a box with the person who fills it best and is not covered, which need not be the one it was meant for;
- cuts off joints outside the crop, and reports weak joints at random for an empty box.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from rtmpose_infer.evaluation.tracking import PeopleFrame
from rtmpose_infer.geometry import iou_matrix, nms
from rtmpose_infer.results import Detections, Poses
from rtmpose_infer.skeletons import load_skeleton

SKELETON = load_skeleton("coco17")
FRAME_SIZES = {"MOT17-05": (640, 480), "TUD-Campus": (640, 480)}
UPRIGHT = ("tennis_serve", "tennis_forehand", "baseball_pitch", "golf_swing", "bowl", "jumping_jacks", "strum_guitar")
HIDDEN = 0.2  # who is visible to a smaller share than this need not be found
_SUPPLY = 64
PoseAnswers = Callable[[int, np.ndarray], tuple[np.ndarray, np.ndarray]]  # frame, boxes; joints, scores


@dataclass(frozen=True)
class Noise:
    """How badly the observer sees; see the module."""

    miss: float = 0.10  # share of the visible people who are missed, each frame anew
    false_boxes: float = 0.15  # expected number per frame
    box: float = 0.03  # standard deviation of box edges, in sides
    joint: float = 0.02  # standard deviation of joints, in the square root of the box's area
    wander: float = 0.10  # the same for covered joints
    steal: float = 0.4  # probability that a covered joint is reported where the person in front has it
    occlusion: bool = True  # False: everybody is visible through everybody


NONE = Noise(miss=0, false_boxes=0, box=0, joint=0, wander=0, steal=0, occlusion=False)
MODERATE = Noise()
HEAVY = Noise(miss=0.25, false_boxes=0.5, box=0.06, joint=0.035, wander=0.2, steal=0.6)


@dataclass(frozen=True)
class TruthFrame:
    """The people of one frame, those in front last."""

    ids: np.ndarray  # (N,)
    bboxes: np.ndarray  # (N, 4)
    keypoints: np.ndarray  # (N, 17, 2)

    @cached_property
    def coverer(self) -> np.ndarray:
        """(N, 17) index of the person who covers the joint, -1 where it can be seen."""
        return _coverers(self.bboxes, self.keypoints)

    @cached_property
    def visible(self) -> np.ndarray:
        """(N,) share of the body that can be seen."""
        x, y = np.meshgrid(np.linspace(0.2, 0.8, 5), np.linspace(0.05, 0.95, 11))
        spots = np.stack([x.ravel(), y.ravel()], axis=1)
        sides = self.bboxes[:, 2:] - self.bboxes[:, :2]
        points = self.bboxes[:, None, :2] + spots * sides[:, None]
        return (_coverers(self.bboxes, points) < 0).mean(axis=1)


@dataclass(frozen=True)
class Scene:
    """A sequence of frames with their times."""

    name: str
    frame_size_wh: tuple[int, int]
    times_s: np.ndarray
    frames: Sequence[TruthFrame]

    def __len__(self) -> int:
        return len(self.frames)


def load_scenes(shared: Path, *, fps: float = 30.0, names: Sequence[str] | None = None, seed: int = 0) -> list[Scene]:
    """Return one scene for each MOTChallenge file, its frames played at ``fps``."""
    actions = _Actions(shared / "data" / "tracking" / "penn_action.npz")
    scenes = []
    for path in sorted((shared / "data" / "tracking" / "mot_gt").glob("*.txt")):
        if names is not None and path.stem not in names:
            continue
        rows = np.loadtxt(path, delimiter=",", ndmin=2)
        pedestrian = (rows[:, 6] != 0) & ((rows[:, 7] == 1) | (rows[:, 7] == -1))
        rows = rows[pedestrian]
        people = {int(i): actions.pick(zlib.crc32(f"{path.stem}/{int(i)}/{seed}".encode())) for i in set(rows[:, 1])}
        frames = []
        for number in range(1, int(rows[:, 0].max()) + 1):
            here = rows[rows[:, 0] == number]
            here = here[np.argsort(here[:, 3] + here[:, 5], kind="stable")]
            bboxes = np.concatenate([here[:, 2:4], here[:, 2:4] + here[:, 4:6]], axis=1)
            ids = here[:, 1].astype(np.int64)
            places = np.array([people[int(i)](number / fps) for i in ids]).reshape(-1, 17, 2)
            keypoints = bboxes[:, None, :2] + places * (bboxes[:, 2:] - bboxes[:, :2])[:, None]
            frames.append(TruthFrame(ids, bboxes.astype(np.float32), keypoints.astype(np.float32)))
        size = FRAME_SIZES.get(path.stem, (1920, 1080))
        scenes.append(Scene(path.stem, size, np.arange(len(frames)) / fps, frames))
    return scenes


def with_dropped_frames(scene: Scene, *, share: float, seed: int = 0) -> Scene:
    """Return the scene without a random share of its frames; the others keep their times."""
    kept = np.flatnonzero(np.random.default_rng(seed).random(len(scene)) >= share)
    return Scene(f"{scene.name} dropped", scene.frame_size_wh, scene.times_s[kept], [scene.frames[i] for i in kept])


def at_rate(scene: Scene, *, every: int) -> Scene:
    """Return the scene at a fraction of its frame rate."""
    return Scene(f"{scene.name} 1/{every}", scene.frame_size_wh, scene.times_s[::every], scene.frames[::every])


def with_cuts(scene: Scene, *, every: int) -> Scene:
    """Return the scene as if the camera cut to its mirror image and back every so many frames; people get new ids there."""
    frames, width = [], scene.frame_size_wh[0]
    for number, frame in enumerate(scene.frames):
        shot = number // every
        bboxes, keypoints = frame.bboxes, frame.keypoints
        if shot % 2:
            bboxes = np.stack([width - bboxes[:, 2], bboxes[:, 1], width - bboxes[:, 0], bboxes[:, 3]], axis=1)
            keypoints = keypoints * [-1, 1] + [width, 0]
        frames.append(TruthFrame(frame.ids + 100_000 * shot, bboxes, keypoints.astype(np.float32)))
    return Scene(f"{scene.name} cuts", scene.frame_size_wh, scene.times_s, frames)


class Sights:
    """What the observer sees in a scene, worked out once: the same for every tracker that is shown it.

    Args:
        scene: What there is to see.
        noise: How badly it is seen.
        seed: Another seed, another run of bad luck.
    """

    def __init__(self, scene: Scene, noise: Noise = MODERATE, *, seed: int = 0) -> None:
        self.scene, self.noise = scene, noise
        self._seed = [seed, zlib.crc32(scene.name.encode())]
        numbers = range(len(scene))
        self.visible = [
            scene.frames[i].visible if noise.occlusion else np.ones(len(scene.frames[i].ids)) for i in numbers
        ]
        self.detections = [self._detections(i) for i in numbers]
        self._joints = [self._joints_of(i) for i in numbers]

    def truth(self) -> list[PeopleFrame]:
        """Return the truth to compare with: joints that can be seen, and people who can."""
        out = []
        for frame, visible in zip(self.scene.frames, self.visible, strict=True):
            covered = (frame.coverer >= 0) & self.noise.occlusion
            keypoints = np.where(covered[..., None], np.nan, frame.keypoints)
            out.append(PeopleFrame(frame.ids, frame.bboxes, keypoints, (visible < HIDDEN) | covered.all(axis=1)))
        return out

    def joints(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Return everybody's (N, 17, 2) joints and (N, 17) scores as the network sees them whatever the crop."""
        return self._joints[frame]

    def supply(self, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what the frame's boxes draw from: (64, 17, 2) errors, and (64, 17, 2) places and (64, 17) scores of nobody.

        Errors count in half of ``Noise.joint`` and the square root of the person's area, places in the box's sides.
        """
        rng = np.random.default_rng([*self._seed, 3, frame])
        return (
            rng.normal(0, 1, (_SUPPLY, 17, 2)),
            rng.random((_SUPPLY, 17, 2)),
            rng.uniform(0.02, 0.35, (_SUPPLY, 17)),
        )

    def persons(self, frame: int, bboxes: np.ndarray) -> np.ndarray:
        """Return (M,) the index of the person whom the pose network sees in each of (M, 4) boxes, -1 where it is nobody."""
        truth = self.scene.frames[frame]
        if not (len(truth.ids) and len(bboxes)):
            return np.full(len(bboxes), -1)
        fill = iou_matrix(bboxes, truth.bboxes) * (0.25 + 0.75 * self.visible[frame])
        return np.where(fill.max(axis=1) > 0.12, fill.argmax(axis=1), -1)

    def poses(self, frame: int, bboxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (M, 17, 2) joints and (M, 17) scores that the pose network gives for (M, 4) boxes."""
        truth, noise = self.scene.frames[frame], self.noise
        keypoints, scores = self.joints(frame)
        # A box draws its errors from the frame's own small supply, so the same box gets the same answer.
        errors, places, doubts = self.supply(frame)
        drawn = [zlib.crc32(box.tobytes()) % _SUPPLY for box in (bboxes * 4).astype(np.int64)]
        sides = bboxes[:, 2:] - bboxes[:, :2]
        points = bboxes[:, None, :2] + places[drawn] * sides[:, None]
        sure = doubts[drawn]
        if len(truth.ids) and len(bboxes):
            person = self.persons(frame, bboxes)
            seen = person >= 0
            size = np.sqrt((truth.bboxes[:, 2:] - truth.bboxes[:, :2]).prod(axis=1))[person]
            there = keypoints[person] + 0.5 * noise.joint * size[:, None, None] * errors[drawn]
            crop = 1.25 * np.maximum(sides, sides[:, ::-1] * [0.75, 1 / 0.75])
            center = (bboxes[:, :2] + bboxes[:, 2:]) / 2
            inside = (np.abs(there - center[:, None]) < crop[:, None] / 2).all(axis=2)
            points = np.where(seen[:, None, None], there, points)
            sure = np.where(seen[:, None], np.where(inside, scores[person], 0.1), sure)
        return points.astype(np.float32), sure.astype(np.float32)

    def _detections(self, frame: int) -> Detections:
        """Return the detector's boxes, after its own non-maximum suppression."""
        truth, noise, visible = self.scene.frames[frame], self.noise, self.visible[frame]
        rng = np.random.default_rng([*self._seed, 1, frame])
        count = len(truth.ids)
        found = rng.random(count) < (1 - noise.miss) * np.clip((visible - 0.2) / 0.3, 0, 1)
        sides = np.tile(truth.bboxes[:, 2:] - truth.bboxes[:, :2], 2)
        boxes = truth.bboxes + rng.normal(0, 1, (count, 4)) * noise.box * sides
        scores = np.clip(0.45 + 0.5 * visible + rng.normal(0, 0.08, count) * (noise.miss > 0), 0.3, 0.99)
        width, height = self.scene.frame_size_wh
        false = rng.poisson(noise.false_boxes)
        tall = rng.uniform(0.1, 0.4, false) * height
        corner = rng.uniform(0, 1, (false, 2)) * [width, height] - np.stack([tall * 0.2, tall / 2], axis=1)
        false_boxes = np.concatenate([corner, corner + np.stack([tall * 0.4, tall], axis=1)], axis=1)
        boxes = np.concatenate([boxes[found], false_boxes]).astype(np.float32)
        scores = np.concatenate([scores[found], rng.uniform(0.3, 0.7, false)]).astype(np.float32)
        boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
        large = ((boxes[:, 2:] - boxes[:, :2]) > 4).all(axis=1)
        boxes, scores = boxes[large], scores[large]
        kept = nms(boxes, scores, iou_threshold=0.65) if noise.occlusion else np.argsort(-scores, kind="stable")
        return Detections(boxes[kept], scores[kept], np.zeros(len(kept), np.int64))

    def _joints_of(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Return everybody's joints as the network would see them whatever the crop."""
        truth, noise = self.scene.frames[frame], self.noise
        rng = np.random.default_rng([*self._seed, 2, frame])
        count = len(truth.ids)
        sides = truth.bboxes[:, 2:] - truth.bboxes[:, :2]
        sizes = np.sqrt(sides.prod(axis=1))[:, None, None]
        keypoints = truth.keypoints + rng.normal(0, 1, (count, 17, 2)) * 0.87 * noise.joint * sizes
        scores = rng.uniform(0.6, 0.95, (count, 17))
        wander, low = rng.normal(0, 1, (count, 17, 2)), rng.uniform(0.1, 0.45, (count, 17))
        if noise.occlusion and count:
            # Whether a joint is taken by the person in front lasts for some frames, as it does in real videos.
            stolen = np.array(
                [
                    np.random.default_rng([*self._seed, 4, frame // 6, int(i)]).random(17) < noise.steal
                    for i in truth.ids
                ]
            )
            coverer = truth.coverer
            covered = coverer >= 0
            taken = covered & stolen
            joint = np.broadcast_to(np.arange(17), covered.shape)
            keypoints = np.where(covered[..., None], keypoints + wander * noise.wander * sizes, keypoints)
            keypoints = np.where(taken[..., None], keypoints[coverer, joint], keypoints)
            scores = np.where(covered, low, scores)
        return keypoints, scores


class Observer:
    """The detector and the pose network of a scene, as one tracker uses them.

    Args:
        sights: What the observer sees.
        poses: Somebody who answers in the place of ``sights.poses``.

    Attributes:
        detector_calls: How often the detector ran.
        poses_estimated: How many poses were estimated; None where nobody can count them.
        seconds: Processor time spent here, which is not the tracker's.
    """

    def __init__(self, sights: Sights, *, poses: PoseAnswers | None = None) -> None:
        self.sights, self.scene = sights, sights.scene
        self._poses = poses or sights.poses
        self.detector_calls = 0
        self.poses_estimated: int | None = 0
        self.seconds = 0.0

    def detect(self, frame: int) -> Detections:
        """Return what the detector finds in a frame."""
        self.detector_calls += 1
        return self.sights.detections[frame]

    def pose(self, frame: int, bboxes: np.ndarray, bbox_scores: np.ndarray | None = None) -> Poses:
        """Return what the pose network sees in each box."""
        started = time.thread_time()
        bboxes = np.asarray(bboxes, np.float32).reshape(-1, 4)
        self.poses_estimated += len(bboxes)
        keypoints, scores = self._poses(frame, bboxes)
        bbox_scores = np.ones(len(bboxes), np.float32) if bbox_scores is None else bbox_scores
        poses = Poses(keypoints, scores, bboxes, bbox_scores, SKELETON, frame_size_wh=self.scene.frame_size_wh)
        self.seconds += time.thread_time() - started
        return poses


def _coverers(bboxes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return (N, P) the frontmost person before each of N people's points; people are ordered from back to front."""
    count = len(bboxes)
    sides = bboxes[:, 2:] - bboxes[:, :2]
    low, high = bboxes[:, :2] + sides * [0.15, 0.03], bboxes[:, 2:] - sides * [0.15, 0.0]
    inside = ((points[:, :, None] > low) & (points[:, :, None] < high)).all(axis=3)
    inside &= (np.arange(count)[None] > np.arange(count)[:, None])[:, None]
    return np.where(inside.any(axis=2), count - 1 - inside[..., ::-1].argmax(axis=2), -1) if count else inside[..., 0]


class _Actions:
    """Poses of standing people over time, as places in their boxes."""

    def __init__(self, path: Path) -> None:
        data = np.load(path)
        joints, visible, offsets = data["xy_x8"].astype(np.float32) / 8, data["visible"], data["offsets"]
        self._clips = []
        for i in np.flatnonzero(np.isin(data["action"], UPRIGHT)):
            clip = joints[offsets[i] : offsets[i + 1]]
            low, high = clip.min(axis=1), clip.max(axis=1)
            sides = high - low
            if (
                len(clip) >= 40
                and (sides[:, 1] > 1.3 * sides[:, 0]).all()
                and visible[offsets[i] : offsets[i + 1]].all()
            ):
                self._clips.append((clip - low[:, None]) / sides[:, None])

    def pick(self, seed: int) -> _Action:
        rng = np.random.default_rng(seed)
        return _Action(self._clips[rng.integers(len(self._clips))], start=float(rng.uniform(0, 10)))


@dataclass(frozen=True)
class _Action:
    clip: np.ndarray  # (T, 13, 2)
    start: float

    def __call__(self, time_s: float) -> np.ndarray:
        """Return (17, 2) places in the box; the clip plays forwards and backwards in turn at 30 frames a second."""
        last = len(self.clip) - 1
        at = (self.start + time_s * 30) % (2 * last)
        at = at if at <= last else 2 * last - at
        low = int(at)
        share = at - low
        joints = self.clip[low] * (1 - share) + self.clip[min(low + 1, last)] * share
        # A box reaches beyond the joints: over the crown, under the feet, past the hands.
        joints = joints * [0.84, 0.86] + [0.08, 0.09]
        head = joints[0]
        face = head + np.array([[0, 0], [0.02, -0.01], [-0.02, -0.01], [0.05, 0], [-0.05, 0]])
        return np.concatenate([face, joints[1:]])
