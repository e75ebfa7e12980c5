"""A made-up scene whose people stand where they should: the same work for every backend, network and machine.

How many poses are estimated decides the time of a frame. On a picture it would depend on what a network happens to
find, so here the places are known: the networks run on real pixels and do all their work, and then their answers are
replaced by the truth. The time of the replacement is known and taken off.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from rtmpose_infer.demo_scene import DemoScene
from rtmpose_infer.detector import PersonDetector
from rtmpose_infer.errors import BackendUnavailableError
from rtmpose_infer.estimator import PoseEstimator, View
from rtmpose_infer.geometry import iou_matrix
from rtmpose_infer.results import Detections, Poses
from rtmpose_infer.stages import NO_CLOCK, StageClock
from rtmpose_infer.video import open_source

if TYPE_CHECKING:
    from rtmpose_infer.preprocess import AnyFrame, Frame

__all__ = ["Scene", "SceneDetector", "SceneEstimator", "sample_pictures"]

Floats = npt.NDArray[np.float32]

_RATE = 30.0
_ASPECT = 0.42  # width over height of a person
_SCORE = 0.9
_SAMPLES = 8
_SAMPLE_STEP = 15  # frames of a video between two samples
# A figure of lines: joint places in the person's box, and which of them are joined.
_FIGURE = np.array(
    [(0.5, 0.09), (0.5, 0.2), (0.25, 0.22), (0.75, 0.22), (0.12, 0.5), (0.88, 0.5), (0.36, 0.53), (0.64, 0.53),
     (0.34, 0.97), (0.66, 0.97)]
)  # fmt: skip
_LIMBS = ((2, 3), (2, 4), (3, 5), (2, 6), (3, 7), (6, 7), (6, 8), (7, 9))


class Scene:
    """People who walk to and fro, each in a place of their own.

    Args:
        persons: How many.
        size_wh: Size of the frames in pixels.

    Attributes:
        index: The frame that is shown now.
        replacing_s: Seconds that were spent on replacing answers since this was last set to 0.
    """

    def __init__(self, persons: int, size_wh: tuple[int, int]) -> None:
        self.index = 0
        self.replacing_s = 0.0
        self._size_wh = size_wh
        width, height = size_wh
        columns = min(persons, max(1, round(math.sqrt(persons * width / height / (2 * _ASPECT)))))
        rows = math.ceil(persons / columns)
        self._cell = (width / columns, height / rows)
        places = [(i % columns + 0.5, i // columns + 0.5) for i in range(persons)]
        self._centers = np.array(places, np.float64) * self._cell
        self._height = 0.86 * min(self._cell[1], self._cell[0] / (2 * _ASPECT))
        noise = np.random.default_rng(0).integers(40, 200, (9, 16, 3), np.uint8)
        self._background: Any = cv2.resize(noise, size_wh, interpolation=cv2.INTER_CUBIC)

    @property
    def timestamp_s(self) -> float:
        """The time of the frame that is shown now."""
        return self.index / _RATE

    def bboxes(self) -> Floats:
        """Return the (N, 4) boxes of the people in the frame that is shown now."""
        phase = self.timestamp_s * 1.5 + np.arange(len(self._centers))
        sway = np.stack([np.sin(phase) * 0.2 * self._height * _ASPECT, np.sin(2 * phase) * 0.02 * self._height], axis=1)
        half = np.array([self._height * _ASPECT, self._height]) / 2
        centers = self._centers + sway
        return np.concatenate([centers - half, centers + half], axis=1).astype(np.float32)

    def keypoints(self, bboxes: Floats, count: int) -> Floats:
        """Return (M, count, 2) joints of the people whom the boxes show, each of the person it overlaps most."""
        truth = self.bboxes()
        who = iou_matrix(bboxes, truth).argmax(axis=1)
        corners = truth[who].reshape(-1, 2, 2)
        places: Floats = corners[:, None, 0] + _spread(count) * (corners[:, 1] - corners[:, 0])[:, None]
        return places

    def draw(self) -> Frame:
        """Return the frame that is shown now."""
        frame: Frame = self._background.copy()
        thickness = max(2, int(self._height * 0.06))
        for number, box in enumerate(self.bboxes()):
            joints = (box[:2] + _FIGURE * (box[2:] - box[:2])).astype(int)
            colour = [int(40 + 61 * number * c % 180) for c in (1, 3, 7)]
            for a, b in _LIMBS:
                cv2.line(frame, joints[a].tolist(), joints[b].tolist(), colour, thickness, cv2.LINE_AA)
            cv2.circle(frame, joints[0].tolist(), thickness, (150, 170, 220), -1, cv2.LINE_AA)
        return frame


class SceneDetector(PersonDetector):
    """A detector that does all its work and then answers with the scene's boxes."""

    scene: Scene | None = None

    def predict_batch(self, frames: Sequence[AnyFrame], *, clock: StageClock = NO_CLOCK) -> list[Detections]:
        """Return the scene's people for every frame; see ``PersonDetector``."""
        found = super().predict_batch(frames, clock=clock)
        if self.scene is None:
            return found
        start = time.perf_counter()
        boxes = self.scene.bboxes()
        truth = Detections(boxes, np.full(len(boxes), _SCORE, np.float32), np.zeros(len(boxes), np.int64))
        self.scene.replacing_s += time.perf_counter() - start
        clock.start()
        return [truth] * len(frames)


class SceneEstimator(PoseEstimator):
    """A pose network that does all its work and then answers with the scene's joints."""

    scene: Scene | None = None

    def predict_batch(
        self,
        pictures: Sequence[tuple[AnyFrame, npt.ArrayLike, npt.ArrayLike | None]],
        *,
        view: View = "all",
        clock: StageClock = NO_CLOCK,
    ) -> list[Poses]:
        """Return the scene's joints for every box; see ``PoseEstimator``."""
        found = super().predict_batch(pictures, view=view, clock=clock)
        if self.scene is None:
            return found
        start = time.perf_counter()
        scene, count = self.scene, self.skeleton.num_keypoints
        truth = [
            replace(
                poses,
                keypoints=(places := scene.keypoints(poses.bboxes, count)),
                keypoints_raw=places,
                keypoint_scores=np.full(places.shape[:2], _SCORE, np.float32),
            )
            for poses in found
        ]
        self.scene.replacing_s += time.perf_counter() - start
        clock.start()
        return truth


def sample_pictures(video: str | None) -> Iterator[tuple[Frame, Floats | None]]:
    """Yield a few pictures to compare the networks' answers on, with the boxes of their people where they are known.

    Frames of the video; without one the demo scene, whose people are real, where scikit-image is installed, and else
    the made-up scene, in which a network may find few joints.
    """
    if video is not None:
        with open_source(video) as source:
            for frame in islice(source, 0, _SAMPLES * _SAMPLE_STEP, _SAMPLE_STEP):
                yield frame.image, None
        return
    try:
        demo = DemoScene(duration_s=_SAMPLES / _RATE)
    except BackendUnavailableError:
        scene = Scene(_SAMPLES // 2, (1280, 720))
        yield scene.draw(), scene.bboxes()
        return
    for frame in demo:
        yield frame.image, None


def _spread(count: int) -> npt.NDArray[Any]:
    """Return (count, 2) places spread evenly over a box: Halton's sequence of bases 2 and 3."""
    places = np.zeros((count, 2), np.float32)
    for axis, base in enumerate((2, 3)):
        for i in range(count):
            number, share = i + 1, 1.0
            while number:
                share /= base
                places[i, axis] += share * (number % base)
                number //= base
    return 0.04 + 0.92 * places
