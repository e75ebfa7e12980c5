"""The embedded networks on the real photographs of scikit-image, so that their accuracy is asserted on any machine.

The places of joints were read off the photographs by eye, with a grid laid over them.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import cv2
import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the embedded networks are run with ONNX Runtime")
data = pytest.importorskip("skimage.data", reason="the photographs come with the demo extra")

from rtmpose_infer import (  # noqa: E402
    PersonDetector,
    PoseEstimator,
    PosePipeline,
    PoseTracker,
    machine,
)
from rtmpose_infer.demo_scene import DemoScene  # noqa: E402
from rtmpose_infer.errors import ClosedError  # noqa: E402
from rtmpose_infer.geometry import iou_matrix  # noqa: E402
from rtmpose_infer.pose_tracker import DEFAULT_DETECTOR, DEFAULT_POSE  # noqa: E402
from rtmpose_infer.zoo import resolve  # noqa: E402
from tests.held import another_frame_under_way  # noqa: E402

ASTRONAUT_BOX = (10.0, 12.0, 365.0, 512.0)
ASTRONAUT = {  # a woman in a space suit, facing the camera, cut off at the hips
    "nose": (226, 126),
    "left_eye": (247, 103),
    "right_eye": (204, 100),
    "left_ear": (275, 124),
    "right_ear": (177, 120),
    "left_shoulder": (324, 272),
    "right_shoulder": (97, 265),
}
CAMERAMAN_BOX = (0.0, 62.0, 295.0, 512.0)
CAMERAMAN = {  # a man in a dark coat, bent over a tripod, seen from his right side
    "nose": (252, 161),
    "right_eye": (240, 145),
    "right_shoulder": (95, 172),
}


TOLERANCE = 0.06  # of the person's height, by which a joint may be off its place


def astronaut() -> np.ndarray:
    return np.ascontiguousarray(data.astronaut()[:, :, ::-1])


def cameraman() -> np.ndarray:
    return cv2.cvtColor(data.camera(), cv2.COLOR_GRAY2BGR)


@pytest.mark.parametrize(
    ("photograph", "box"), [(astronaut, ASTRONAUT_BOX), (cameraman, CAMERAMAN_BOX)], ids=["astronaut", "cameraman"]
)
def test_the_detector_is_sure_of_the_person_and_of_nobody_else(photograph, box):
    with PersonDetector(DEFAULT_DETECTOR, score_threshold=0.5) as detector:
        found = detector.predict(photograph())
    assert len(found) == 1
    assert iou_matrix(found.bboxes, np.array([box], np.float32))[0, 0] > 0.8


@pytest.mark.parametrize(
    ("photograph", "box", "joints"),
    [(astronaut, ASTRONAUT_BOX, ASTRONAUT), (cameraman, CAMERAMAN_BOX, CAMERAMAN)],
    ids=["astronaut", "cameraman"],
)
def test_joints_are_where_the_eye_sees_them(photograph, box, joints):
    with PoseEstimator(DEFAULT_POSE) as estimator:
        (person,) = estimator.predict(photograph(), bboxes_xyxy=np.array([box], np.float32))
    height = box[3] - box[1]
    names = person.skeleton.keypoints
    for joint, place in joints.items():
        distance = np.linalg.norm(person.keypoints[0, names.index(joint)] - place)
        assert distance < TOLERANCE * height, f"{joint} is {distance:.0f} px from its place"


def test_a_tracker_without_any_argument_finds_the_same_face():
    with PoseTracker() as tracker:
        for _ in range(3):
            poses = tracker(astronaut())
    person = poses[int(poses.bbox_scores.argmax())]
    names = person.skeleton.keypoints
    for joint in ("nose", "left_eye", "right_eye"):
        distance = np.linalg.norm(person.keypoints[0, names.index(joint)] - ASTRONAUT[joint])
        assert distance < TOLERANCE * (ASTRONAUT_BOX[3] - ASTRONAUT_BOX[1])


def test_an_empty_wall_holds_nobody():
    with PersonDetector(DEFAULT_DETECTOR) as detector:
        assert len(detector.predict(np.ascontiguousarray(data.brick()[..., None].repeat(3, axis=2)))) == 0


def test_several_streams_on_one_pipeline_get_what_they_would_get_alone():
    film = [frame.image for frame in islice(DemoScene(), 100, 118)]
    streams = {"now": film[:12], "later": film[6:]}
    alone = {}
    for key, frames in streams.items():
        with PoseTracker(backend="onnxruntime") as tracker:
            alone[key] = [tracker(frame) for frame in frames[:12]]
    with PosePipeline(backend="onnxruntime") as pipeline:
        for i in range(12):
            together = pipeline.track_many({key: frames[i] for key, frames in streams.items()})
            for key, poses in together.items():
                np.testing.assert_array_equal(poses.track_ids, alone[key][i].track_ids)
                np.testing.assert_allclose(poses.keypoints, alone[key][i].keypoints, atol=0.5)
    with pytest.raises(ClosedError):
        pipeline.track_many({key: frames[0] for key, frames in streams.items()})


@pytest.fixture
def loaded_beside(monkeypatch):
    """What the networks were loaded with a second time."""
    configs = []
    load = PosePipeline.__init__

    def recorded(self, **options):
        configs.extend(config for name, config in options.items() if name == "backend_config")  # the tests pass none
        load(self, **options)

    monkeypatch.setattr(PosePipeline, "__init__", recorded)
    return configs


def test_threads_on_one_pipeline_get_what_they_would_get_alone(monkeypatch):
    monkeypatch.setattr(machine, "usable_cpus", lambda: 2.0)
    film = [frame.image for frame in islice(DemoScene(), 100, 112)]
    with PoseTracker(backend="onnxruntime") as tracker:
        alone = [tracker(frame) for frame in film]
    with PosePipeline(backend="onnxruntime") as pipeline, ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda t: [t(frame) for frame in film], [PoseTracker(pipeline) for _ in range(4)]))
    for one in together:
        for poses, expected in zip(one, alone, strict=True):
            np.testing.assert_array_equal(poses.track_ids, expected.track_ids)
            np.testing.assert_allclose(poses.keypoints, expected.keypoints, atol=0.5)


@pytest.mark.parametrize(("cpus", "threads"), [(2, 1), (16, 4)])
def test_frames_that_meet_in_onnxruntime_take_a_share_of_the_cores_each(monkeypatch, loaded_beside, cpus, threads):
    monkeypatch.setattr(machine, "usable_cpus", lambda: float(cpus))
    frame = next(islice(DemoScene(), 100, None)).image
    with PosePipeline(backend="onnxruntime") as pipeline, PoseTracker(pipeline) as tracker:
        assert len(tracker(frame)) == 2
        assert not loaded_beside  # alone, all cores are one's own
        with another_frame_under_way(pipeline, frame) as other:
            assert len(tracker(frame)) == 2
            assert len(tracker(frame)) == 2
        assert len(other.result()) == 2
    assert [config.threads for config in loaded_beside] == [threads]


def test_a_number_of_threads_keeps_the_networks_from_being_loaded_again(monkeypatch, loaded_beside):
    monkeypatch.setattr(machine, "usable_cpus", lambda: 2.0)
    frame = next(islice(DemoScene(), 100, None)).image
    with PosePipeline(backend="onnxruntime", threads=1) as pipeline, PoseTracker(pipeline) as tracker:
        with another_frame_under_way(pipeline, frame):
            assert len(tracker(frame)) == 2
        pipeline.track_many({"a": frame, "b": frame})
    assert not loaded_beside


def test_a_network_whose_file_is_gone_goes_on_when_threads_come_together(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(machine, "usable_cpus", lambda: 2.0)
    files = {task: tmp_path / f"{task}.onnx" for task in ("detector", "pose")}
    for (task, file), name in zip(files.items(), (DEFAULT_DETECTOR, DEFAULT_POSE), strict=True):
        shutil.copy(resolve(name, task="detection" if task == "detector" else "pose"), file)
    frame = next(islice(DemoScene(), 100, None)).image
    with PosePipeline(backend="onnxruntime", **files) as pipeline, PoseTracker(pipeline) as tracker:
        for file in files.values():
            file.unlink()
        with another_frame_under_way(pipeline, frame):
            assert len(tracker(frame)) == 2
            assert len(tracker(frame)) == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "did not load" in caplog.text


@pytest.mark.parametrize(("name", "task"), [(DEFAULT_DETECTOR, "detection"), (DEFAULT_POSE, "pose")])
def test_bytes_go_straight_into_a_cast_which_is_all_that_tensorrt_takes(name, task):
    onnx = pytest.importorskip("onnx", reason="reading a graph needs the export extra")
    graph = onnx.load(resolve(name, task=task)).graph
    assert [node.op_type for node in graph.node if graph.input[0].name in node.input] == ["Cast"]
