"""The pose estimator: crops and places to the pixel, every form of network, and answers that were not found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtmpose_infer.backends import CallableBackend, TensorSpec
from rtmpose_infer.errors import (
    ClosedError,
    DTypeError,
    InferenceError,
    InputError,
    ModelError,
    OutputMismatchError,
    ShapeError,
)
from rtmpose_infer.estimator import PoseEstimator, View
from rtmpose_infer.model_spec import METADATA_KEY, ModelSpec
from rtmpose_infer.skeletons import load_skeleton, unnamed_skeleton
from rtmpose_infer.stages import StageClock
from tests.painted import POSE_WH, joints_of, paint, painted_estimator
from tests.tiny_onnx import light_at, light_detector, light_pose, write

FLOAT32 = np.dtype(np.float32)
FRAME = np.zeros((120, 160, 3), np.uint8)
BOX = [[20, 30, 80, 110]]
Outputs = Mapping[str, np.ndarray]


def estimator(
    outputs: Callable[[np.ndarray], Outputs],
    *,
    names: tuple[str, ...] = ("simcc_x", "simcc_y"),
    k: int = 17,
    size_wh: tuple[int, int] = (48, 64),
    sizes: tuple[int, ...] | None = None,
    **fields: object,
) -> PoseEstimator:
    """Return an estimator whose network is a function of its input tensor."""
    spec = ModelSpec(
        **({"task": "pose", "head": "simcc", "input_size_wh": size_wh, "skeleton": unnamed_skeleton(k)} | fields)
    )
    width, height = size_wh
    nhwc = spec.input_format == "nhwc_uint8"
    shape = (None, height, width, 3) if nhwc else (None, 3, height, width)
    backend = CallableBackend(
        lambda feeds: outputs(feeds["input"]),
        [TensorSpec("input", shape, np.dtype(np.uint8) if nhwc else FLOAT32)],
        [TensorSpec(name, (None,) * (2 if name == "scores" else 3), FLOAT32) for name in names],
        batch_sizes=sizes,
    )
    return PoseEstimator.from_backend(backend, spec)


def vectors(count: int, k: int = 17, *, at: tuple[int, int] = (30, 50), score: float = 0.8) -> dict[str, np.ndarray]:
    """Return SimCC vectors of 96 and 128 bins with one peak each."""
    simcc_x, simcc_y = np.zeros((count, k, 96), np.float32), np.zeros((count, k, 128), np.float32)
    simcc_x[..., at[0]] = simcc_y[..., at[1]] = score
    return {"simcc_x": simcc_x, "simcc_y": simcc_y}


# --- places


@given(st.tuples(st.floats(10, 150), st.floats(10, 110)), st.floats(20, 100), st.floats(20, 100), st.floats(0.8, 1.6))
def test_a_bin_of_the_input_is_the_place_of_the_frame_that_the_contract_says(centre, width, height, padding):
    box = np.float32([[centre[0] - width / 2, centre[1] - height / 2, centre[0] + width / 2, centre[1] + height / 2]])
    estimate = estimator(lambda x: vectors(len(x)), padding=padding)
    pose = estimate.predict(FRAME, box)
    scale = 48 / max(width * padding, height * padding * 48 / 64)
    expected = (np.array([30, 50]) / 2 - np.array([24, 32])) / scale + np.array(centre)
    np.testing.assert_allclose(pose.keypoints[0, 0], expected, atol=1e-2)


@pytest.mark.parametrize("decoded", [False, True], ids=["SimCC vectors", "decoded in the graph"])
@pytest.mark.parametrize("batch", [None, 1, 2], ids=["dynamic", "batch 1", "batch 2"])
@pytest.mark.parametrize(
    ("k", "size_wh", "split_ratio"), [(17, (48, 64), 2), (5, (64, 64), 3), (133, (48, 64), 1), (21, (96, 48), 2)]
)
def test_networks_of_every_form_find_the_light(tmp_path, decoded, batch, k, size_wh, split_ratio):
    options = {"num_keypoints": k, "size_wh": size_wh, "batch": batch, "split_ratio": split_ratio}
    metadata = None
    if decoded:
        spec = ModelSpec(
            task="pose",
            head="keypoints",
            input_size_wh=size_wh,
            input_format="nhwc_uint8",
            skeleton=unnamed_skeleton(k),
        )
        metadata = {METADATA_KEY: spec.to_json()}
    content = light_pose(decoded=decoded, metadata=metadata, **options)
    boxes = [[60, 40, 120, 110], [40, 30, 140, 100], [70, 50, 110, 90]]
    with PoseEstimator(write(tmp_path / "pose.onnx", content), backend="onnxruntime") as estimate:
        poses = estimate.predict(light_at(92, 71, (160, 120)), boxes)
    assert poses.keypoints.shape == (3, k, 2)
    assert poses.skeleton.num_keypoints == k
    sides = np.array([[b[2] - b[0], b[3] - b[1]] for b in boxes])
    pixel = (1.25 * sides / np.array(size_wh)).max()  # of the input, in frame pixels
    assert np.abs(poses.keypoints - [92, 71]).max() <= max(1.0, pixel) + 0.5
    assert (poses.keypoint_scores > 0).all()


def test_both_heads_of_the_same_network_agree_exactly(tmp_path):
    spec = ModelSpec(
        task="pose",
        head="keypoints",
        input_size_wh=(48, 64),
        input_format="nhwc_uint8",
        skeleton=load_skeleton("coco17"),
    )
    foreign = write(tmp_path / "a.onnx", light_pose())
    own = write(tmp_path / "b.onnx", light_pose(decoded=True, metadata={METADATA_KEY: spec.to_json()}))
    frame = light_at(92, 71, (160, 120))
    poses = [PoseEstimator(path, backend="onnxruntime").predict(frame, BOX * 2).keypoints for path in (foreign, own)]
    np.testing.assert_array_equal(*poses)


@pytest.mark.parametrize("size_wh", [(640, 360), (101, 57), (1920, 1080)])
def test_joints_come_back_in_the_frames_pixels(size_wh):
    people = {
        number: (np.array(box) * (size_wh * 2)).round()
        for number, box in {0: [0.1, 0.1, 0.3, 0.9], 3: [0.5, 0.2, 0.9, 0.8]}.items()
    }
    estimate, _ = painted_estimator()
    boxes = np.array(list(people.values()), np.float32)
    poses = estimate.predict(paint(people, size_wh), boxes)
    for pose, box in zip(poses, boxes, strict=True):
        pixel = 1.25 * max((box[2] - box[0]) / POSE_WH[0], (box[3] - box[1]) / POSE_WH[1])
        assert np.abs(pose.keypoints[0] - joints_of(box)).max() <= max(1.0, 1.5 * pixel)


# --- what the network sees


def test_the_network_sees_the_warped_crop_normalised_in_its_colour_order():
    seen = []
    fields = {"colour": "rgb", "mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
    frame = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    estimator(lambda x: (seen.append(x.copy()), vectors(len(x)))[1], **fields).predict(frame, BOX)
    # box 60 × 80, padded to 75 × 100, which has the input's aspect: k = 48 / 75 = 0.64
    matrix = np.array([[0.64, 0, 24 - 0.64 * 50], [0, 0.64, 32 - 0.64 * 70]])
    crop = cv2.warpAffine(frame, matrix, (48, 64), flags=cv2.INTER_LINEAR)
    expected = (crop[..., ::-1] - np.array(fields["mean"])) / np.array(fields["std"])
    # the matrix is kept in float32, so that a pixel's rounding may fall on the other side: one grey level
    np.testing.assert_allclose(seen[0][0], expected.transpose(2, 0, 1), atol=1.01 / 57)
    assert (np.abs(seen[0][0] - expected.transpose(2, 0, 1)) < 1e-5).mean() > 0.99


def test_a_network_of_pictures_sees_the_bgr_crop():
    seen = []

    def answer(pictures: np.ndarray) -> Outputs:
        seen.append(pictures.copy())
        return vectors(len(pictures))

    frame = np.full((120, 160, 3), (1, 2, 3), np.uint8)
    estimator(answer, input_format="nhwc_uint8").predict(frame, [[60, 50, 80, 70]])
    assert (seen[0][0] == [1, 2, 3]).all()


# --- people


def test_all_people_go_in_one_call():
    estimate, network = painted_estimator()
    estimate.predict(paint({}), [[i, i, i + 50, i + 90] for i in range(12)])
    assert network.batches == [12]


def test_a_network_of_fixed_batch_one_is_called_for_each_person():
    people = {0: (20, 20, 90, 200), 1: (150, 40, 250, 300)}
    single, network = painted_estimator(batch=1)
    boxes = list(people.values())
    one_by_one = single.predict(paint(people), boxes)
    together = painted_estimator()[0].predict(paint(people), boxes)
    assert network.batches == [1, 1]
    np.testing.assert_array_equal(one_by_one.keypoints, together.keypoints)


def test_prepared_sizes_are_filled_up_and_the_filling_is_dropped():
    ran = []

    def answer(x: np.ndarray) -> Outputs:
        ran.append(len(x))
        return vectors(len(x))

    poses = estimator(answer, sizes=(4, 8)).predict(FRAME, BOX * 11)
    assert ran == [8, 4]
    assert len(poses) == 11


@given(st.permutations(range(4)))
def test_permuting_the_boxes_permutes_the_poses(order):
    people = {i: (20 + 150 * i, 20 + 10 * i, 100 + 150 * i, 200 + 30 * i) for i in range(4)}
    frame, boxes = paint(people), np.array(list(people.values()), np.float32)
    estimate, _ = painted_estimator()
    plain, permuted = estimate.predict(frame, boxes), estimate.predict(frame, boxes[list(order)])
    np.testing.assert_array_equal(permuted.keypoints, plain.keypoints[list(order)])


def test_people_of_several_frames_go_in_one_call_and_come_back_apart():
    frames = [paint({0: (20, 20, 90, 200)}), paint({}), paint({1: (10, 10, 60, 90), 2: (90, 10, 150, 90)}, (160, 100))]
    boxes = [[(20, 20, 90, 200)], [], [(10, 10, 60, 90), (90, 10, 150, 90)]]
    estimate, network = painted_estimator()
    together = estimate.predict_batch([(f, b, None) for f, b in zip(frames, boxes, strict=True)])
    assert network.batches == [3]
    assert [len(poses) for poses in together] == [1, 0, 2]
    assert [poses.frame_size_wh for poses in together] == [(640, 360), (640, 360), (160, 100)]
    for frame, own, poses in zip(frames, boxes, together, strict=True):
        np.testing.assert_array_equal(estimate.predict(frame, own).keypoints, poses.keypoints)


@pytest.mark.parametrize("nobody", [[], np.zeros((0, 4), np.float32), np.zeros(0)])
def test_nobody_needs_no_call(nobody):
    estimate, network = painted_estimator()
    poses = estimate.predict(paint({}), nobody)
    assert poses.keypoints.shape == (0, 17, 2)
    assert poses.frame_size_wh == (640, 360)
    assert estimate.predict_batch([]) == []
    assert network.batches == []


def test_box_scores_are_reported_and_one_where_none_are_given():
    estimate, _ = painted_estimator()
    boxes = [[0, 0, 50, 90], [60, 0, 110, 90]]
    assert estimate.predict(paint({}), boxes).bbox_scores.tolist() == [1, 1]
    scores = estimate.predict(paint({}), boxes, bbox_scores=[0.25, 0.5]).bbox_scores
    assert scores.tolist() == [0.25, 0.5]


def test_the_boxes_are_returned_as_they_were_given():
    poses = painted_estimator()[0].predict(paint({}), [[-10.5, 3, 50, 900]])
    assert poses.bboxes.tolist() == [[-10.5, 3, 50, 900]]
    assert poses.track_ids is None
    assert poses.keypoints_raw is poses.keypoints


# --- what was not found


@pytest.mark.parametrize("head", ["simcc", "keypoints"])
@pytest.mark.parametrize("score", [0.0, -0.2, np.nan])
def test_a_joint_without_a_positive_score_has_no_place_and_is_not_valid(head, score):
    def answer(x: np.ndarray) -> Outputs:
        simcc = vectors(len(x))
        simcc["simcc_x"][:, 3] = score
        keypoints, scores = np.full((len(x), 17, 2), 9, np.float32), np.full((len(x), 17), 0.8, np.float32)
        scores[:, 3] = score
        return simcc if head == "simcc" else {"keypoints": keypoints, "scores": scores}

    names = ("simcc_x", "simcc_y") if head == "simcc" else ("keypoints", "scores")
    pose = estimator(answer, head=head, names=names).predict(FRAME, BOX)
    assert np.isnan(pose.keypoints[0, 3]).all()
    assert np.isfinite(np.delete(pose.keypoints[0], 3, axis=0)).all()
    assert np.flatnonzero(~pose.keypoints_valid[0]).tolist() == [3]


@pytest.mark.parametrize("place", [np.nan, np.inf, -np.inf, 1e30, -3e38])
def test_a_joint_at_a_place_that_is_none_was_not_found(place):
    def answer(x: np.ndarray) -> Outputs:
        keypoints = np.full((len(x), 17, 2), 9, np.float32)
        keypoints[:, 3, 1] = place
        return {"keypoints": keypoints, "scores": np.full((len(x), 17), 0.8, np.float32)}

    pose = estimator(answer, head="keypoints", names=("keypoints", "scores")).predict(FRAME, [[0, 0, 9000, 9000]])
    assert np.isnan(pose.keypoints[0, 3]).all()
    assert np.flatnonzero(~pose.keypoints_valid[0]).tolist() == [3]


@pytest.mark.parametrize(
    "box", [[200, 0, 300, 100], [0, 130, 50, 190], [-90, 0, -1, 50], [0, -90, 50, 0], [160, 0, 170, 9]]
)
def test_a_box_wholly_outside_gives_a_pose_without_joints(box):
    poses = estimator(lambda x: vectors(len(x))).predict(FRAME, [*BOX, box])
    assert poses.keypoints_valid.all(axis=1).tolist() == [True, False]
    assert not poses.keypoints_valid[1].any()
    assert np.isnan(poses.keypoints[1]).all()
    assert poses.scores[1] == 0


def test_results_do_not_change_when_the_next_frame_is_estimated():
    people = {0: (20, 20, 90, 200)}
    estimate, _ = painted_estimator()
    first = estimate.predict(paint(people), [people[0]])
    kept = first.keypoints.copy(), first.keypoint_scores.copy()
    estimate.predict(paint({1: (300, 20, 500, 300)}), [[300, 20, 500, 300]])
    np.testing.assert_array_equal(first.keypoints, kept[0])
    np.testing.assert_array_equal(first.keypoint_scores, kept[1])


# --- what goes wrong


@pytest.mark.parametrize(
    ("boxes", "scores", "error"),
    [
        ([[0, 0, 10, 10], [5, 5, 1, 9]], None, InputError),
        ([[np.nan, 0, 10, 10]], None, InputError),
        ([[0, 0, 10]], None, ShapeError),
        ([0, 0, 10, 10], None, ShapeError),
        ([["a"] * 4], None, DTypeError),
        (BOX, [0.5, 0.5], ShapeError),
        (BOX, [[0.5]], ShapeError),
        (BOX, [np.nan], InputError),
        (BOX, ["high"], DTypeError),
        (BOX, [[1], [1, 2]], DTypeError),
    ],
)
def test_boxes_and_scores_that_cannot_be_used_are_refused_before_the_network_runs(boxes, scores, error):
    estimate, network = painted_estimator()
    with pytest.raises(error):
        estimate.predict(FRAME, boxes, bbox_scores=scores)
    assert network.batches == []


@pytest.mark.parametrize(
    ("head", "outputs"),
    [
        ("simcc", {"simcc_x": np.zeros((1, 16, 96), np.float32), "simcc_y": np.zeros((1, 17, 128), np.float32)}),
        ("simcc", {"simcc_x": np.zeros((1, 17, 96), np.float32), "simcc_y": np.zeros((1, 16, 128), np.float32)}),
        ("simcc", {"simcc_x": np.zeros((2, 17, 96), np.float32), "simcc_y": np.zeros((2, 17, 128), np.float32)}),
        ("simcc", {"simcc_x": np.zeros((1, 17, 0), np.float32), "simcc_y": np.zeros((1, 17, 128), np.float32)}),
        ("simcc", {"simcc_x": np.zeros((0, 17, 96), np.float32), "simcc_y": np.zeros((0, 17, 128), np.float32)}),
        ("keypoints", {"keypoints": np.zeros((1, 17, 3), np.float32), "scores": np.zeros((1, 17), np.float32)}),
        ("keypoints", {"keypoints": np.zeros((1, 26, 2), np.float32), "scores": np.zeros((1, 26), np.float32)}),
        ("keypoints", {"keypoints": np.zeros((1, 17, 2), np.float32), "scores": np.zeros((1, 16), np.float32)}),
    ],
)
def test_outputs_of_another_shape_are_an_output_mismatch(head, outputs):
    with pytest.raises(OutputMismatchError):
        estimator(lambda x: outputs, head=head, names=tuple(outputs)).predict(FRAME, BOX)


@pytest.mark.parametrize(
    ("head", "names"), [("simcc", ("a",)), ("simcc", ()), ("keypoints", ("keypoints",)), ("keypoints", ("a", "b"))]
)
def test_missing_outputs_are_refused_on_loading(head, names):
    with pytest.raises(OutputMismatchError, match="promises"):
        estimator(lambda x: {}, head=head, names=names)


def test_simcc_vectors_of_any_name_are_taken_in_their_order():
    def answer(x: np.ndarray) -> Outputs:
        simcc = vectors(len(x))
        return {"1234": simcc["simcc_x"], "1235": simcc["simcc_y"]}

    named = estimator(lambda x: vectors(len(x))).predict(FRAME, BOX)
    np.testing.assert_array_equal(
        estimator(answer, names=("1234", "1235")).predict(FRAME, BOX).keypoints, named.keypoints
    )


def test_a_detector_is_refused(tmp_path):
    with pytest.raises(ModelError, match="swapped"):
        PoseEstimator(write(tmp_path / "detector.onnx", light_detector()))


def test_the_skeleton_and_padding_of_ones_own_model_can_be_passed(tmp_path):
    path = write(tmp_path / "m.onnx", light_pose())
    estimate = PoseEstimator(path, backend="onnxruntime", skeleton="ap10k17", padding=1.0)
    assert (estimate.skeleton, estimate.spec.padding) == (load_skeleton("ap10k17"), 1.0)
    poses = estimate.predict(FRAME, BOX)
    assert poses.skeleton.name == "ap10k17"


# --- the flip test

MARKED = np.zeros((64, 48, 3), np.uint8)
MARKED[:, 10] = MARKED[:, 36] = 255
WHOLE = [[0, 0, 48, 64]]
LEFT, RIGHT = 5, 6  # shoulders
VIEWS: tuple[View, ...] = ("all", "plain", "mirrored")


def shifted_shoulders(x: np.ndarray) -> Outputs:
    """See the right shoulder in the first bright column and the left one in the last, both 1.5 pixels too far right."""
    bins = np.arange(96)
    answer = {"simcc_x": np.full((len(x), 17, 96), 0.01, np.float32), "simcc_y": np.ones((len(x), 17, 128), np.float32)}
    for row, picture in enumerate(x):
        columns = np.flatnonzero(picture[0, 32] > 0.5)
        for joint, column in zip((RIGHT, LEFT), columns[[0, -1]] if len(columns) else (), strict=False):
            answer["simcc_x"][row, joint] = np.exp(-((bins - 2 * (column + 1.5)) ** 2) / 72)
    return answer


def flipping(**options: object) -> PoseEstimator:
    return estimator(shifted_shoulders, skeleton=load_skeleton("coco17"), padding=1.0, **options)


def test_a_flip_test_evens_out_what_a_network_does_to_one_side_and_keeps_left_and_right_apart():
    places = {flip: flipping(flip_test=flip).predict(MARKED, WHOLE).keypoints[0, :, 0] for flip in (False, True)}
    np.testing.assert_allclose(places[False][[RIGHT, LEFT]], [11.5, 37.5], atol=0.01)
    np.testing.assert_allclose(places[True][[RIGHT, LEFT]], [10, 36], atol=0.01)


def test_a_flip_test_gives_everybody_their_own_mirrored_crop_however_the_batches_fall():
    boxes = [[0, 0, 48, 64], [2, 0, 50, 64], [-3, 0, 45, 64]]
    pictures = [(MARKED, boxes, None), (MARKED[:, ::-1].copy(), boxes[:1], None)]
    for sizes in (None, (1,), (1, 3), (4,)):
        first, second = flipping(flip_test=True, sizes=sizes).predict_batch(pictures)
        np.testing.assert_allclose(first.keypoints[:, [RIGHT, LEFT], 0], [[10, 36]] * 3, atol=0.01)
        np.testing.assert_allclose(second.keypoints[:, [RIGHT, LEFT], 0], [[11, 37]], atol=0.01)


def test_either_half_of_a_flip_test_can_be_had_alone():
    flip = flipping(flip_test=True)
    places = {view: flip.predict(MARKED, WHOLE, view=view).keypoints[0, [RIGHT, LEFT], 0] for view in VIEWS}
    np.testing.assert_allclose(places["plain"], [11.5, 37.5], atol=0.01)
    np.testing.assert_allclose(places["mirrored"], [8.5, 34.5], atol=0.01)
    np.testing.assert_allclose(places["all"], [10, 36], atol=0.01)
    with pytest.raises(InputError, match="flip_test=True"):
        flipping().predict(MARKED, WHOLE, view="mirrored")


def test_a_flip_test_is_refused_where_it_cannot_be_made():
    with pytest.raises(ModelError, match="--vectors"):
        flipping(flip_test=True, head="keypoints", names=("keypoints", "scores"))
    with pytest.raises(ModelError, match="left from right"):
        estimator(shifted_shoulders, flip_test=True)


def test_a_failure_of_the_network_passes_and_the_next_frame_works():
    estimate, network = painted_estimator()
    people = {0: (20, 20, 90, 200)}
    network.failure = RuntimeError("lost")
    with pytest.raises(InferenceError, match="lost"):
        estimate.predict(paint(people), [people[0]])
    assert estimate.predict(paint(people), [people[0]]).keypoints_valid.all()


def test_a_closed_estimator_says_so():
    estimate, _ = painted_estimator()
    with estimate:
        assert estimate.describe().runtime == "callable"
    estimate.close()
    for boxes in (BOX, []):
        with pytest.raises(ClosedError):
            estimate.predict(FRAME, boxes)
    with pytest.raises(ClosedError):
        estimate.predict_batch([])


def test_the_clock_is_lapped_after_each_stage():
    clock = StageClock()
    painted_estimator()[0].predict(FRAME, BOX, clock=clock)
    assert list(clock.seconds) == ["crop", "pose", "decode_pose"]


def test_several_threads_may_use_one_estimator():
    estimate, _ = painted_estimator()
    people = [{i % 8: (10 + 7 * i, 20, 90 + 7 * i, 200)} for i in range(40)]
    pictures = [(paint(p), list(p.values())) for p in people]
    alone = [estimate.predict(*picture).keypoints for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(alone, pool.map(lambda p: estimate.predict(*p), pictures), strict=True):
            np.testing.assert_array_equal(one, other.keypoints)
