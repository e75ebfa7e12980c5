"""Streams through whole pipelines: shared by trackers and threads, batched over cameras, awaited, without a detector.

The networks are scripted (see ``tests.painted``), so that who is who is known from the colours; the last test runs real
networks in ONNX Runtime.
"""

from __future__ import annotations

import asyncio
import gc
import math
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rtmpose_infer import PosePipeline, Poses, PoseTracker, TrackerConfig
from rtmpose_infer.backends import BackendInfo, CallableBackend
from rtmpose_infer.calibration import Calibration
from rtmpose_infer.errors import ClosedError, InputError, ShapeError
from tests.held import another_frame_under_way
from tests.painted import joints_of, paint, painted_estimator, painted_pipeline
from tests.tiny_onnx import light_at, light_detector, light_pose, write

Frames = list[tuple[np.ndarray, dict[int, tuple[float, ...]]]]


def walking(
    paints: Sequence[int], count: int, *, speed: float = 4.0, size_wh: tuple[int, int] = (640, 360), first: int = 0
) -> Frames:
    """Return frames in which one person of each paint walks to the right, and where they are."""
    frames = []
    for i in range(first, first + count):
        people = {
            number: (30 + 150 * place + speed * i, 40 + 10 * place, 100 + 150 * place + speed * i, 240 + 10 * place)
            for place, number in enumerate(paints)
        }
        people = {number: tuple(round(v) for v in box) for number, box in people.items()}
        frames.append((paint(people, size_wh), people))
    return frames


def same(a: Poses, b: Poses) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True)
        for name in ("keypoints", "keypoints_raw", "keypoint_scores", "bboxes", "bbox_scores", "track_ids")
    ) and (a.frame_index, a.timestamp_s) == (b.frame_index, b.timestamp_s)


def tracked_alone(frames: Frames, **options: object) -> list[Poses]:
    tracker = PoseTracker(painted_pipeline().pipeline, **options)
    return [tracker(frame) for frame, _ in frames]


# --- one stream


def test_people_are_followed_from_frame_to_frame_and_their_joints_are_where_they_are():
    tracker = PoseTracker(painted_pipeline().pipeline)
    paint_of_id: dict[int, int] = {}
    for frame, people in walking([0, 1, 2], 40):
        poses = tracker(frame)
        assert len(poses) == 3
        for pose, number in zip(poses, poses.track_ids.tolist(), strict=True):
            errors = {p: np.abs(pose.keypoints_raw[0] - joints_of(box)).max() for p, box in people.items()}
            nearest = min(errors, key=errors.__getitem__)
            assert errors[nearest] < 3.0
            assert paint_of_id.setdefault(number, nearest) == nearest
    assert sorted(paint_of_id) == [1, 2, 3]


@pytest.mark.parametrize("interval", [1, 3, 5])
@pytest.mark.parametrize("count", [11, 15])
def test_the_detector_runs_on_every_nth_frame(interval, count):
    painted = painted_pipeline()
    tracker = PoseTracker(painted.pipeline, det_interval=interval)
    for frame, _ in walking([0, 1], count):
        tracker(frame)
    assert len(painted.detector.batches) == math.ceil(count / interval)
    assert painted.pose.batches == [2] * count


def test_an_empty_scene_gives_empty_results_without_a_pose_call():
    painted = painted_pipeline()
    tracker = PoseTracker(painted.pipeline)
    for i in range(12):
        poses = tracker(paint({}))
        assert (len(poses), poses.keypoints.shape, poses.frame_index) == (0, (0, 17, 2), i)
        assert poses.track_ids.shape == (0,)
    assert painted.pose.batches == []


def test_smoothed_joints_come_beside_the_raw_ones():
    frames = walking([0], 10)
    smooth = tracked_alone(frames)
    plain = tracked_alone(frames, config=TrackerConfig(smoothing=None))
    assert not np.array_equal(smooth[-1].keypoints, smooth[-1].keypoints_raw)
    for poses in plain:
        np.testing.assert_array_equal(poses.keypoints, poses.keypoints_raw)


def test_probabilities_come_beside_the_raw_scores_where_the_network_has_a_calibration():
    pipeline = painted_pipeline().pipeline
    pipeline.estimator.calibration = Calibration(np.full(17, 5.0), np.full(17, -2.0))
    tracker = PoseTracker(pipeline)
    for frame, _ in [(paint({}), {}), *walking([0, 1], 8)]:
        poses = tracker(frame)
        expected = pipeline.estimator.calibration.probabilities(poses.keypoint_scores)
        np.testing.assert_array_equal(poses.keypoint_probabilities, expected)
    assert len(poses) == 2


