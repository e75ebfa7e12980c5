"""The same 200 frames of a film through every runtime: the same people, the same ids, the same joints.

Two questions are kept apart. Given the same frame and the same boxes, a runtime must put the joints where ONNX Runtime
puts them. Left to itself, each tracker grows the next crop out of its own joints, and in a network that answers in bins
of half a pixel a difference in the last digit of a detector's box may become a bin's difference some frames later; what
must be the same there is who is seen, and under which id. Whoever is on the way in or out, with a score at the tracker's
threshold, may be seen a frame earlier or later.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from rtmpose_infer import PoseEstimator, Poses, PoseTracker
from rtmpose_infer.geometry import oks_matrix
from rtmpose_infer.video import open_source

FILM = "intel_one-by-one-person-detection.mp4"
FIRST, COUNT = 150, 200  # one person leaves, the next comes in
EVERY = 4
SURE = 0.3

pytestmark = [
    pytest.mark.shared,
    pytest.mark.filterwarnings("ignore:.*does not describe itself"),
]


@dataclass
class Run:
    """What one runtime saw: its tracker's people in all frames, and in some the joints in the reference's boxes."""

    tracked: list[Poses]
    estimated: list[Poses]


@pytest.fixture(scope="module")
def film(shared: Path) -> list[np.ndarray]:
    pytest.importorskip("av", reason="PyAV is not installed")
    with open_source(shared / "data" / "videos" / FILM) as source:
        return [frame.image.copy() for frame in islice(source, FIRST, FIRST + COUNT)]


def networks(shared: Path, backend: str, folder: Path) -> tuple[Path, Path]:
    models = shared / "models"
    sources = (models / "rtmdet_nano_person_640_raw.onnx", models / "tinypose_coco17_256x192_simcc.onnx")
    if backend != "ncnn":
        return sources
    for package in ("pnnx", "onnx"):
        if importlib.util.find_spec(package) is None:  # not imported: pnnx would import torch
            pytest.skip(f"{package}, which the conversion needs, is not installed")
    from tests.contract.models import for_ncnn

    return for_ncnn(sources[0], folder, "detection"), for_ncnn(sources[1], folder, "pose")


def run(film: list[np.ndarray], models: tuple[Path, Path], backend: str, boxes: list[np.ndarray] | None) -> Run:
    detector, pose = models
    options = {"backend": backend, "device": "cpu", "threads": 2}
    with PoseTracker(detector=detector, pose=pose, det_interval=10, **options) as tracker:
        tracked = [tracker(frame) for frame in film]
    with PoseEstimator(pose, **options) as estimator:
        places = [poses.bboxes for poses in tracked] if boxes is None else boxes
        estimated = [
            estimator.predict(frame, place) for frame, place in zip(film[::EVERY], places[::EVERY], strict=True)
        ]
    return Run(tracked, estimated)


@pytest.fixture(scope="module")
def reference(film: list[np.ndarray], shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime, the reference, is not installed")
    models = networks(shared, "onnxruntime", tmp_path_factory.mktemp("onnxruntime"))
    return run(film, models, "onnxruntime", None)


@pytest.fixture(scope="module", params=["openvino", "ncnn"])
def other(
    request: pytest.FixtureRequest,
    film: list[np.ndarray],
    reference: Run,
    shared: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    models = networks(shared, request.param, tmp_path_factory.mktemp(request.param))
    return run(film, models, request.param, [poses.bboxes for poses in reference.tracked])


def test_the_film_shows_several_people_and_moments_with_nobody(reference: Run) -> None:
    counts = {len(poses) for poses in reference.tracked}
    ids = {number for poses in reference.tracked for number in poses.track_ids.tolist()}
    assert {0, 1} <= counts
    assert len(ids) > 1


def frames_by_id(run: Run) -> dict[int, set[int]]:
    """Return in which frames each id is seen."""
    seen: dict[int, set[int]] = {}
    for i, poses in enumerate(run.tracked):
        for number in poses.track_ids.tolist():
            seen.setdefault(number, set()).add(i)
    return seen


def test_the_same_people_are_seen_under_the_same_ids(reference: Run, other: Run) -> None:
    theirs, ours = frames_by_id(reference), frames_by_id(other)
    assert ours.keys() == theirs.keys()
    for number, frames in theirs.items():
        assert abs(min(ours[number]) - min(frames)) <= 1
        assert abs(max(ours[number]) - max(frames)) <= 1
        assert len(ours[number] ^ frames) <= 2


def test_whoever_has_an_id_stands_in_the_same_place(reference: Run, other: Run) -> None:
    likeness = [
        np.diag(
            oks_matrix(
                ours.keypoints_raw,
                theirs.keypoints_raw,
                areas=np.prod(theirs.bboxes[:, 2:] - theirs.bboxes[:, :2], axis=1),
                sigmas=theirs.skeleton.oks_sigmas,
                valid_b=theirs.keypoint_scores > SURE,
            )
        )
        for theirs, ours in zip(reference.tracked, other.tracked, strict=True)
        if len(theirs) and ours.track_ids.tolist() == theirs.track_ids.tolist()
    ]
    # The least alike are people cut off by the picture's edge, whose joints the network is hardly sure of.
    least, middle = np.quantile(np.concatenate(likeness), (0.05, 0.5))
    assert middle > 0.98
    assert least > 0.8


def test_in_the_same_boxes_sure_joints_are_within_half_a_pixel(reference: Run, other: Run) -> None:
    apart = []
    for theirs, ours in zip(reference.estimated, other.estimated, strict=True):
        assert len(ours) == len(theirs)
        sure = theirs.keypoint_scores > SURE
        apart.append(np.linalg.norm(theirs.keypoints - ours.keypoints, axis=2)[sure])
    distances = np.concatenate(apart)
    assert len(distances) > 500
    assert distances.max() < 0.5
