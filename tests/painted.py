"""A world made of paint, and two networks that understand it.

A person is a rectangle of one colour. The detector finds the rectangles; the pose network finds the colour that fills
most of its crop and puts seventeen joints at fixed places of the rectangle. So a whole pipeline runs through letterbox,
crop and back without a trained model, the right answer is known to a pixel, and a colour tells who somebody is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rtmpose_infer import CallableBackend, PersonDetector, PoseEstimator, PosePipeline, TensorSpec
from rtmpose_infer.model_spec import ModelSpec
from rtmpose_infer.skeletons import load_skeleton

SKELETON = load_skeleton("coco17")
FRAME_WH = (640, 360)
DETECTOR_WH = (320, 320)
POSE_WH = (96, 128)
PAINTS = np.array(
    [
        [0, 0, 255],
        [0, 255, 0],
        [255, 0, 0],
        [0, 255, 255],
        [255, 0, 255],
        [255, 255, 0],
        [255, 255, 255],
        [0, 128, 255],
    ],
    np.int16,
)
# Places of the joints in a person's rectangle, from 0,0 (top left pixel) to 1,1 (bottom right pixel).
STANDING = np.array(
    [
        [0.50, 0.05], [0.54, 0.03], [0.46, 0.03], [0.58, 0.05], [0.42, 0.05], [0.75, 0.20], [0.25, 0.20], [0.90, 0.38],
        [0.10, 0.38], [1.00, 0.52], [0.00, 0.52], [0.65, 0.52], [0.35, 0.52], [0.65, 0.75], [0.35, 0.75], [0.65, 1.00],
        [0.35, 1.00],
    ],
    np.float32,
)  # fmt: skip

People = Mapping[int, Sequence[float]]
Answer = dict[str, np.ndarray]


def paint(people: People, size_wh: tuple[int, int] = FRAME_WH) -> np.ndarray:
    """Return a dark frame with each person (paint → x1, y1, x2, y2 in whole pixels, x2 and y2 exclusive)."""
    frame = np.full((size_wh[1], size_wh[0], 3), 20, np.uint8)
    for number, (x1, y1, x2, y2) in people.items():
        frame[max(int(y1), 0) : max(int(y2), 0), max(int(x1), 0) : max(int(x2), 0)] = PAINTS[number]
    return frame


def joints_of(bbox: Sequence[float]) -> np.ndarray:
    """Return the (17, 2) places of the joints of the person painted there."""
    corner, opposite = np.array(bbox[:2], np.float32), np.array(bbox[2:], np.float32) - 1
    return corner + STANDING * (opposite - corner)


class Network:
    """A network's function: counts its calls, and fails or lies when told to.

    Attributes:
        batches: Size of the batch of every call so far.
        failure: Raised by the next call, once.
        lie: Applied to the answers as long as it is set.
        before: Called at the beginning of every call.
    """

    def __init__(self, function: Callable[[np.ndarray], Answer]) -> None:
        self._function = function
        self.batches: list[int] = []
        self.failure: BaseException | None = None
        self.lie: Callable[[Answer], Answer] | None = None
        self.before: Callable[[], None] | None = None

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> Answer:
        (pictures,) = feeds.values()
        self.batches.append(len(pictures))
        if self.before is not None:
            self.before()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        answer = self._function(pictures)
        return answer if self.lie is None else self.lie(answer)


@dataclass
class Painted:
    """A pipeline for painted frames, and its two networks."""

    pipeline: PosePipeline
    detector: Network
    pose: Network


def painted_detector(**options: Any) -> tuple[PersonDetector, Network]:
    """Return a detector of painted people; ``options`` go to ``PersonDetector.from_backend``."""
    network = Network(_detect)
    backend = CallableBackend(
        network,
        [TensorSpec("frames_u8", (None, DETECTOR_WH[1], DETECTOR_WH[0], 3), np.dtype(np.uint8))],
        [
            TensorSpec("dets", (None, None, 5), np.dtype(np.float32)),
            TensorSpec("labels", (None, None), np.dtype(np.int64)),
        ],
    )
    spec = ModelSpec(task="detection", head="nms", input_size_wh=DETECTOR_WH, input_format="nhwc_uint8")
    return PersonDetector.from_backend(backend, spec, **options), network


def painted_estimator(*, batch: int | None = None) -> tuple[PoseEstimator, Network]:
    """Return a pose estimator for painted people, with a fixed or a dynamic batch."""
    network = Network(_estimate)
    backend = CallableBackend(
        network,
        [TensorSpec("frames_u8", (batch, POSE_WH[1], POSE_WH[0], 3), np.dtype(np.uint8))],
        [
            TensorSpec("keypoints", (None, 17, 2), np.dtype(np.float32)),
            TensorSpec("scores", (None, 17), np.dtype(np.float32)),
        ],
    )
    spec = ModelSpec(task="pose", head="keypoints", input_size_wh=POSE_WH, input_format="nhwc_uint8", skeleton=SKELETON)
    return PoseEstimator.from_backend(backend, spec), network


def flipping_estimator(*, error_px: int) -> tuple[PoseEstimator, Network]:
    """Return an estimator with a flip test, whose network sees everything ``error_px`` of its input too far right."""
    width, height = POSE_WH

    def vectors(crops: np.ndarray) -> Answer:
        answer = _estimate(crops)
        bins = np.rint(2 * (answer["keypoints"] + [error_px, 0])).astype(int)
        found = {}
        for axis, (name, side) in enumerate(zip("xy", POSE_WH, strict=True)):
            values = found[f"simcc_{name}"] = np.zeros((len(crops), 17, 2 * side), np.float32)
            where = bins[..., axis].clip(0, 2 * side - 1)[..., None]
            np.put_along_axis(values, where, answer["scores"][..., None], axis=2)
        return found

    network = Network(vectors)
    backend = CallableBackend(
        network,
        [TensorSpec("frames_u8", (None, height, width, 3), np.dtype(np.uint8))],
        [TensorSpec(f"simcc_{n}", (None, 17, 2 * s), np.dtype(np.float32)) for n, s in zip("xy", POSE_WH, strict=True)],
    )
    spec = ModelSpec(
        task="pose",
        head="simcc",
        input_size_wh=POSE_WH,
        input_format="nhwc_uint8",
        skeleton=SKELETON,
        flip_test=True,
    )
    return PoseEstimator.from_backend(backend, spec), network


def painted_pipeline(*, with_detector: bool = True, flip_error_px: int | None = None) -> Painted:
    """Return a pipeline that understands painted frames; with a flip test where the network's error is given."""
    detector, detector_network = painted_detector()
    estimator, pose_network = (
        painted_estimator() if flip_error_px is None else flipping_estimator(error_px=flip_error_px)
    )
    pipeline = PosePipeline(detector=detector if with_detector else None, pose=estimator)
    return Painted(pipeline, detector_network, pose_network)