def test_a_frame_of_twice_the_size_keeps_the_people():
    tracker = PoseTracker(painted_pipeline().pipeline)
    for frame, _ in walking([0, 3], 8):
        before = tracker(frame)
    people = {number: tuple(2 * v for v in box) for number, box in walking([0, 3], 1, first=8)[0][1].items()}
    after = tracker(paint(people, (1280, 720)))
    assert after.track_ids.tolist() == before.track_ids.tolist() == [1, 2]
    assert after.frame_size_wh == (1280, 720)
    for pose, box in zip(after, people.values(), strict=True):
        assert np.abs(pose.keypoints_raw[0] - joints_of(box)).max() < 6


def test_a_frame_of_another_shape_is_looked_at_afresh_and_ids_are_not_reused():
    painted = painted_pipeline()
    tracker = PoseTracker(painted.pipeline)
    for frame, _ in walking([0, 3], 7):
        tracker(frame)
    calls = len(painted.detector.batches)
    after = tracker(paint({1: (50, 50, 150, 450)}, (300, 500)))
    assert len(painted.detector.batches) == calls + 1
    assert after.track_ids.tolist() == [3]


# --- boxes of one's own


def test_boxes_of_ones_own_stand_in_for_the_detector():
    painted = painted_pipeline()
    tracker = PoseTracker(painted.pipeline)
    ids = set()
    for frame, people in walking([0, 1], 12):
        poses = tracker(frame, bboxes_xyxy=list(people.values()))
        ids |= set(poses.track_ids.tolist())
        assert len(poses) == 2
    assert ids == {1, 2}
    assert painted.detector.batches == []


@pytest.mark.parametrize("every", [1, 4])
def test_a_pipeline_without_a_detector_tracks_the_boxes_it_is_given(every):
    painted = painted_pipeline(with_detector=False)
    tracker = PoseTracker(painted.pipeline)
    for i, (frame, people) in enumerate(walking([0, 1], 12)):
        poses = tracker(frame, bboxes_xyxy=list(people.values()) if i % every == 0 else None)
        assert poses.track_ids.tolist() == [1, 2]


def test_without_a_detector_and_without_boxes_nobody_is_found():
    painted = painted_pipeline(with_detector=False)
    tracker = PoseTracker(painted.pipeline)
    assert [len(tracker(frame)) for frame, _ in walking([0], 8)] == [0] * 8
    assert painted.pose.batches == []


@pytest.mark.parametrize("nobody", [[], np.zeros((0, 4))])
def test_no_boxes_mean_that_nobody_new_is_there(nobody):
    painted = painted_pipeline()
    tracker = PoseTracker(painted.pipeline)
    assert len(tracker(paint({0: (10, 10, 80, 200)}), bboxes_xyxy=nobody)) == 0
    assert painted.detector.batches == []


# --- several streams on one pipeline


def test_two_trackers_on_one_pipeline_know_nothing_of_each_other():
    left, right = walking([0, 1], 20), walking([4], 20, speed=-2.0)
    pipeline = painted_pipeline().pipeline
    trackers = PoseTracker(pipeline), PoseTracker(pipeline)
    together = [
        [tracker(frames[i][0]) for i in range(20)] for tracker, frames in zip(trackers, (left, right), strict=True)
    ]
    interleaved = PoseTracker(pipeline), PoseTracker(pipeline)
    mixed = [[t(f[i][0]) for t, f in zip(interleaved, (left, right), strict=True)] for i in range(20)]
    for i in range(20):
        assert same(mixed[i][0], together[0][i])
        assert same(mixed[i][1], together[1][i])
    assert {int(i) for row in mixed for i in row[1].track_ids} == {1}


def test_trackers_in_threads_on_one_pipeline_give_what_they_give_alone():
    streams = [walking([i % 8, (i + 3) % 8], 25, speed=1.0 + i) for i in range(6)]
    pipeline = painted_pipeline().pipeline

    def track(frames: Frames) -> list[Poses]:
        tracker = PoseTracker(pipeline)
        return [tracker(frame) for frame, _ in frames]

    with ThreadPoolExecutor(6) as pool:
        for frames, results in zip(streams, pool.map(track, streams), strict=True):
            for one, other in zip(tracked_alone(frames), results, strict=True):
                assert same(one, other)


