"""Offline tracking: knowledge of the future, the same result after a kill, bounded memory."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rtmpose_infer import BackendConfig, PosePipeline, TrackerConfig
from rtmpose_infer.calibration import Calibration
from rtmpose_infer.errors import InferenceError, InputError
from rtmpose_infer.offline import OfflineConfig, OfflineTracker
from tests.painted import Painted, joints_of, paint, painted_detector, painted_estimator, painted_pipeline
from tests.tiny_onnx import light_detector, light_pose, write

RATE = 30.0
Boxes = dict[int, tuple[int, int, int, int]]


def walk(index: int) -> Boxes:
    """Two people walking towards and past each other, one above the other in the picture."""
    return {0: (20 + 4 * index, 40, 70 + 4 * index, 160), 2: (560 - 4 * index, 190, 610 - 4 * index, 310)}


def video(count: int, scene=walk):
    return [(paint(scene(i)), i / RATE) for i in range(count)]


def track(painted: Painted, frames, *, work_dir: Path | None = None, **config):
    with OfflineTracker(painted.pipeline, config=OfflineConfig(**config)) as tracker:
        return list(tracker.track(frames, work_dir=work_dir))


def test_everybody_is_found_in_every_frame_under_one_id_each() -> None:
    results = track(painted_pipeline(), video(60))
    assert [p.frame_index for p in results] == list(range(60))
    assert all(len(p) == 2 for p in results)
    assert {i for p in results for i in p.track_ids.tolist()} == {1, 2}
    for index, poses in enumerate(results):
        true = sorted((joints_of(b) for b in walk(index).values()), key=lambda j: j[:, 1].mean())
        found = sorted(poses.keypoints, key=lambda j: j[:, 1].mean())
        assert np.abs(np.array(true) - np.array(found)).max() < 4


def test_the_detector_sees_key_frames_only() -> None:
    painted = painted_pipeline()
    track(painted, video(41), key_interval=10)
    assert sum(painted.detector.batches) == 5


@pytest.mark.parametrize(
    ("options", "threads"), [({}, 1), ({"threads": 3}, 3), ({"backend_config": BackendConfig(threads=2)}, 2)]
)
def test_own_networks_have_one_thread_each_unless_told_otherwise(options, threads, tmp_path: Path) -> None:
    detector = write(tmp_path / "detector.onnx", light_detector())
    pose = write(tmp_path / "pose.onnx", light_pose())
    with OfflineTracker(detector=detector, pose=pose, backend="onnxruntime", **options) as tracker:
        assert {info.threads for info in tracker.pipeline.describe().values()} == {threads}


def test_the_people_of_a_key_interval_share_a_call() -> None:
    painted = painted_pipeline()
    track(painted, video(41))
    assert sorted(painted.pose.batches) == [2] + [10] * 8


def test_somebody_who_appears_between_key_frames_is_found_before_the_detector_sees_them() -> None:
    def scene(index: int) -> Boxes:
        return walk(index) if index >= 13 else {0: walk(index)[0]}

    results = track(painted_pipeline(), video(40, scene), key_interval=8)
    assert [len(p) for p in results[8:20]] == [1] * 5 + [2] * 7


@pytest.mark.parametrize(("frames", "shown"), [(10, False), (30, True)])
def test_who_never_convinces_is_shown_only_after_lasting_a_while_and_then_from_the_first_sight_on(
    frames: int, shown: bool
) -> None:
    def scene(index: int) -> Boxes:
        return walk(index) | ({4: (300, 40, 350, 160)} if 20 <= index < 20 + frames else {})

    def unsure(answer):
        answer["dets"][:, 4, 4] *= 0.4
        return answer

    painted = painted_pipeline()
    painted.detector.lie = unsure
    results = track(painted, video(60, scene))
    assert [len(p) for p in results] == [2 + (shown and 20 <= i < 20 + frames) for i in range(60)]


def test_somebody_hidden_for_a_second_keeps_the_id() -> None:
    def scene(index: int) -> Boxes:
        return {0: (20 + 2 * index, 40, 70 + 2 * index, 160)} if not 30 <= index < 60 else {}

    results = track(painted_pipeline(), video(100, scene))
    assert {i for p in results for i in p.track_ids.tolist()} == {1}
    assert not any(len(p) for p in results[32:58])


def test_somebody_whom_the_detector_finds_no_more_is_followed_and_costs_nothing_when_resumed(tmp_path: Path) -> None:
    painted = painted_pipeline()

    def forgetful(answer):
        if len(painted.detector.batches) > 2:
            answer["dets"][:, 2, 4] = 0
        return answer

    painted.detector.lie = forgetful
    results = track(painted, video(50), work_dir=tmp_path, workers=1)
    assert [len(p) for p in results] == [2] * 50
    for index, poses in enumerate(results):
        np.testing.assert_allclose(poses.keypoints[1], joints_of(walk(index)[2]), atol=4)
    estimated = len(painted.pose.batches)
    again = track(painted, video(50), work_dir=tmp_path, workers=1)
    assert len(painted.pose.batches) == estimated
    np.testing.assert_array_equal(again[49].keypoints, results[49].keypoints)


def test_somebody_of_whom_the_detector_is_not_sure_is_shown_from_the_first_sight_once_a_second_confirms_it() -> None:
    painted = painted_pipeline()

    def unsure(answer):
        answer["dets"][:, 2, 4] *= 0.4
        if len(painted.detector.batches) > 1:
            answer["dets"][:, 1, 4] = 0
        else:
            answer["dets"][1:, 1, 4] = 0
            answer["dets"][:, 1, 4] *= 0.4
        return answer

    def scene(index: int) -> Boxes:
        return walk(index) | {1: (300, 40, 350, 160)} if index < 3 else walk(index)

    painted.detector.lie = unsure
    results = track(painted, video(30, scene), workers=1)
    assert [p.track_ids.tolist() for p in results] == [[1, 2]] * 30


def test_smoothing_uses_both_sides_so_it_does_not_lag() -> None:
    results = track(painted_pipeline(), video(60))
    raw = np.stack([p.keypoints_raw[0] for p in results[10:50]])
    smooth = np.stack([p.keypoints[0] for p in results[10:50]])
    assert abs(float((smooth - raw)[..., 0].mean())) < 0.2  # walking at 4 px a frame, a lag of a frame would be 4 px


def test_the_halves_of_a_flip_test_take_turns_where_smoothing_makes_them_one() -> None:
    painted = painted_pipeline(flip_error_px=2)
    standing = {0: (100, 40, 160, 240)}
    results = track(painted, [(paint(standing), i / RATE) for i in range(40)])
    assert sum(painted.pose.batches) == 41  # of the first frame nobody knows yet how soon the next one comes
    true = joints_of(standing[0])[:, 0]
    raw = np.stack([p.keypoints_raw[0, :, 0] for p in results[8:32]]) - true
    assert raw[::2].min() > 2  # in frame pixels, of which the crop shows several in one of its own
    assert raw[1::2].max() < -2
    smooth = np.stack([p.keypoints[0, :, 0] for p in results[8:32]]) - true
    assert abs(smooth.mean()) < 0.5
    assert np.abs(np.diff(smooth, axis=0)).max() < 0.1


@pytest.mark.parametrize(("rate", "config"), [(10.0, {}), (RATE, {"smoothing_s": 0.0})])
def test_both_halves_of_a_flip_test_are_made_where_no_smoothing_would_even_them_out(rate: float, config) -> None:
    painted = painted_pipeline(flip_error_px=2)
    standing = {0: (100, 40, 160, 240)}
    results = track(painted, [(paint(standing), i / rate) for i in range(12)], **config)
    assert sum(painted.pose.batches) == 2 * 12
    assert all(len(poses) == 1 for poses in results)


def test_work_in_progress_outlives_another_smoothing_unless_a_flip_test_hangs_on_it(tmp_path: Path) -> None:
    for flip_error_px, folder in ((None, tmp_path / "plain"), (0, tmp_path / "flip")):
        track(painted_pipeline(flip_error_px=flip_error_px), video(12), work_dir=folder, smoothing_s=0.05)
        again = painted_pipeline(flip_error_px=flip_error_px)
        if flip_error_px is None:
            track(again, video(12), work_dir=folder, smoothing_s=0.0)
            assert again.pose.batches == []
        else:
            with pytest.raises(InputError, match="other settings"):
                track(again, video(12), work_dir=folder, smoothing_s=0.0)


def test_few_frames_a_second_are_smoothed_too() -> None:
    rng, painted = np.random.default_rng(0), painted_pipeline()
    painted.pose.lie = lambda answer: (
        answer | {"keypoints": (answer["keypoints"] + rng.normal(0, 1, answer["keypoints"].shape)).astype(np.float32)}
    )
    results = track(painted, [(paint({0: (100, 40, 160, 240)}), i / 10) for i in range(30)], workers=1)
    raw, smooth = (np.diff([getattr(p, k)[0] for p in results], 2, axis=0) for k in ("keypoints_raw", "keypoints"))
    assert np.abs(smooth).mean() < 0.75 * np.abs(raw).mean()


@pytest.mark.parametrize("times", [lambda i: 0.0, lambda i: i // 30, lambda i: i // 2 / 15])
def test_what_moves_between_frames_of_the_same_time_is_not_smoothed_away(times) -> None:
    def swinging(index: int) -> Boxes:
        reach = int(30 + 14 * np.sin(index / 4))
        return {0: (300 - reach, 40, 300 + reach, 160)}

    frames = [(paint(swinging(i)), float(times(i))) for i in range(70)]
    results = track(painted_pipeline(), frames)
    assert [p.timestamp_s for p in results] == [time_s for _, time_s in frames]
    assert max(np.abs(p.keypoints - p.keypoints_raw).max() for p in results) < 1.5


def test_a_run_that_was_killed_goes_on_with_the_identical_result(tmp_path: Path) -> None:
    whole = track(painted_pipeline(), video(120))
    painted = painted_pipeline()

    def killed():
        yield from video(90)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        track(painted, killed(), work_dir=tmp_path)
    before = sum(painted.pose.batches)
    assert before > 0
    resumed = track(painted, video(120), work_dir=tmp_path)
    assert sum(painted.pose.batches) == 2 * 120  # nobody was estimated twice
    for a, b in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(a.keypoints, b.keypoints)
        np.testing.assert_array_equal(a.track_ids, b.track_ids)


def test_the_result_does_not_depend_on_which_network_is_slow() -> None:
    def scene(index: int) -> Boxes:  # one of them is missed at two key frames
        return {0: walk(index)[0]} if 23 < index < 32 else walk(index)

    results = []
    for slow in ("detector", "pose"):
        painted = painted_pipeline()
        getattr(painted, slow).before = lambda: time.sleep(0.003)
        results.append(track(painted, video(60, scene), key_interval=5))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a.keypoints, b.keypoints)
        np.testing.assert_array_equal(a.track_ids, b.track_ids)


def test_a_file_of_the_work_in_progress_that_is_broken_is_computed_again(tmp_path: Path) -> None:
    painted = painted_pipeline()
    whole = track(painted, video(20), work_dir=tmp_path)
    path = tmp_path / "answers.bin"
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + b"broken" + content[half + 6 : -40])
    again = track(painted, video(20), work_dir=tmp_path)
    for a, b in zip(whole, again, strict=True):
        np.testing.assert_array_equal(a.keypoints, b.keypoints)


@pytest.mark.parametrize("scale", [0.5, 2])
def test_joints_are_not_smoothed_across_a_change_of_the_frames_size(scale: float) -> None:
    people = {0: (100, 60, 180, 260), 2: (450, 100, 530, 300)}
    scaled = {colour: tuple(int(v * scale) for v in box) for colour, box in people.items()}
    scenes = [people] * 21 + [scaled] * 19
    frames = [
        (paint(scene, (640, 360) if scene is people else (int(640 * scale), int(360 * scale))), i / RATE)
        for i, scene in enumerate(scenes)
    ]
    for poses, scene in zip(track(painted_pipeline(), frames), scenes, strict=True):
        assert len(poses) == 2
        for keypoints in poses.keypoints:
            assert min(np.abs(keypoints - joints_of(box)).max() for box in scene.values()) < 4 * max(scale, 1)


@pytest.mark.parametrize("scale", [0.5, 2])
def test_gaps_are_joined_across_a_change_of_the_frames_size(scale: float) -> None:
    frames = []
    for index in range(90):
        size = 1 if index < 45 else scale
        people = {} if 30 <= index < 60 else {0: tuple(int(size * edge) for edge in (300, 100, 360, 240))}
        frames.append((paint(people, (int(size * 640), int(size * 360))), index / RATE))
    results = track(painted_pipeline(), frames, longest_gap_s=3, tracker=TrackerConfig(track_lost_s=0.3))
    assert {number for poses in results for number in poses.track_ids.tolist()} == {1}


def test_work_of_other_settings_of_the_networks_is_refused(tmp_path: Path) -> None:
    def work(**options):
        pipeline = PosePipeline(detector=painted_detector(**options)[0], pose=painted_estimator()[0])
        return list(OfflineTracker(pipeline).track(video(12), work_dir=tmp_path))

    work()
    for options in ({"score_threshold": np.float32(0.5)}, {"iou_threshold": 0.5}, {"max_detections": 1}):
        with pytest.raises(InputError, match=str(tmp_path)):
            work(**options)


def test_work_of_other_weights_is_refused(tmp_path: Path) -> None:
    frames = video(12)
    pose = write(tmp_path / "pose.onnx", light_pose())
    for margin in (2, 5):
        detector = write(tmp_path / f"{margin}.onnx", light_detector(margin=margin))
        with PosePipeline(detector=detector, pose=pose, backend="onnxruntime", threads=1) as pipeline:
            tracker = OfflineTracker(pipeline)
            if margin == 5:
                with pytest.raises(InputError, match="work"):
                    list(tracker.track(frames, work_dir=tmp_path / "work"))
            else:
                list(tracker.track(frames, work_dir=tmp_path / "work"))


def test_the_work_of_another_video_is_refused(tmp_path: Path) -> None:
    painted = painted_pipeline()
    with OfflineTracker(painted.pipeline) as tracker:
        list(tracker.track(video(3), work_dir=tmp_path, video_id="one.mp4"))
        with pytest.raises(InputError, match="another video"):
            list(tracker.track(video(3), work_dir=tmp_path, video_id="two.mp4"))


def test_a_failing_network_ends_the_run_and_keeps_what_was_done(tmp_path: Path) -> None:
    painted = painted_pipeline()
    frames = video(60)

    def failing():
        for index, frame in enumerate(frames):
            if index == 40:
                painted.pose.failure = RuntimeError("device lost")
            yield frame

    with pytest.raises(InferenceError, match="device lost"):
        track(painted, failing(), work_dir=tmp_path)
    assert len(track(painted, frames, work_dir=tmp_path)) == 60


def test_few_frames_are_held_at_a_time() -> None:
    painted = painted_pipeline()
    read = 0
    done = 0
    most = 0

    def counted():
        nonlocal read, most
        for frame in video(200):
            read += 1
            most = max(most, read - done)
            yield frame

    def finished(count: int) -> None:
        nonlocal done
        done = count

    with OfflineTracker(painted.pipeline, config=OfflineConfig(workers=2)) as tracker:
        list(tracker.track(counted(), progress=finished))
    assert done == 200
    assert most <= 9 * OfflineConfig().key_interval


def test_probabilities_come_where_the_network_has_a_calibration() -> None:
    painted = painted_pipeline()
    assert all(p.keypoint_probabilities is None for p in track(painted, video(9)))
    painted.pipeline.estimator.calibration = Calibration(np.full(17, 5.0), np.full(17, -2.0))
    for poses in track(painted, video(9)):
        expected = painted.pipeline.estimator.calibration.probabilities(poses.keypoint_scores)
        np.testing.assert_array_equal(poses.keypoint_probabilities, expected)


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_short_videos(count: int) -> None:
    results = track(painted_pipeline(), video(count))
    assert [len(p) for p in results] == [2] * count


def test_an_empty_scene_gives_empty_results() -> None:
    results = track(painted_pipeline(), video(20, lambda index: {}))
    assert [len(p) for p in results] == [0] * 20
    assert all(p.track_ids.shape == (0,) for p in results)


def test_time_that_goes_back_is_refused() -> None:
    frames = [(paint({}), 1.0), (paint({}), 0.5)]
    with pytest.raises(InputError, match="frame 1: time"):
        track(painted_pipeline(), frames)


def test_a_pipeline_without_a_detector_is_refused() -> None:
    estimator, _ = painted_estimator()
    with pytest.raises(InputError, match="needs a detector"):
        OfflineTracker(PosePipeline(detector=None, pose=estimator))


def test_the_published_comparison_with_online_tracking_runs(shared: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "offline.py"
    command = [sys.executable, str(script), "quality", "--shared", str(shared), "--scenes", "TUD-Campus"]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    assert "| TUD-Campus | online |" in told
    assert "| TUD-Campus | offline |" in told
