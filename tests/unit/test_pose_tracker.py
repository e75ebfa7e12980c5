"""Making pipelines and trackers: what may be passed together, who closes what, what a stream is told of its time."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

from rtmpose_infer import BackendConfig, PersonDetector, PoseEstimator, PosePipeline, PoseTracker, TrackerConfig
from rtmpose_infer.errors import ClosedError, InputError, ModelError
from rtmpose_infer.stages import StageClock
from tests.painted import paint, painted_detector, painted_estimator, painted_pipeline
from tests.tiny_onnx import light_at, light_detector, light_pose, write

ROOT = Path(__file__).parents[2]
FRAME = paint({0: (100, 60, 180, 260)})


@pytest.fixture
def files(tmp_path):
    """Paths of a detector and of a pose network."""
    return write(tmp_path / "detector.onnx", light_detector(margin=2)), write(tmp_path / "pose.onnx", light_pose())


def test_a_tracker_is_made_from_two_files(files):
    detector, pose = files
    with PoseTracker(detector=detector, pose=pose, backend="onnxruntime", threads=1) as tracker:
        poses = tracker(light_at(100, 60, (160, 120)))
    assert poses.track_ids.tolist() == [1]
    np.testing.assert_allclose(poses.keypoints[0], np.tile([100, 60], (17, 1)), atol=1.5)
    assert {name: info.threads for name, info in tracker.describe().items()} == {"detector": 1, "pose": 1}


def test_options_reach_the_networks(files):
    detector, pose = files
    with PosePipeline(
        detector=detector,
        pose=str(pose),
        backend="onnxruntime",
        detector_options={"score_threshold": 0.95},
        pose_options={"skeleton": "ap10k17"},
    ) as pipeline:
        assert pipeline.estimator.skeleton.name == "ap10k17"
        assert len(pipeline.detector.predict(light_at(100, 60, (160, 120)))) == 0  # the tiny detector is 0.9 sure


@pytest.mark.parametrize("swapped", [True, False])
def test_swapped_or_missing_models_are_refused(files, swapped):
    detector, pose = files
    with pytest.raises(ModelError, match="swapped" if swapped else "no model"):
        PosePipeline(
            detector=pose if swapped else detector, pose=detector if swapped else detector.with_name("none.onnx")
        )


def test_when_the_pose_network_cannot_be_loaded_the_detector_is_freed(files, monkeypatch):
    closed = []

    def note(self: PersonDetector) -> None:
        closed.append(self)

    monkeypatch.setattr(PersonDetector, "close", note)
    detector, _ = files
    with pytest.raises(ModelError):
        PosePipeline(detector=detector, pose=detector, backend="onnxruntime")
    assert len(closed) == 1
    mine, _ = painted_detector()
    with pytest.raises(ModelError):
        PosePipeline(detector=mine, pose=detector)
    assert len(closed) == 1


def test_options_for_a_network_that_is_loaded_already_are_refused():
    detector, estimator = painted_detector()[0], painted_estimator()[0]
    with pytest.raises(InputError, match="detector_options"):
        PosePipeline(detector=detector, pose=estimator, detector_options={"score_threshold": 0.5})
    with pytest.raises(InputError, match="pose_options"):
        PosePipeline(detector=detector, pose=estimator, pose_options={"padding": 1.0})
    with pytest.raises(InputError, match="detector_options"):
        PosePipeline(detector=None, pose=estimator, detector_options={"score_threshold": 0.5})


def test_network_options_beside_a_shared_pipeline_are_refused():
    with pytest.raises(InputError, match=r"backend, pose: .*PosePipeline"):
        PoseTracker(painted_pipeline().pipeline, pose="rtmpose-m", backend="ort")


@pytest.mark.parametrize("det_interval", [0, -1, 2.5, "often", True])
def test_a_detection_interval_that_makes_no_sense_is_refused(det_interval):
    with pytest.raises(InputError, match="det_interval"):
        PoseTracker(painted_pipeline().pipeline, det_interval=det_interval)


def test_the_interval_is_given_once():
    with pytest.raises(InputError, match="either det_interval or config"):
        PoseTracker(painted_pipeline().pipeline, det_interval=3, config=TrackerConfig())


def test_a_shared_pipeline_stays_open_when_a_tracker_closes():
    painted = painted_pipeline()
    with PoseTracker(painted.pipeline) as first:
        first(FRAME)
    assert not painted.pipeline.closed
    assert len(PoseTracker(painted.pipeline)(FRAME)) == 1
    with pytest.raises(ClosedError, match="PoseTracker is closed"):
        first(FRAME)


def test_own_networks_are_freed_with_the_tracker(files):
    detector, pose = files
    tracker = PoseTracker(detector=detector, pose=pose, backend="onnxruntime")
    tracker.close()
    tracker.close()
    with pytest.raises(ClosedError):
        tracker.pipeline.detector.predict(FRAME)
    with pytest.raises(ClosedError):
        tracker.pipeline.estimator.predict(FRAME, [[0, 0, 9, 9]])


@pytest.mark.parametrize("with_detector", [True, False])
def test_a_closed_pipeline_says_so_even_when_nothing_would_have_to_be_run(with_detector):
    painted = painted_pipeline(with_detector=with_detector)
    tracker = PoseTracker(painted.pipeline)
    tracker(paint({}))
    painted.pipeline.close()
    with pytest.raises(ClosedError):
        tracker(paint({}))
    with pytest.raises(ClosedError):
        painted.pipeline.track_many({"cam": paint({})})
    with pytest.raises(ClosedError):
        painted.pipeline.predict_batch([])


def test_a_pipeline_describes_what_it_runs_on():
    assert set(painted_pipeline().pipeline.describe()) == {"detector", "pose"}
    assert set(painted_pipeline(with_detector=False).pipeline.describe()) == {"pose"}


# --- time and frame numbers


def test_frames_are_numbered_and_a_thirtieth_of_a_second_apart_unless_said():
    tracker = PoseTracker(painted_pipeline().pipeline)
    told = [tracker(FRAME), tracker(FRAME), tracker(FRAME, timestamp_s=0.5), tracker(FRAME)]
    assert [p.frame_index for p in told] == [0, 1, 2, 3]
    assert [p.timestamp_s for p in told] == pytest.approx([0, 1 / 30, 0.5, 0.5 + 1 / 30])


def test_a_stream_may_begin_at_any_time_and_stand_still():
    tracker = PoseTracker(painted_pipeline().pipeline)
    assert [tracker(FRAME, timestamp_s=t).timestamp_s for t in (100, np.float32(100.5), 100.5)] == [100, 100.5, 100.5]


@pytest.mark.parametrize("time_s", [0.9, float("nan"), float("inf"), "1.2", [2.0]])
def test_a_time_that_goes_back_or_is_none_is_refused_and_changes_nothing(time_s):
    tracker = PoseTracker(painted_pipeline().pipeline)
    tracker(FRAME, timestamp_s=1.0)
    with pytest.raises(InputError, match="timestamp_s"):
        tracker(FRAME, timestamp_s=time_s)
    after = tracker(FRAME, timestamp_s=1.1)
    assert (after.frame_index, after.track_ids.tolist()) == (1, [1])


def test_reset_begins_anew():
    tracker = PoseTracker(painted_pipeline().pipeline)
    tracker(FRAME, timestamp_s=5.0)
    tracker(paint({0: (100, 60, 180, 260), 1: (400, 60, 480, 260)}), timestamp_s=5.1)
    tracker.reset()
    after = tracker(FRAME, timestamp_s=0.0)
    assert (after.frame_index, after.timestamp_s, after.track_ids.tolist()) == (0, 0.0, [1])


def test_a_result_knows_its_frames_size():
    assert PoseTracker(painted_pipeline().pipeline)(FRAME).frame_size_wh == (640, 360)


def test_every_stage_is_timed():
    clock = StageClock()
    PoseTracker(painted_pipeline().pipeline)(FRAME, clock=clock)
    stages = {"letterbox", "detect", "decode_boxes", "crop", "pose", "decode_pose", "track"}
    assert stages <= set(clock.seconds)
    assert all(seconds >= 0 for seconds in clock.seconds.values())


def test_poses_are_estimated_with_the_networks_own_skeleton(files):
    _, pose = files
    estimator = PoseEstimator(pose, backend="onnxruntime", skeleton="humanart17")
    with PosePipeline(detector=None, pose=estimator) as pipeline:
        assert PoseTracker(pipeline)(FRAME, bboxes_xyxy=[[0, 0, 90, 90]]).skeleton.name == "humanart17"


@pytest.mark.parametrize("concurrency", [1, 2])
def test_closing_a_pipeline_during_track_many_is_a_closed_error_and_leaves_no_stream(concurrency, monkeypatch):
    painted = painted_pipeline()
    vars(painted.pipeline)["_concurrency"] = concurrency
    frame = paint({0: (100, 60, 180, 260)})
    estimate = PoseEstimator.predict_batch
    under_way = threading.Event()

    def slow(self, *arguments, **options):
        under_way.set()
        while not painted.pipeline.closed:
            time.sleep(0.001)
        return estimate(self, *arguments, **options)

    closing = threading.Thread(target=lambda: (under_way.wait(), painted.pipeline.close()))
    monkeypatch.setattr(PoseEstimator, "predict_batch", slow)
    closing.start()
    with pytest.raises(ClosedError):
        painted.pipeline.track_many({"a": frame, "b": frame})
    closing.join()
    assert not painted.pipeline._streams
    with pytest.raises(ClosedError, match="PosePipeline is closed"):
        painted.pipeline.track_many({"a": frame})


def test_closing_a_pipeline_while_it_loads_for_calls_side_by_side_leaves_no_thread_behind(monkeypatch):
    pipeline = painted_pipeline().pipeline
    vars(pipeline)["_concurrency"] = 2

    def load(self, *, wait):
        self.close()
        return self

    monkeypatch.setattr(PosePipeline, "_networks_beside", load)
    with pytest.raises(ClosedError):
        pipeline.track_many({"a": FRAME, "b": FRAME})
    assert pipeline._pool is None


def test_a_thread_that_outlives_the_main_thread_goes_on_tracking_many_streams():
    code = """