def test_frames_that_come_while_another_is_under_way_share_the_next_calls():
    painted = painted_pipeline()
    frames = [paint({number: (100, 60, 180, 260)}) for number in range(4)]
    with ThreadPoolExecutor(3) as pool:
        with another_frame_under_way(painted.pipeline, frames[0]):
            others = [pool.submit(PoseTracker(painted.pipeline), frame) for frame in frames[1:]]
            until = time.monotonic() + 60
            while len(painted.pipeline._batcher._waiting) < 3:
                assert time.monotonic() < until
                time.sleep(0.001)
        for other, frame in zip(others, frames[1:], strict=True):
            assert same(other.result(60), PoseTracker(painted_pipeline().pipeline)(frame))
    assert painted.detector.batches == [1, 3]
    assert painted.pose.batches == [1, 3]


def test_while_an_accelerator_is_at_work_another_frame_is_prepared(monkeypatch):
    painted = painted_pipeline()
    elsewhere = BackendInfo(runtime="callable", version="", device="cuda:0")
    monkeypatch.setattr(CallableBackend, "describe", lambda self: elsewhere)
    frame = paint({0: (100, 60, 180, 260)})
    with another_frame_under_way(painted.pipeline, frame) as other:
        assert len(PoseTracker(painted.pipeline)(frame)) == 1
        assert not other.done()


def test_several_threads_may_call_one_tracker():
    tracker = PoseTracker(painted_pipeline().pipeline)
    frame = paint({0: (100, 60, 180, 260)})
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: tracker(frame), range(40)))
    assert sorted(p.frame_index for p in results) == list(range(40))
    assert all(p.track_ids.tolist() == [1] for p in results)


# --- track_many


def test_streams_are_batched_and_each_gets_what_it_would_get_alone():
    streams = {"a": walking([0, 1], 16), "b": walking([2], 16, speed=-1.0), "c": walking([3, 4, 5], 16, speed=2.0)}
    alone = {key: tracked_alone(frames) for key, frames in streams.items()}
    painted = painted_pipeline()
    for i in range(16):
        together = painted.pipeline.track_many({key: frames[i][0] for key, frames in streams.items()})
        assert list(together) == ["a", "b", "c"]
        for key, poses in together.items():
            assert same(poses, alone[key][i]), (key, i)
    assert painted.pose.batches == [6] * 16
    assert painted.detector.batches == [3] * math.ceil(16 / 5)


def test_streams_of_different_size_are_tracked_together():
    painted = painted_pipeline()
    for i in range(6):
        frames = {
            1: paint({0: (10 + i, 10, 40 + i, 90)}, (160, 100)),
            2: paint({1: (500 + 9 * i, 100, 800 + 9 * i, 1000)}, (1920, 1080)),
        }
        poses = painted.pipeline.track_many(frames)
        assert {key: p.track_ids.tolist() for key, p in poses.items()} == {1: [1], 2: [1]}
    assert {key: p.frame_size_wh for key, p in poses.items()} == {1: (160, 100), 2: (1920, 1080)}


def test_a_stream_may_join_pause_and_come_back():
    pipeline = painted_pipeline().pipeline
    a, b = walking([0], 12), walking([2, 3], 12)
    for i in range(12):
        frames = {"a": a[i][0]}
        if 3 <= i < 6 or i >= 8:
            frames["b"] = b[i][0]
        elif i >= 6:
            frames["b"] = None  # the camera has nothing this time
        poses = pipeline.track_many(frames, timestamps_s={"a": i / 30, "b": i / 30})
        assert ("b" in poses) == (frames.get("b") is not None)
        assert poses["a"].frame_index == i
        assert poses["a"].track_ids.tolist() == [1]
        if "b" in poses:
            assert poses["b"].track_ids.tolist() == [1, 2]
            assert poses["b"].frame_index == (i - 3 if i < 6 else i - 5)


