"""What a user may hand in by mistake: it works as they would expect, or the right error says what to do.

Frames, boxes and model files here. Whatever fails, the stream goes on with the next good frame as if the bad one had
never come: same ids, same frame numbers, same places.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtmpose_infer import PersonDetector, PoseEstimator, PosePipeline, Poses, PoseTracker
from rtmpose_infer.errors import (
    DTypeError,
    InferenceError,
    InputError,
    ModelError,
    OutputMismatchError,
    RtmposeInferError,
    ShapeError,
)
from rtmpose_infer.model_spec import METADATA_KEY, ModelSpec
from tests.painted import Painted, joints_of, paint, painted_detector, painted_estimator, painted_pipeline
from tests.sdk_samples import pose_pipeline, sdk_archive
from tests.tiny_onnx import declared_onnx, light_detector, light_pose, write

BOX = [[100, 60, 180, 260]]
GOOD = paint({0: BOX[0]})


def call_detector(painted: Painted, frame: Any) -> Any:
    return painted.pipeline.detector.predict(frame)


def call_estimator(painted: Painted, frame: Any) -> Any:
    return painted.pipeline.estimator.predict(frame, BOX)


def call_tracker(painted: Painted, frame: Any) -> Any:
    return PoseTracker(painted.pipeline)(frame)


def call_track_many(painted: Painted, frame: Any) -> Any:
    return painted.pipeline.track_many({"cam": frame})["cam"]


EVERY_WAY_IN = pytest.mark.parametrize(
    "call", [call_detector, call_estimator, call_tracker, call_track_many], ids=lambda c: c.__name__[5:]
)

# --- frames that are refused

BAD_FRAMES = {
    "float": (GOOD.astype(np.float32) / 255, DTypeError, "astype"),
    "float64": (GOOD.astype(np.float64), DTypeError, "astype"),
    "int64": (GOOD.astype(np.int64), DTypeError, "astype"),
    "uint16": (GOOD.astype(np.uint16), DTypeError, "astype"),
    "bool": (GOOD > 100, DTypeError, "astype"),
    "object": (GOOD.astype(object), DTypeError, "uint8"),
    "grey": (GOOD[..., 0], ShapeError, "COLOR_GRAY2BGR"),
    "grey with a channel": (GOOD[..., :1], ShapeError, "COLOR_GRAY2BGR"),
    "RGBA": (np.dstack([GOOD, GOOD[..., 0]]), ShapeError, "COLOR_BGRA2BGR"),
    "planes first": (GOOD.transpose(2, 0, 1), ShapeError, "(H, W, 3)"),
    "a batch": (GOOD[None], ShapeError, "(H, W, 3)"),
    "empty": (GOOD[:0], ShapeError, "1 to"),
    "no width": (GOOD[:, :0], ShapeError, "1 to"),
    "a scalar": (np.uint8(3), DTypeError, "numpy array"),
    "a list": ([[[0, 0, 0]]], DTypeError, "numpy array"),
    "a path": ("frame.jpg", DTypeError, "numpy array"),
    "what imread gives for a missing file": (None, DTypeError, "missing file"),
}


@EVERY_WAY_IN
@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_frame_that_is(call, name):
    frame, error, words = BAD_FRAMES[name]
    painted = painted_pipeline()
    if call is call_track_many and frame is None:
        assert painted.pipeline.track_many({"cam": None}) == {}  # the camera has nothing this time
        return
    with pytest.raises(InputError if call is call_track_many else error) as caught:
        call(painted, frame)
    assert words in str(caught.value)
    assert painted.detector.batches == painted.pose.batches == []


# --- frames that work


@pytest.mark.parametrize(
    "view",
    [
        np.asfortranarray,
        lambda f: np.ascontiguousarray(f[:, ::-1])[:, ::-1],
        lambda f: np.ascontiguousarray(f[::-1])[::-1],
        lambda f: np.ascontiguousarray(f[..., ::-1])[..., ::-1],
        lambda f: np.pad(f, ((9, 5), (7, 3), (0, 1)))[9:-5, 7:-3, :3],
        lambda f: np.repeat(np.repeat(f, 2, axis=0), 2, axis=1)[::2, ::2],
        lambda f: np.ascontiguousarray(f.transpose(1, 0, 2)).transpose(1, 0, 2),
    ],
    ids=[
        "Fortran order",
        "mirrored",
        "upside down",
        "RGB turned round",
        "cut out of RGBA",
        "every second",
        "transposed",
    ],
)
def test_a_frame_that_is_not_contiguous_works_like_its_copy(view):
    frame = view(GOOD)
    np.testing.assert_array_equal(frame, GOOD)
    found, expected = PoseTracker(painted_pipeline().pipeline)(frame), PoseTracker(painted_pipeline().pipeline)(GOOD)
    np.testing.assert_array_equal(found.keypoints, expected.keypoints)
    assert len(found) == 1


def test_a_frame_that_is_read_only_works():
    frame = GOOD.copy()
    frame.flags.writeable = False
    assert len(PoseTracker(painted_pipeline().pipeline)(frame)) == 1


@EVERY_WAY_IN
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 640, 3), (360, 1, 3), (2, 20_000, 3), (20_000, 2, 3)])
def test_a_frame_of_one_pixel_or_very_long_gives_a_result(call, shape):
    result = call(painted_pipeline(), np.zeros(shape, np.uint8))
    assert len(result) == (1 if call is call_estimator else 0)


def test_a_person_in_a_frame_20000_pixels_wide_is_where_they_are():
    box = (19_000, 100, 19_200, 500)
    poses = painted_estimator()[0].predict(paint({0: box}, (20_000, 600)), [box])
    assert np.abs(poses.keypoints[0] - joints_of(box)).max() < 5
    people = {0: (1000, 50, 4000, 5950), 3: (15_000, 50, 18_000, 5950)}
    found = painted_detector()[0].predict(paint(people, (20_000, 6000)))
    np.testing.assert_allclose(found.bboxes[np.argsort(found.bboxes[:, 0])], list(people.values()), atol=64)


def test_a_frame_larger_than_opencv_can_warp_says_so():
    with pytest.raises(ShapeError, match="32766"):
        PoseTracker(painted_pipeline().pipeline)(np.zeros((1, 32_767, 3), np.uint8))


# --- boxes

BAD_BOXES = {
    "NaN": ([[np.nan, 0, 10, 10]], InputError, "NaN"),
    "infinite": ([[0, 0, np.inf, 10]], InputError, "infinite"),
    "inverted": ([[180, 60, 100, 260]], InputError, "inverted"),
    "upside down": ([[100, 260, 180, 60]], InputError, "inverted"),
    "without width": ([[100, 60, 100, 260]], InputError, "no area"),
    "without area": ([[100, 60, 100, 60]], InputError, "no area"),
    "a corner and a size": ([[300, 200, 80, 100]], InputError, "xyxy_from_xywh"),
    "one box, not a list of boxes": (BOX[0], ShapeError, "[[x1, y1, x2, y2]]"),
    "five columns": ([[100, 60, 180, 260, 0.9]], ShapeError, "(N, 4)"),
    "of different length": ([[1, 2, 3, 4], [1, 2]], ShapeError, "(N, 4)"),
    "text": ([["1", "2", "3", "4"]], DTypeError, "float32"),
}


@pytest.mark.parametrize("name", BAD_BOXES)
@pytest.mark.parametrize(
    "call",
    [
        lambda painted, boxes: painted.pipeline.estimator.predict(GOOD, boxes),
        lambda painted, boxes: PoseTracker(painted.pipeline)(GOOD, bboxes_xyxy=boxes),
    ],
    ids=["estimator", "tracker"],
)
def test_boxes_that_are(name, call):
    boxes, error, words = BAD_BOXES[name]
    painted = painted_pipeline()
    with pytest.raises(error) as caught:
        call(painted, boxes)
    assert words in str(caught.value)
    assert "bboxes_xyxy" in str(caught.value)
    assert painted.pose.batches == []


def test_a_box_that_reaches_out_of_the_frame_works():
    people = {0: (-40, 100, 60, 300), 1: (560, -50, 700, 200)}
    poses = painted_estimator()[0].predict(paint(people), list(people.values()))
    visible = [(0, 100, 60, 300), (560, 0, 640, 200)]
    for pose, box in zip(poses, visible, strict=True):
        assert np.abs(pose.keypoints[0] - joints_of(box)).max() < 5


@pytest.mark.parametrize("box", [[700, 0, 800, 100], [-200, 0, -100, 100], [0, 400, 50, 500], [9e6, 9e6, 9.1e6, 9.1e6]])
def test_a_box_outside_the_frame_has_no_joints_and_is_not_tracked(box):
    painted = painted_pipeline()
    poses = painted.pipeline.estimator.predict(GOOD, [*BOX, box])
    assert poses.keypoints_valid.any(axis=1).tolist() == [True, False]
    tracked = PoseTracker(painted.pipeline)(GOOD, bboxes_xyxy=[*BOX, box])
    assert tracked.track_ids.tolist() == [1]


def test_a_box_smaller_than_a_pixel_works():
    poses = painted_estimator()[0].predict(GOOD, [[120.2, 90.1, 120.4, 90.3]])
    assert len(poses) == 1


# --- model files


def _pose_spec(**fields: Any) -> str:
    spec = ModelSpec(task="pose", head="simcc", input_size_wh=(48, 64), skeleton=painted_estimator()[0].skeleton)
    text = spec.to_json()
    for name, value in fields.items():
        text = text.replace(f'"{name}": "{getattr(spec, name)}"', f'"{name}": "{value}"')
    return text


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "cut in the middle": (light_pose()[: len(light_pose()) // 2], "truncated"),
    "cut at the end": (light_pose()[:-30], "truncated"),
    "of text": (b"version https://git-lfs.github.com/spec/v1\n", "another kind of file"),
    "an error page": (b"<html><body>404 Not Found</body></html>", "another kind of file"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(200), "another kind of file"),
    "an archive by its content": (sdk_archive(light_pose(), pose_pipeline()), "another kind of file"),
    "of zeros": (bytes(1000), "another kind of file"),
    "a detector": (light_detector(), "swapped"),
    "of an unknown head": (
        declared_onnx([("input", [1, 3, 64, 48], "float32")], [("heatmap", [1, 17, 16, 12], "float32")]),
        "no known head",
    ),
    "of an unknown head by its own word": (
        light_pose(metadata={METADATA_KEY: _pose_spec(head="dark")}),
        "unknown head",
    ),
    "of an unknown task by its own word": (
        light_pose(metadata={METADATA_KEY: _pose_spec(task="depth")}),
        "unknown task",
    ),
    "with a description that is no JSON": (light_pose(metadata={METADATA_KEY: "{"}), "malformed"),
    "of a head that it does not have": (light_pose(metadata={METADATA_KEY: _pose_spec(head="keypoints")}), "promises"),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize(
    "load",
    [
        lambda path: PoseEstimator(path, backend="onnxruntime"),
        lambda path: PosePipeline(detector=None, pose=path, backend="onnxruntime"),
        lambda path: PoseTracker(detector=None, pose=str(path), backend="onnxruntime"),
    ],
    ids=["estimator", "pipeline", "tracker"],
)
def test_a_model_file_that_is(tmp_path, name, load):
    content, words = BAD_FILES[name]
    path = write(tmp_path / "my_model.onnx", content)
    with pytest.raises(ModelError) as caught:
        load(path)
    assert words in str(caught.value)


@pytest.mark.parametrize("length", [1, 10, 100, 1000, -1000, -100, -10, -1])
def test_a_truncated_detector_is_never_loaded(tmp_path, length):
    with pytest.raises(ModelError):
        PersonDetector(write(tmp_path / "m.onnx", light_detector()[:length]), backend="onnxruntime")


def test_a_model_that_its_runtime_refuses_says_which(tmp_path):
    # The outside is that of a detector; inside is an operator that nobody has.
    content = declared_onnx(
        [("input", [1, 3, 64, 64], "float32")],
        [("dets", [1, None, 5], "float32"), ("labels", [1, None], "int64")],
        first_operator="NoSuchOperator",
    )
    with pytest.raises(ModelError, match=r"refused\.onnx"):
        PersonDetector(write(tmp_path / "refused.onnx", content), backend="onnxruntime")


@pytest.mark.parametrize("path", ["no/such/model.onnx", "model.onnx", Path("no/such/folder"), "no-such-name"])
def test_a_model_that_does_not_exist_says_what_to_pass(path):
    with pytest.raises(ModelError, match="models list"):
        PoseEstimator(path)


def test_a_folder_that_holds_no_model_says_what_it_lacks(tmp_path):
    with pytest.raises(ModelError, match=r"end2end\.onnx"):
        PoseEstimator(tmp_path)


# --- errors in the middle of a stream


def _boom(painted: Painted, tracker: PoseTracker, frame: np.ndarray, time_s: float) -> None:
    painted.pose.failure = RuntimeError("out of memory")
    tracker(frame, timestamp_s=time_s)


def _detector_fails(painted: Painted, tracker: PoseTracker, frame: np.ndarray, time_s: float) -> None:
    painted.detector.failure = RuntimeError("device lost")
    tracker(frame, timestamp_s=time_s)


def _interrupted(painted: Painted, tracker: PoseTracker, frame: np.ndarray, time_s: float) -> None:
    painted.pose.failure = KeyboardInterrupt()
    tracker(frame, timestamp_s=time_s)


def _pose_lies(lie: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Callable[..., None]:
    def fail(painted: Painted, tracker: PoseTracker, frame: np.ndarray, time_s: float) -> None:
        painted.pose.lie = lie
        try:
            tracker(frame, timestamp_s=time_s)
        finally:
            painted.pose.lie = None

    return fail


def _detector_lies(painted: Painted, tracker: PoseTracker, frame: np.ndarray, time_s: float) -> None:
    painted.detector.lie = lambda answer: answer | {"labels": answer["labels"][:, 1:]}
    try:
        tracker(frame, timestamp_s=time_s)
    finally:
        painted.detector.lie = None


def _bad_frame(painted: Painted, tracker: PoseTracker, frame: np.ndarray, time_s: float) -> None:
    tracker(frame[..., 0], timestamp_s=time_s)


def _bad_boxes(painted: Painted, tracker: PoseTracker, frame: np.ndarray, time_s: float) -> None:
    tracker(frame, timestamp_s=time_s, bboxes_xyxy=[[1, 2, 3]])


def _bad_time(painted: Painted, tracker: PoseTracker, frame: np.ndarray, time_s: float) -> None:
    tracker(frame, timestamp_s=-5.0)


FAILURES: dict[str, tuple[Callable[..., None], type[BaseException]]] = {
    "the pose network fails": (_boom, InferenceError),
    "the detector fails": (_detector_fails, InferenceError),
    "the user interrupts": (_interrupted, KeyboardInterrupt),
    "one pose is missing": (
        _pose_lies(lambda a: {name: value[:-1] for name, value in a.items()}),
        OutputMismatchError,
    ),
    "there is one pose too many": (
        _pose_lies(lambda a: {name: np.concatenate([value, value[:1]]) for name, value in a.items()}),
        OutputMismatchError,
    ),
    "the poses have other keypoints": (
        _pose_lies(lambda a: a | {"keypoints": a["keypoints"][:, :5]}),
        OutputMismatchError,
    ),
    "the scores do not come": (_pose_lies(lambda a: {"keypoints": a["keypoints"]}), OutputMismatchError),
    "the labels do not fit the boxes": (_detector_lies, OutputMismatchError),
    "the frame is grey": (_bad_frame, ShapeError),
    "the boxes are wrong": (_bad_boxes, ShapeError),
    "time goes back": (_bad_time, InputError),
}


def _walk(i: int) -> np.ndarray:
    return paint({0: (30 + 4 * i, 50, 110 + 4 * i, 270), 3: (420 - 3 * i, 60, 500 - 3 * i, 280)})


def _same(a: Poses, b: Poses) -> bool:
    arrays = ("keypoints", "keypoints_raw", "keypoint_scores", "bboxes", "bbox_scores", "track_ids")
    return a.frame_index == b.frame_index and all(
        np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True) for name in arrays
    )


@pytest.mark.parametrize("name", FAILURES)
def test_the_stream_goes_on_as_if_nothing_had_happened_when(name):
    fail, error = FAILURES[name]
    painted, control = painted_pipeline(), painted_pipeline()
    tracker, undisturbed = PoseTracker(painted.pipeline), PoseTracker(control.pipeline)
    for i in range(18):
        frame, time_s = _walk(i), i / 30
        if i in {5, 10, 15}:  # frames on which the detector runs
            with pytest.raises(error):
                fail(painted, tracker, frame, time_s)
        assert _same(tracker(frame, timestamp_s=time_s), undisturbed(frame, timestamp_s=time_s))


@pytest.mark.parametrize("name", ["the pose network fails", "the detector fails", "the frame is grey"])
def test_a_frame_that_failed_and_is_left_out_costs_nobody_their_id(name):
    fail, error = FAILURES[name]
    painted = painted_pipeline()
    tracker = PoseTracker(painted.pipeline)
    for i in range(18):
        if i in {5, 11}:  # on 5 a detection is due; when it fails it is made up for on 6, and so the next is due on 11
            with pytest.raises(error):
                fail(painted, tracker, _walk(i), i / 30)
            continue
        assert tracker(_walk(i), timestamp_s=i / 30).track_ids.tolist() == [1, 2]


@pytest.mark.parametrize("failing", ["pose", "detector"])
def test_no_stream_of_several_changes_when_a_network_fails(failing):
    painted, control = painted_pipeline(), painted_pipeline()
    for i in range(12):
        frames = {"a": _walk(i), "b": _walk(i + 3)}
        if i in {5, 10}:
            getattr(painted, failing).failure = RuntimeError("lost")
            with pytest.raises(InferenceError):
                painted.pipeline.track_many(frames)
        found, expected = painted.pipeline.track_many(frames), control.pipeline.track_many(frames)
        assert all(_same(found[key], expected[key]) for key in frames)


def test_nonsense_from_the_pose_network_is_nobody_and_costs_nobody_their_id():
    painted = painted_pipeline()
    tracker = PoseTracker(painted.pipeline)
    seen = []
    for i in range(12):
        for network, value in ((painted.pose, np.nan), (painted.pose, np.inf)):
            network.lie = None
            if i in {4, 7}:
                network.lie = lambda a, v=value: {n: np.full_like(x, v) for n, x in a.items()}
        seen.append(tracker(_walk(i)).track_ids.tolist())
    assert seen == [[1, 2] if i not in {4, 7} else [] for i in range(12)]


def test_every_error_of_this_page_can_be_caught_by_one_name():
    errors = {error for _, error, _ in [*BAD_FRAMES.values(), *BAD_BOXES.values()]} | {ModelError, InferenceError}
    assert all(issubclass(error, RtmposeInferError) for error in errors)