def _seen(picture: np.ndarray) -> list[tuple[int, list[int]]]:
    """Return how many pixels of each paint a picture has, and the edges of the box around them."""
    blue, green, red = (picture[..., i] for i in range(3))
    rows, columns = np.nonzero((blue > 100) | (green > 100) | (red > 100))
    values = [plane[rows, columns].astype(np.int16) for plane in (blue, green, red)]
    seen = []
    for colour in PAINTS:
        near = [np.abs(plane - value) <= 40 for plane, value in zip(values, colour, strict=True)]
        mask = near[0] & near[1] & near[2]
        y, x = rows[mask], columns[mask]
        edges = [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1] if len(x) else [0, 0, 0, 0]
        seen.append((len(x), edges))
    return seen


def _detect(pictures: np.ndarray) -> Answer:
    dets = np.zeros((len(pictures), len(PAINTS), 5), np.float32)
    for picture, rows in zip(pictures, dets, strict=True):
        for (count, edges), row in zip(_seen(picture), rows, strict=True):
            if count >= 12:
                row[:] = [*edges, 0.9]
    return {"dets": dets, "labels": np.zeros(dets.shape[:2], np.int64)}


def _estimate(crops: np.ndarray) -> Answer:
    keypoints = np.zeros((len(crops), 17, 2), np.float32)
    scores = np.full((len(crops), 17), 0.05, np.float32)
    for row, crop in enumerate(crops):
        count, edges = max(_seen(crop), key=lambda seen: seen[0])
        if count >= 20:
            keypoints[row], scores[row] = joints_of(edges), 0.9
    return {"keypoints": keypoints, "scores": scores}