def test_a_stream_that_left_begins_anew_and_the_others_go_on():
    pipeline = painted_pipeline().pipeline
    for frame, _ in walking([0, 1], 3):
        pipeline.track_many({"a": frame, "b": frame})
    pipeline.leave("a")
    pipeline.leave("nobody")
    poses = pipeline.track_many({"a": walking([5], 1)[0][0], "b": walking([0, 1], 1, first=3)[0][0]})
    assert (poses["a"].frame_index, poses["a"].track_ids.tolist()) == (0, [1])
    assert (poses["b"].frame_index, poses["b"].track_ids.tolist()) == (3, [1, 2])


def test_each_stream_keeps_the_settings_with_which_it_joined():
    pipeline = painted_pipeline().pipeline
    frames = walking([0], 8)
    for i, (frame, _) in enumerate(frames):
        keys = ("plain", "smooth") if i else ("plain",)
        config = TrackerConfig(smoothing=None) if i == 0 else TrackerConfig()
        poses = pipeline.track_many(dict.fromkeys(keys, frame), config=config)
    np.testing.assert_array_equal(poses["plain"].keypoints, poses["plain"].keypoints_raw)
    assert not np.array_equal(poses["smooth"].keypoints, poses["smooth"].keypoints_raw)


def test_no_streams_are_fine():
    painted = painted_pipeline()
    assert painted.pipeline.track_many({}) == {}
    assert painted.pipeline.track_many({"a": None}) == {}
    assert painted.detector.batches == []


@pytest.mark.parametrize(
    ("bad", "time_s"),
    [(np.zeros((8, 8), np.uint8), None), ("frame.jpg", None), (paint({}), -1.0), (paint({}), float("nan"))],
    ids=["grey", "path", "time went back", "time is NaN"],
)
@pytest.mark.parametrize("place", ["first", "last"])
def test_one_bad_stream_is_named_and_changes_nobodys_state(bad, time_s, place):
    a, b = walking([0, 1], 12), walking([2], 12)
    control, disturbed = painted_pipeline(), painted_pipeline()
    for i in range(12):
        good = {"a": a[i][0], "b": b[i][0]}
        times = {"a": i / 30, "b": i / 30}
        if i in {1, 5, 7}:
            with_bad = {"b": bad, "a": a[i][0]} if place == "first" else {"a": a[i][0], "b": bad}
            bad_times = times if time_s is None else times | {"b": time_s}
            with pytest.raises(InputError, match="stream 'b'"):
                disturbed.pipeline.track_many(with_bad, timestamps_s=bad_times)
        expected = control.pipeline.track_many(good, timestamps_s=times)
        found = disturbed.pipeline.track_many(good, timestamps_s=times)
        assert all(same(found[key], expected[key]) for key in good)


def test_frames_or_times_that_name_no_stream_are_refused_in_words():
    pipeline = painted_pipeline().pipeline
    with pytest.raises(InputError, match="frames must be a mapping of streams to frames"):
        pipeline.track_many([paint({})])
    with pytest.raises(InputError, match="timestamps_s must be a mapping of streams to seconds"):
        pipeline.track_many({"a": paint({})}, timestamps_s=[1.0])
    pipeline.track_many({"a": paint({})}, timestamps_s={"a": 1.0})
    with pytest.raises(InputError, match=r"leave\(\)"):
        pipeline.track_many({"a": paint({})}, timestamps_s={"a": 0.0})


def test_a_stream_whose_first_frame_is_bad_has_not_joined():
    pipeline = painted_pipeline().pipeline
    with pytest.raises(InputError):
        pipeline.track_many({"good": paint({}), "bad": np.zeros((4, 4), np.uint8)})
    poses = pipeline.track_many({"good": paint({}), "bad": paint({})})
    assert [p.frame_index for p in poses.values()] == [0, 0]


def test_several_threads_may_track_streams_of_one_pipeline():
    pipeline = painted_pipeline().pipeline
    streams = {key: walking([key], 12, speed=1.0 + key) for key in range(4)}

    def track(key: int) -> list[Poses]:
        return [pipeline.track_many({key: frame})[key] for frame, _ in streams[key]]

    with ThreadPoolExecutor(4) as pool:
        for key, results in zip(streams, pool.map(track, streams), strict=True):
            assert all(same(one, other) for one, other in zip(results, tracked_alone(streams[key]), strict=True))


# --- asynchronous