import threading
from tests.painted import paint, painted_pipeline

pipeline = painted_pipeline().pipeline
vars(pipeline)["_concurrency"] = 2
frame = paint({0: (100, 60, 180, 260)})

def work():
    pipeline.track_many({"a": frame, "b": frame})
    threading.main_thread().join()
    print(*map(len, pipeline.track_many({"a": frame, "b": frame}).values()))

threading.Thread(target=work).start()
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "1 1", ran.stderr


@pytest.mark.parametrize("use", [lambda pipeline: None, lambda pipeline: pipeline.track_many({"a": FRAME, "b": FRAME})])
def test_a_pipeline_that_nobody_holds_is_gone_at_once_with_its_networks(use):
    pipeline = painted_pipeline().pipeline
    vars(pipeline)["_concurrency"] = 2
    PoseTracker(pipeline)(FRAME)
    use(pipeline)
    networks = [weakref.ref(network) for network in (pipeline, pipeline.estimator.backend, pipeline.detector.backend)]
    gc.disable()
    try:
        del pipeline
        assert [network() for network in networks] == [None, None, None]
    finally:
        gc.enable()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no os.fork here")
def test_networks_that_came_along_through_a_fork_are_refused_even_where_another_thread_was_at_work():
    code = """
import asyncio, os
from rtmpose_infer import PoseTracker
from rtmpose_infer.errors import BackendError
from tests.painted import paint, painted_pipeline

frame = paint({0: (100, 60, 180, 260)})
pipeline = painted_pipeline().pipeline
tracker = PoseTracker(pipeline)
asyncio.run(tracker.atrack(frame))
tracker._lock.acquire(), pipeline._streams_lock.acquire()  # as another thread's call holds them
child = os.fork()
if child == 0:
    for use in (
        lambda: tracker(frame),
        lambda: asyncio.run(tracker.atrack(frame)),
        lambda: pipeline.track_many({"a": frame}),
        lambda: pipeline.predict_batch([frame]),
        lambda: pipeline.estimator.predict(frame, [[0, 0, 9, 9]]),
        lambda: pipeline.detector.predict(frame),
    ):
        try:
            use()
        except BackendError as error:
            print("os.fork" in str(error))
    with painted_pipeline().pipeline as own:
        print(len(own.predict_batch([frame])[0]), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.stdout.split() == ["True"] * 6 + ["1"], ran.stderr


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickle.dumps])
def test_what_holds_networks_says_that_it_can_be_neither_copied_nor_pickled(again):
    pipeline = painted_pipeline().pipeline
    for held in (PoseTracker(pipeline), pipeline, pipeline.detector, pipeline.estimator, pipeline.estimator.backend):
        with pytest.raises(TypeError, match=f"this {type(held).__name__} can be neither copied nor pickled"):
            again(held)


def test_a_closed_tracker_starts_no_thread_for_a_call_that_awaits():
    tracker = PoseTracker(painted_pipeline().pipeline)
    tracker.close()
    with pytest.raises(ClosedError, match="PoseTracker is closed"):
        asyncio.run(tracker.atrack(paint({})))
    assert tracker._executor is None


@pytest.mark.parametrize("also", [{"threads": 2}, {"device": "cpu"}])
def test_settings_of_a_runtime_are_given_at_once_or_one_by_one(also):
    with pytest.raises(InputError, match="either backend_config or device and threads"):
        PosePipeline(backend_config=BackendConfig(), **also)
