"""One network for people and joints: where its input and its answers lie, and tracking with it alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rtmpose_infer import CallableBackend, OneStageEstimator, PosePipeline, PoseTracker, TensorSpec, TrackerConfig
from rtmpose_infer.errors import ClosedError, InputError, ModelError, OutputMismatchError, ShapeError
from rtmpose_infer.model_spec import METADATA_KEY, ModelSpec, load_model_file
from rtmpose_infer.offline import OfflineTracker
from rtmpose_infer.skeletons import load_skeleton
from tests.painted import DETECTOR_WH, SKELETON, Answer, Network, _seen, joints_of, paint, painted_detector
from tests.tiny_onnx import declared_onnx, light_pose, write

FLOAT, INTEGER = np.dtype(np.float32), np.dtype(np.int64)


def everybody(pictures: np.ndarray) -> Answer:
    """Answer as an exported RTMO does: a row for each paint, empty ones with score 0."""
    answer: Answer = {
        "dets": np.zeros((len(pictures), 8, 5), np.float32),
        "keypoints": np.zeros((len(pictures), 8, 17, 2), np.float32),
        "scores": np.zeros((len(pictures), 8, 17), np.float32),
    }
    for i, picture in enumerate(pictures):
        for row, (count, edges) in enumerate(_seen(picture)):
            if count >= 12:
                answer["dets"][i, row] = [*edges, 0.9 - 0.01 * row]
                answer["keypoints"][i, row] = joints_of(edges)
                answer["scores"][i, row] = 0.8
    return answer


def published(pictures: np.ndarray) -> Answer:
    """Answer as OpenMMLab's files do: the joints' scores stand behind their places."""
    own = everybody(pictures)
    return {"dets": own["dets"], "keypoints": np.concatenate([own["keypoints"], own["scores"][..., None]], axis=3)}


def one_stage(
    function: Any = everybody, *, batch: int | None = None, **options: Any
) -> tuple[OneStageEstimator, Network]:
    network = Network(function)
    outputs = {name: value.shape[1:] for name, value in function(np.zeros((1, 4, 4, 3), np.uint8)).items()}
    backend = CallableBackend(
        network,
        [TensorSpec("frames_u8", (batch, DETECTOR_WH[1], DETECTOR_WH[0], 3), np.dtype(np.uint8))],
        [TensorSpec(name, (None, None, *shape[1:]), FLOAT) for name, shape in outputs.items()],
    )
    spec = ModelSpec(
        task="one_stage", head="rtmo", input_size_wh=DETECTOR_WH, input_format="nhwc_uint8", skeleton=SKELETON
    )
    return OneStageEstimator.from_backend(backend, spec, **options), network


# --- one frame


@pytest.mark.parametrize("function", [everybody, published])
@pytest.mark.parametrize("size_wh", [(640, 360), (360, 640), (1920, 1080), (320, 320), (161, 97)])
def test_joints_and_boxes_come_back_to_where_the_people_are(function, size_wh):
    width, height = size_wh
    box = (width // 4, height // 4, width // 2, height - height // 4)
    (poses,) = one_stage(function)[0].predict(paint({1: box}, size_wh))
    pixel = max(width, height) / DETECTOR_WH[0]  # of the network, in the frame's
    assert np.abs(poses.keypoints[0] - joints_of(box)).max() < 1.2 * pixel
    assert np.abs(poses.bboxes[0] - box).max() < 1.2 * pixel
    assert poses.frame_size_wh == size_wh


def test_the_way_back_is_the_exact_inverse_of_the_way_in():
    # A picture whose values tell its columns: what the network sees at a place is what lies where that place comes back.
    frame = np.repeat((np.arange(1920) // 8).astype(np.uint8)[None, :, None], 1080, axis=0).repeat(3, axis=2)
    seen = []
    places = np.array([[160, 160], [0, 70], [40, 100], [201, 160], [320, 250]], np.float32)

    def fixed(pictures: np.ndarray) -> Answer:
        seen.append(pictures.copy())
        answer = everybody(pictures[:, :1, :1])
        answer["dets"][:, 0] = [0, 70, 320, 250, 0.9]
        answer["keypoints"][:, 0, :5] = places
        answer["scores"][:, 0, :5] = 0.9
        return answer

    (poses,) = one_stage(fixed)[0].predict(frame)
    expected = [[960, 540], [0, 0], [240, 180], [1206, 540], [1920, 1080]]
    np.testing.assert_allclose(poses.keypoints[0, :5], expected, atol=1e-3)
    np.testing.assert_allclose(poses.bboxes[0], [0, 0, 1920, 1080], atol=1e-3)
    for (x, y), (frame_x, _) in list(zip(places.astype(int), expected, strict=True))[:4]:
        assert abs(int(seen[-1][0, y + 1, x, 0]) - frame_x / 8) <= 1


def test_the_frame_is_warped_into_the_middle_and_the_rest_is_grey():
    seen = []

    def look(pictures: np.ndarray) -> Answer:
        seen.append(pictures.copy())
        return everybody(pictures)

    one_stage(look)[0].predict(np.full((360, 640, 3), 20, np.uint8))
    column = seen[-1][0, :, 160, 0]
    # Half a pixel of the frame's edge is blended with the grey.
    assert set(column[:70]) == set(column[251:]) == {114}
    assert set(column[71:249]) == {20}


def test_a_resolution_that_shrinks_leaves_no_old_pixels_in_the_border():
    estimator, _ = one_stage()
    estimator.predict(paint({0: (0, 0, 640, 640)}, (640, 640)))
    assert len(estimator.predict(paint({}, (640, 100)))) == 0


def test_nobody_is_nobody():
    poses = one_stage()[0].predict(paint({}))
    assert poses.keypoints.shape == (0, 17, 2)


def test_the_best_comes_first_and_thresholds_hold():
    frame = paint({0: (10, 40, 110, 300), 1: (200, 40, 300, 300), 2: (400, 40, 500, 300)})
    assert one_stage()[0].predict(frame).bbox_scores.tolist() == pytest.approx([0.9, 0.89, 0.88])
    assert len(one_stage(score_threshold=0.885)[0].predict(frame)) == 2
    assert len(one_stage(max_people=1)[0].predict(frame)) == 1


def test_of_two_boxes_on_one_person_the_weaker_is_dropped():
    def twice(pictures: np.ndarray) -> Answer:
        answer = everybody(pictures)
        for value in answer.values():
            value[:, 5] = value[:, 0]
        answer["dets"][:, 5, 4] *= 0.9
        return answer

    frame = paint({0: (100, 40, 200, 300)})
    assert len(one_stage(twice)[0].predict(frame)) == 1
    assert len(one_stage(twice, iou_threshold=1.0)[0].predict(frame)) == 2


def test_a_joint_that_was_not_found_has_no_place():
    def faceless(pictures: np.ndarray) -> Answer:
        answer = everybody(pictures)
        answer["scores"][..., :5] = 0
        return answer

    poses = one_stage(faceless)[0].predict(paint({0: (100, 40, 200, 300)}))
    assert np.isnan(poses.keypoints[0, :5]).all()
    assert np.isfinite(poses.keypoints[0, 5:]).all()


def test_infinities_of_a_broken_network_are_nobody():
    def broken(pictures: np.ndarray) -> Answer:
        answer = everybody(pictures)
        answer["dets"][:, 0, :4] = np.inf
        answer["dets"][:, 2, 4] = np.inf
        answer["keypoints"][:, 0] = np.nan
        answer["keypoints"][:, 1, 0] = 1e30
        answer["keypoints"][:, 1, 1, 0] = np.nan
        return answer

    frame = paint({0: (100, 40, 200, 300), 1: (300, 40, 400, 300), 2: (500, 40, 600, 300)})
    tracker = PoseTracker(one_stage=one_stage(broken)[0])
    for _ in range(3):
        (poses,) = tracker(frame)
        assert np.isnan(poses.keypoints[0, :2]).all()
        assert not poses.keypoint_scores[0, :2].any()
        assert np.isfinite(poses.keypoints[0, 2:]).all()


@pytest.mark.parametrize("batch", [None, 1, 2])
def test_frames_of_several_sizes_in_one_batch_are_as_alone(batch):
    frames = [paint({i: (40, 40, 140, 300)}, size) for i, size in enumerate([(640, 360), (400, 400), (200, 360)])]
    estimator, network = one_stage(batch=batch)
    together = estimator.predict_batch(frames)
    assert network.batches == {None: [3], 1: [1, 1, 1], 2: [2, 2]}[batch]
    for poses, frame in zip(together, frames, strict=True):
        np.testing.assert_array_equal(poses.keypoints, estimator.predict(frame).keypoints)
    assert estimator.predict_batch([]) == []


@pytest.mark.parametrize(
    "lie",
    [
        lambda a: a | {"dets": a["dets"][:, :, :4]},
        lambda a: a | {"keypoints": a["keypoints"][:, :, :5]},
        lambda a: a | {"scores": a["scores"][:, :3]},
        lambda a: a | {"dets": a["dets"][0]},
    ],
    ids=["four columns", "five joints", "three rows", "no batch"],
)
def test_answers_of_another_shape_are_a_mismatch(lie):
    estimator, network = one_stage()
    network.lie = lie
    with pytest.raises(OutputMismatchError, match="expected"):
        estimator.predict(paint({}))


def test_bad_frames_and_options_are_named():
    estimator, _ = one_stage()
    with pytest.raises(ShapeError):
        estimator.predict(np.zeros((4, 4), np.uint8))
    for options in ({"score_threshold": 2}, {"iou_threshold": -1}, {"max_people": 0}, {"max_people": 20.0}):
        with pytest.raises(InputError, match=next(iter(options))):
            one_stage(**options)
    with estimator:
        pass
    for frames in ([paint({})], []):
        with pytest.raises(ClosedError):
            estimator.predict_batch(frames)


# --- pipelines and trackers


def test_people_are_followed_with_the_one_network_on_every_frame():
    estimator, network = one_stage()
    paint_of_id: dict[int, int] = {}
    with PoseTracker(one_stage=estimator) as tracker:
        for i in range(30):
            people = {p: (30 + 150 * p + 3 * i, 40, 110 + 150 * p + 3 * i, 260) for p in range(3)}
            poses = tracker(paint(people))
            assert len(poses) == 3
            for pose, number in zip(poses, poses.track_ids.tolist(), strict=True):
                errors = {p: np.abs(pose.keypoints_raw[0] - joints_of(box)).max() for p, box in people.items()}
                nearest = min(errors, key=errors.__getitem__)
                assert errors[nearest] < 3
                assert paint_of_id.setdefault(number, nearest) == nearest
        assert tracker.describe().keys() == {"one_stage"}
    assert sorted(paint_of_id) == [1, 2, 3]
    assert network.batches == [1] * 30


def test_whoever_is_followed_stays_among_the_people_allowed():
    tracker = PoseTracker(one_stage=one_stage()[0], config=TrackerConfig(max_people=1))
    for i in range(10):
        tracker(paint({5: (40 + 4 * i, 40, 140 + 4 * i, 300)}))
    # A newcomer of whom the network is surer does not take the place.
    poses = tracker(paint({5: (80, 40, 180, 300), 0: (400, 40, 500, 300)}))
    assert poses.track_ids.tolist() == [1]
    assert np.abs(poses.keypoints_raw[0] - joints_of((80, 40, 180, 300))).max() < 3


def test_several_streams_share_one_call():
    estimator, network = one_stage()
    pipeline = PosePipeline(one_stage=estimator)
    for _ in range(3):
        frames = {"a": paint({0: (40, 40, 140, 300)}), "b": paint({1: (300, 40, 400, 300)}, (500, 400))}
        assert {key: len(poses) for key, poses in pipeline.track_many(frames).items()} == {"a": 1, "b": 1}
    assert network.batches == [2, 2, 2]
    assert [len(poses) for poses in pipeline.predict_batch(list(frames.values()))] == [1, 1]


def test_a_failure_leaves_the_tracker_as_it_was():
    estimator, network = one_stage()
    tracker = PoseTracker(one_stage=estimator)
    tracker(paint({0: (40, 40, 140, 300)}))
    network.lie = lambda answer: answer | {"dets": answer["dets"][0]}
    with pytest.raises(OutputMismatchError):
        tracker(paint({0: (44, 40, 144, 300)}))
    network.lie = None
    assert tracker(paint({0: (44, 40, 144, 300)})).track_ids.tolist() == [1]


def test_what_does_not_go_with_a_one_stage_network_is_refused():
    estimator, _ = one_stage()
    with pytest.raises(InputError, match="takes the place of detector and pose"):
        PosePipeline(one_stage=estimator, detector=painted_detector()[0])
    with pytest.raises(InputError, match="one_stage_options go with"):
        PosePipeline(one_stage=estimator, one_stage_options={"max_people": 1})
    for name in ("detector_options", "pose_options"):  # they would be of the default networks, which are not loaded
        with pytest.raises(InputError, match="takes the place of detector and pose"):
            PosePipeline(one_stage=estimator, **{name: {"backend": "openvino"}})
    pipeline = PosePipeline(one_stage=estimator)
    with pytest.raises(InputError, match="takes no boxes"):
        PoseTracker(pipeline)(paint({}), bboxes_xyxy=[[1, 2, 30, 40]])
    with pytest.raises(InputError, match="takes no boxes"):
        _ = pipeline.estimator


# --- whole videos


def crossing(count: int) -> list[tuple[np.ndarray, float]]:
    return [
        (paint({0: (40 + 5 * i, 20, 120 + 5 * i, 180), 1: (500 - 5 * i, 190, 580 - 5 * i, 350)}), i / 30)
        for i in range(count)
    ]


def test_offline_everybody_has_one_id_from_the_first_frame_on_at_one_look_a_frame():
    estimator, network = one_stage()
    with OfflineTracker(PosePipeline(one_stage=estimator)) as tracker:
        results = list(tracker.track(crossing(60)))
    assert [poses.frame_index for poses in results] == list(range(60))
    assert [poses.track_ids.tolist() for poses in results] == [[1, 2]] * 60
    assert network.batches == [1] * 60
    for i, poses in enumerate(results):
        expected = joints_of((40 + 5 * i, 20, 120 + 5 * i, 180))
        assert np.abs(poses.keypoints - expected).max(axis=(1, 2)).min() < 3


def test_offline_a_newcomer_who_needs_confirming_is_shown_from_the_first_sight_on():
    def unsure(answer: Answer) -> Answer:
        answer["dets"][..., 4] *= 0.4 / 0.9  # too little to be shown at once
        return answer

    estimator, network = one_stage()
    network.lie = unsure
    frames = crossing(20)
    online = PoseTracker(one_stage=estimator)
    assert len(online(frames[0][0], timestamp_s=0.0)) == 0
    with OfflineTracker(PosePipeline(one_stage=estimator)) as tracker:
        assert [len(poses) for poses in tracker.track(frames)] == [2] * 20


def test_offline_a_run_that_was_broken_off_goes_on_with_the_same_result(tmp_path):
    estimator, network = one_stage()
    frames = crossing(40)

    def run(work_dir):
        with OfflineTracker(PosePipeline(one_stage=estimator)) as tracker:
            return list(tracker.track(frames, work_dir=work_dir))

    expected = run(None)
    calls = iter(range(25))
    network.lie = lambda answer: answer if next(calls, None) is not None else {}
    with pytest.raises(OutputMismatchError):
        run(tmp_path)
    network.lie, network.batches[:] = None, []
    again = run(tmp_path)
    assert 0 < sum(network.batches) <= 20
    for poses, others in zip(again, expected, strict=True):
        np.testing.assert_array_equal(poses.track_ids, others.track_ids)
        np.testing.assert_array_equal(poses.keypoints, others.keypoints)
    other, _ = one_stage(published)
    other.spec = replace(other.spec, pad_value=0)
    with OfflineTracker(PosePipeline(one_stage=other)) as tracker, pytest.raises(InputError, match="other"):
        list(tracker.track(frames, work_dir=tmp_path))


# --- files


def published_onnx() -> bytes:
    return declared_onnx(
        [("input", [None, 3, 64, 96], "float32")],
        [("dets", [None, None, 5], "float32"), ("keypoints", [None, None, 17, 3], "float32")],
    )


def test_a_published_file_is_known_by_its_outputs(tmp_path, caplog):
    path = write(tmp_path / "end2end.onnx", published_onnx())
    (tmp_path / "pipeline.json").write_text("{}")  # says nothing of one-stage networks
    spec = load_model_file(tmp_path, task="one_stage").spec
    assert (spec.head, spec.input_size_wh, spec.skeleton) == ("rtmo", (96, 64), load_skeleton("coco17"))
    assert (spec.colour, spec.mean, spec.std, spec.pad_value) == ("bgr", (0, 0, 0), (1, 1, 1), 114)
    assert "padding" not in caplog.text
    assert load_model_file(path, task="one_stage", skeleton="ap10k17").spec.skeleton.name == "ap10k17"


def test_a_file_that_describes_itself_is_believed(tmp_path):
    told = ModelSpec(task="one_stage", head="rtmo", input_size_wh=(96, 64), pad_value=0, skeleton=SKELETON)
    content = declared_onnx(
        [("input", [None, 3, 64, 96], "float32")],
        [("dets", [None, None, 5], "float32"), ("keypoints", [None, None, 17, 2], "float32")],
        metadata={METADATA_KEY: told.to_json()},
    )
    assert load_model_file(write(tmp_path / "m.onnx", content), task="one_stage").spec.pad_value == 0


def test_a_network_of_another_task_says_how_it_is_passed(tmp_path):
    with pytest.raises(ModelError, match="a one_stage model is needed"):
        OneStageEstimator(write(tmp_path / "pose.onnx", light_pose()))
    with pytest.raises(ModelError, match="--one-stage"):
        PosePipeline(pose=write(tmp_path / "rtmo.onnx", published_onnx()), detector=None)
    with pytest.raises(ModelError, match="--one-stage"):
        PosePipeline(pose="rtmo-s", detector=None)