def test_awaiting_does_not_block_the_loop_and_keeps_the_order():
    painted = painted_pipeline()
    frames = walking([0, 1], 8)
    go_on = threading.Event()
    painted.pose.before = lambda: None if go_on.wait(20) else pytest.fail("the loop was blocked")
    tracker = PoseTracker(painted.pipeline)
    ticks = 0

    async def main() -> list[Poses]:
        nonlocal ticks
        pending = [asyncio.ensure_future(tracker.atrack(frame)) for frame, _ in frames]
        for _ in range(5):  # the loop turns while the network waits
            await asyncio.sleep(0)
            ticks += 1
        assert not any(task.done() for task in pending)
        go_on.set()
        return list(await asyncio.gather(*pending))

    results = asyncio.run(main())
    assert ticks == 5
    assert all(same(one, other) for one, other in zip(results, tracked_alone(frames), strict=True))
    tracker.close()


def test_awaiting_raises_what_calling_raises():
    with PoseTracker(painted_pipeline().pipeline) as tracker, pytest.raises(ShapeError):
        asyncio.run(tracker.atrack(np.zeros((4, 4), np.uint8)))


def test_closing_gives_the_frames_that_wait_an_error_and_does_not_hang():
    painted = painted_pipeline()
    started, go_on = threading.Event(), threading.Event()
    painted.pose.before = lambda: (started.set(), go_on.wait(20))
    tracker = PoseTracker(painted.pipeline)
    frame = walking([0], 1)[0][0]

    async def main() -> list[object]:
        pending = [asyncio.ensure_future(tracker.atrack(frame)) for _ in range(3)]
        await asyncio.to_thread(started.wait, 20)
        closing = asyncio.ensure_future(asyncio.to_thread(tracker.close))
        while not tracker.closed:
            await asyncio.sleep(0.001)
        go_on.set()
        results = await asyncio.gather(*pending, return_exceptions=True)
        await closing
        return results

    results = asyncio.run(main())
    assert len(results[0]) == 1
    assert [type(r) for r in results[1:]] == [ClosedError, ClosedError]
    with pytest.raises(ClosedError):
        asyncio.run(tracker.atrack(frame))


def test_closing_ends_the_trackers_thread():
    before = set(threading.enumerate())
    tracker = PoseTracker(painted_pipeline().pipeline)
    asyncio.run(tracker.atrack(paint({})))
    assert len(set(threading.enumerate()) - before) == 1
    tracker.close()
    assert set(threading.enumerate()) <= before


# --- memory


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    import resource

    return pages * resource.getpagesize()


def lights(count: int) -> Iterator[np.ndarray]:
    """Yield frames in which a light moves, sometimes goes out, and the frame's size changes now and then."""
    for i in range(count):
        size_wh = ((160, 120), (200, 120), (120, 160))[i // 100 % 3]
        if i % 50 < 5:
            yield np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
        else:
            yield light_at(40 + 30 * math.sin(i / 20), 60 + 30 * math.cos(i / 15), size_wh)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
def test_three_thousand_frames_do_not_make_the_process_grow(tmp_path):
    # Tiny networks: what may leak is the pipeline and the runtime's arenas under changing shapes, not the weights.
    detector = write(tmp_path / "detector.onnx", light_detector(margin=2))
    pose = write(tmp_path / "pose.onnx", light_pose())
    with PosePipeline(detector=detector, pose=pose, backend="onnxruntime", threads=1) as pipeline:
        tracker, seen = PoseTracker(pipeline), 0
        for i, frame in enumerate(lights(3000)):
            seen += len(tracker(frame))
            if i % 10 == 0:
                pipeline.track_many({"a": frame, f"visitor {i // 50}": frame})
                pipeline.leave(f"visitor {i // 50 - 1}")
            if i == 300:
                gc.collect()
                before = resident_bytes()
        gc.collect()
        grown = resident_bytes() - before
    assert seen > 2000
    assert grown < 5e6, f"grew by {grown / 1e6:.1f} MB"


def test_a_crowd_that_has_left_leaves_no_memory_of_itself_in_the_tracker():
    estimator, _ = painted_estimator()
    tracker = PoseTracker(PosePipeline(detector=None, pose=estimator), config=TrackerConfig(track_lost_s=0.2))
    for i in range(40):
        people = {p: (20 + 70 * p + i, 40, 80 + 70 * p + i, 300) for p in range(8)}
        tracker(paint(people), bboxes_xyxy=list(people.values()))
    for _ in range(30):
        tracker(paint({}), bboxes_xyxy=[])
    assert len(tracker._stream._tracker._state.tracks) == 0
