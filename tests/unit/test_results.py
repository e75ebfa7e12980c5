"""Results: parallel arrays that stay together, cannot be changed, and refuse what does not fit."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtmpose_infer.errors import DTypeError, ShapeError
from rtmpose_infer.results import Detections, Poses
from rtmpose_infer.skeletons import load_skeleton

SKELETON = load_skeleton("coco17")


def detections(count: int = 4) -> Detections:
    rng = np.random.default_rng(count)
    return Detections(rng.random((count, 4)), rng.random(count), np.arange(count))


def poses(count: int = 4, **changes: object) -> Poses:
    rng = np.random.default_rng(count)
    values: dict[str, object] = {
        "keypoints": rng.random((count, 17, 2)) * 100,
        "keypoint_scores": rng.random((count, 17)),
        "bboxes": rng.random((count, 4)),
        "bbox_scores": rng.random(count),
        "skeleton": SKELETON,
        "track_ids": np.arange(count) + 1,
        "keypoints_raw": rng.random((count, 17, 2)) * 100,
        "keypoint_probabilities": rng.random((count, 17)),
        "frame_index": 7,
        "timestamp_s": 0.25,
        "frame_size_wh": (640, 480),
    }
    return Poses(**(values | changes))


def arrays_of(result: Detections | Poses) -> dict[str, np.ndarray]:
    values = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


@pytest.mark.parametrize("result", [detections(), poses()], ids=["detections", "poses"])
def test_every_array_has_the_documented_type_and_is_read_only(result):
    for name, array in arrays_of(result).items():
        assert array.dtype == (np.int64 if name in {"labels", "track_ids"} else np.float32), name
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda result: pickle.loads(pickle.dumps(result))])
@pytest.mark.parametrize("result", [detections(), poses()], ids=["detections", "poses"])
def test_copies_and_what_comes_from_another_process_are_read_only_too(result, copied):
    again = copied(result)
    for name, array in arrays_of(again).items():
        np.testing.assert_array_equal(array, getattr(result, name))
        assert not array.flags.writeable, name


def test_results_introduce_themselves_in_a_line_without_their_arrays():
    assert repr(detections(300)) == "<Detections of 300>"
    assert repr(poses(2)) == "<Poses of 2, coco17, ids 1 2, frame 7, 0.250 s>"
    assert repr(poses(2, track_ids=None, frame_index=None, timestamp_s=None)) == "<Poses of 2, coco17>"
    assert repr(Poses.empty(SKELETON, tracked=True)) == "<Poses of 0, coco17>"


@pytest.mark.parametrize("result", [detections(), poses()], ids=["detections", "poses"])
def test_fields_cannot_be_replaced(result):
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.bboxes = np.zeros((4, 4))


def test_a_result_keeps_its_values_when_the_callers_array_changes():
    mine = np.ones((1, 4), np.float32)
    view = mine[:]
    view.flags.writeable = False
    for given_array in (mine, view):
        result = Detections(given_array, np.ones(1), np.zeros(1, int))
        mine[:] = 5
        assert result.bboxes.tolist() == [[1, 1, 1, 1]]
        mine[:] = 1


@pytest.mark.parametrize(
    "index",
    [
        2,
        np.int64(-1),
        slice(1, 3),
        slice(None, None, -1),
        [3, 0],
        np.array([1, 1]),
        np.array([True, False, True, False]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("result", [detections(), poses()], ids=["detections", "poses"])
def test_indexing_keeps_the_arrays_together(result, index):
    chosen = result[index]
    rows = [index] if isinstance(index, (int, np.integer)) else index
    for name, array in arrays_of(result).items():
        np.testing.assert_array_equal(getattr(chosen, name), array[rows])
    assert type(chosen) is type(result)


def test_indexing_poses_keeps_what_belongs_to_the_frame():
    one = poses()[1]
    assert (one.frame_index, one.timestamp_s, one.frame_size_wh, one.skeleton) == (7, 0.25, (640, 480), SKELETON)


@pytest.mark.parametrize("result", [detections(), poses()], ids=["detections", "poses"])
def test_iterating_gives_each_person_as_a_result_of_one(result):
    parts = list(result)
    assert [len(p) for p in parts] == [1, 1, 1, 1]
    np.testing.assert_array_equal(np.concatenate([p.bboxes for p in parts]), result.bboxes)


@pytest.mark.parametrize("result", [detections(), poses()], ids=["detections", "poses"])
def test_an_index_outside_is_an_index_error(result):
    with pytest.raises(IndexError):
        result[4]


@given(st.permutations(range(4)))
def test_permuting_people_permutes_every_array(order):
    everyone = poses()
    there_and_back = everyone[list(order)][[int(i) for i in np.argsort(order)]]
    for name, array in arrays_of(everyone).items():
        np.testing.assert_array_equal(getattr(there_and_back, name), array)


@pytest.mark.parametrize(
    "empty", [Detections.empty(), detections()[[]], detections(0)], ids=["made", "chosen", "given"]
)
def test_no_detections_have_the_right_shapes(empty):
    assert len(empty) == 0
    assert (empty.bboxes.shape, empty.scores.shape, empty.labels.shape) == ((0, 4), (0,), (0,))


def test_a_frame_without_people_has_the_right_shapes():
    empty = Poses.empty(SKELETON, tracked=True, frame_index=3, timestamp_s=0.1, frame_size_wh=(8, 6))
    assert len(empty) == 0
    assert empty.keypoints.shape == (0, 17, 2)
    assert empty.keypoints_valid.shape == (0, 17)
    assert empty.scores.shape == (0,)
    assert empty.track_ids is not None
    assert empty.track_ids.dtype == np.int64
    assert Poses.empty(SKELETON).track_ids is None
    assert (empty.frame_index, empty.timestamp_s, empty.frame_size_wh) == (3, 0.1, (8, 6))
    assert list(empty) == []


def test_unsmoothed_poses_share_their_raw_keypoints():
    plain = poses(keypoints_raw=None)
    assert plain.keypoints_raw is plain.keypoints
    chosen = plain[:1]
    assert chosen.keypoints_raw is chosen.keypoints
    smoothed = poses()[:1]
    assert smoothed.keypoints_raw is not smoothed.keypoints


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("keypoints", np.zeros((4, 16, 2)), ShapeError),
        ("keypoints", np.zeros((4, 17, 3)), ShapeError),
        ("keypoint_scores", np.zeros((4, 16)), ShapeError),
        ("keypoint_scores", np.zeros((3, 17)), ShapeError),
        ("bboxes", np.zeros((4, 5)), ShapeError),
        ("bbox_scores", np.zeros(3), ShapeError),
        ("track_ids", np.zeros(5, int), ShapeError),
        ("keypoints_raw", np.zeros((3, 17, 2)), ShapeError),
        ("keypoint_probabilities", np.zeros((4, 1)), ShapeError),
        ("bboxes", np.full((4, 4), "x"), DTypeError),
        ("track_ids", np.full(4, None), DTypeError),
        ("track_ids", np.array([1, 1.5, 2, 3]), DTypeError),
        ("track_ids", np.array([1, np.nan, 2, 3]), DTypeError),
        ("track_ids", np.array([1, 1e300, 2, 3]), DTypeError),
        ("track_ids", np.array([1, 2**63, 2, 3], np.uint64), DTypeError),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(field, value, error):
    with pytest.raises(error, match=field):
        poses(**{field: value})


def test_whole_numbers_of_another_type_are_ids():
    assert poses(track_ids=np.array([1.0, 2, 3, 9])).track_ids.tolist() == [1, 2, 3, 9]


@pytest.mark.parametrize("count", [3, 5])
def test_detections_refuse_arrays_of_different_length(count):
    with pytest.raises(ShapeError, match="scores"):
        Detections(np.zeros((4, 4)), np.zeros(count), np.zeros(4, int))


@given(st.lists(st.floats(-1, 2, width=32), min_size=17, max_size=17), st.floats(0, 1, width=32))
def test_the_person_score_is_box_score_times_mean_of_scores_above_a_fifth(joint_scores, bbox_score):
    person = Poses(np.zeros((1, 17, 2)), np.array([joint_scores], np.float32), np.zeros((1, 4)), [bbox_score], SKELETON)
    good = [s for s in np.float32(joint_scores) if s > np.float32(0.2)]
    expected = bbox_score * sum(good) / len(good) if good else 0.0
    assert person.scores[0] == pytest.approx(expected, rel=1e-5)


def test_a_joint_is_valid_only_with_a_positive_score():
    scores = np.zeros((1, 17), np.float32)
    scores[0, :4] = [1e-6, 0, -1, np.nan]
    assert poses(1, keypoint_scores=scores).keypoints_valid[0, :4].tolist() == [True, False, False, False]
