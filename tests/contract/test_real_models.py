"""A real detector and a real-sized pose network give on every runtime what they give on ONNX Runtime's CPU provider.

Tolerances are those of the package's promise: boxes of score above 0.3 within 0.5 px, confident joints within 0.5 px,
all in pixels of the frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import pytest

from rtmpose_infer.backends import BackendConfig
from rtmpose_infer.detector import PersonDetector
from rtmpose_infer.estimator import PoseEstimator
from tests.contract.conftest import absent
from tests.contract.models import for_ncnn

DETECTOR = "rtmdet_nano_person_640_raw.onnx"
SUPPRESSING_DETECTOR = "rtmdet_nano_person_320.onnx"
POSE = "tinypose_coco17_256x192_simcc.onnx"
PICTURES = ("000000000872.jpg", "000000001296.jpg", "000000002299.jpg", "000000010764.jpg")

pytestmark = [
    pytest.mark.shared,
    pytest.mark.filterwarnings("ignore:.*does not describe itself"),
]


@pytest.fixture(scope="module")
def frames(shared: Path) -> list[np.ndarray]:
    loaded = [cv2.imread(str(shared / "data" / "coco_val_dev" / "images" / name)) for name in PICTURES]
    assert all(frame is not None for frame in loaded)
    return loaded


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> BackendConfig:
    return BackendConfig(device="cpu", threads=2, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def reference(
    shared: Path, config: BackendConfig, closing: ExitStack
) -> tuple[PersonDetector, PersonDetector, PoseEstimator]:
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        absent("onnxruntime", "ONNX Runtime, the reference, is not installed")
    models = shared / "models"
    options = {"backend": "onnxruntime", "backend_config": config}
    return (
        closing.enter_context(PersonDetector(models / DETECTOR, **options)),
        closing.enter_context(PersonDetector(models / SUPPRESSING_DETECTOR, **options)),
        closing.enter_context(PoseEstimator(models / POSE, **options)),
    )


@pytest.fixture(scope="module")
def converted(shared: Path, runtime_name: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The raw detector and the pose network in the form that the runtime reads."""
    sources = (shared / "models" / DETECTOR, shared / "models" / POSE)
    if runtime_name != "ncnn":
        return sources
    folder = tmp_path_factory.mktemp("ncnn")
    return for_ncnn(sources[0], folder, "detection"), for_ncnn(sources[1], folder, "pose")


def farthest(expected: np.ndarray, found: np.ndarray) -> float:
    """Return how far the box that fits worst is from its nearest partner, by its worst edge."""
    apart = np.abs(expected[:, None] - found[None]).max(axis=2)
    return float(apart.min(axis=1).max())


def test_a_detector_finds_the_same_boxes(runtime_name, converted, reference, frames, config, closing) -> None:
    device = "auto" if runtime_name == "tensorrt" else "cpu"
    settings = BackendConfig(device=device, threads=config.threads, cache_dir=config.cache_dir)
    # A box at the threshold may fall on either side of it, so the candidate's is lower.
    detector = closing.enter_context(
        PersonDetector(converted[0], backend=runtime_name, backend_config=settings, score_threshold=0.25)
    )
    compared = 0
    for frame in frames:
        expected = reference[0].predict(frame).bboxes
        compared += len(expected)
        assert farthest(expected, detector.predict(frame).bboxes) < 0.5
    assert compared > 10


def test_a_detector_with_suppression_in_its_graph_finds_the_same_boxes(
    runtime_name, shared, reference, frames, config, closing
) -> None:
    if runtime_name == "ncnn":
        pytest.skip("ncnn has no suppression")
    device = "auto" if runtime_name == "tensorrt" else "cpu"
    settings = BackendConfig(device=device, threads=config.threads, cache_dir=config.cache_dir)
    path = shared / "models" / SUPPRESSING_DETECTOR
    detector = closing.enter_context(
        PersonDetector(path, backend=runtime_name, backend_config=settings, score_threshold=0.25)
    )
    for frame in frames:
        assert farthest(reference[1].predict(frame).bboxes, detector.predict(frame).bboxes) < 0.5
    black = np.zeros_like(frames[0])
    assert len(detector.predict(black)) == len(reference[1].predict(black)) == 0
    together = detector.predict_batch(frames)
    for frame, found in zip(frames, together, strict=True):
        assert farthest(reference[1].predict(frame).bboxes, found.bboxes) < 0.5


def test_a_pose_network_puts_confident_joints_on_the_same_places(
    runtime_name, converted, reference, frames, config, closing
) -> None:
    device = "auto" if runtime_name == "tensorrt" else "cpu"
    settings = BackendConfig(device=device, threads=config.threads, cache_dir=config.cache_dir)
    estimator = closing.enter_context(PoseEstimator(converted[1], backend=runtime_name, backend_config=settings))
    compared = 0
    for frame in frames:
        boxes = reference[0].predict(frame).bboxes
        expected = reference[2].predict(frame, boxes)
        found = estimator.predict(frame, boxes)
        confident = expected.keypoint_scores > 0.3
        compared += int(confident.sum())
        apart = np.linalg.norm(expected.keypoints - found.keypoints, axis=2)
        assert apart[confident].max(initial=0) < 0.5
        np.testing.assert_allclose(found.keypoint_scores, expected.keypoint_scores, atol=0.02)
    assert compared > 100
