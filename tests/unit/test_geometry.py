"""Boxes, overlaps and crop transforms against arithmetic done by hand or by plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtmpose_infer.errors import DTypeError, InputError, ShapeError
from rtmpose_infer.geometry import (
    box_areas,
    boxes_from_keypoints,
    check_boxes,
    clip_boxes,
    crop_transform,
    iou_matrix,
    nms,
    oks_matrix,
    xywh_from_xyxy,
    xyxy_from_xywh,
)
from rtmpose_infer.skeletons import load_skeleton

SIGMAS = load_skeleton("coco17").oks_sigmas


@st.composite
def boxes(draw: st.DrawFn, min_size: int = 1, max_size: int = 12) -> np.ndarray:
    """Draw boxes with whole-numbered corners, so that overlaps have no rounding of their own."""
    count = draw(st.integers(min_size, max_size))
    corners = st.tuples(st.integers(-50, 400), st.integers(-50, 400), st.integers(1, 300), st.integers(1, 300))
    rows = [draw(corners) for _ in range(count)]
    return np.array([[x, y, x + w, y + h] for x, y, w, h in rows], np.float32).reshape(-1, 4)


def scalar_iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def scalar_oks(a: np.ndarray, b: np.ndarray, area: float, sigmas: np.ndarray) -> float:
    """COCO's definition, joint by joint (cocoeval: vars = (2·sigma)², e = d² / vars / (area) / 2)."""
    terms = []
    for (ax, ay), (bx, by), sigma in zip(a.tolist(), b.tolist(), sigmas.tolist(), strict=True):
        if math.isnan(ax) or math.isnan(bx):
            continue
        terms.append(math.exp(-((ax - bx) ** 2 + (ay - by) ** 2) / (2 * area * (2 * sigma) ** 2)))
    return sum(terms) / len(terms) if terms else 0.0


# --- boxes


@pytest.mark.parametrize("given_boxes", [[], np.zeros((0, 4)), np.zeros(0), ()], ids=["list", "rows", "flat", "tuple"])
def test_no_boxes_are_fine(given_boxes):
    assert check_boxes(given_boxes).shape == (0, 4)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.uint8])
def test_boxes_of_any_number_type_become_float32(dtype):
    checked = check_boxes(np.array([[1, 2, 30, 40]], dtype))
    assert checked.dtype == np.float32
    assert checked.tolist() == [[1, 2, 30, 40]]


def test_boxes_far_outside_every_frame_are_fine_up_to_ten_million_pixels():
    far = [[-1e7, -1e7, 1e7, 1e7]]
    assert check_boxes(far).tolist() == far


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ([[np.nan, 0, 1, 1]], InputError),
        ([[0, 0, np.inf, 1]], InputError),
        ([[0, 0, 1e300, 1]], InputError),
        ([[0, 0, 10_000_001, 1]], InputError),
        ([[-10_000_001, 0, 0, 1]], InputError),
        ([[10, 0, 5, 5]], InputError),
        ([[0, 10, 5, 5]], InputError),
        ([[3, 3, 3, 9]], InputError),
        ([[3, 3, 9, 3]], InputError),
        ([1, 2, 3, 4], ShapeError),
        ([[1, 2, 3]], ShapeError),
        (np.zeros((0, 5)), ShapeError),
        (np.ones((1, 1, 4)), ShapeError),
        ([[1, 2, 3, 4], [1, 2]], InputError),
        ([["a", "b", "c", "d"]], DTypeError),
        ([[None, 0, 1, 1]], DTypeError),
        (np.ones((1, 4), bool), DTypeError),
        (np.ones((1, 4), complex), DTypeError),
        (None, DTypeError),
    ],
)
def test_boxes_that_cannot_be_meant_are_refused(bad, error):
    with pytest.raises(error, match="my_boxes"):
        check_boxes(bad, "my_boxes")


def test_the_message_names_the_row_and_the_likely_mistake():
    with pytest.raises(InputError, match=r"row 1 .*xyxy_from_xywh"):
        check_boxes([[0, 0, 10, 10], [100, 100, 50, 50]])


@given(boxes())
def test_corner_and_size_form_is_undone_exactly(given_boxes):
    np.testing.assert_array_equal(xyxy_from_xywh(xywh_from_xyxy(given_boxes)), given_boxes)


@given(boxes())
def test_clipped_boxes_lie_in_the_frame_and_clipping_again_changes_nothing(given_boxes):
    clipped = clip_boxes(given_boxes, (200, 100))
    assert (clipped >= 0).all()
    assert (clipped <= [200, 100, 200, 100]).all()
    np.testing.assert_array_equal(clip_boxes(clipped, (200, 100)), clipped)


def test_an_inverted_box_has_no_area():
    assert box_areas(np.array([[0, 0, 3, 4], [5, 5, 4, 9]], np.float32)).tolist() == [12, 0]


@given(boxes(), boxes())
def test_iou_equals_plain_loops(a, b):
    expected = [[scalar_iou(row, column) for column in b.tolist()] for row in a.tolist()]
    np.testing.assert_allclose(iou_matrix(a, b), expected, atol=1e-6)


def test_iou_with_nobody_is_an_empty_matrix():
    assert iou_matrix(np.zeros((0, 4), np.float32), np.ones((3, 4), np.float32)).shape == (0, 3)


# --- suppression


def scalar_nms(given_boxes: list, scores: list, threshold: float, labels: list) -> list[int]:
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    kept: list[int] = []
    for i in order:
        if all(labels[i] != labels[j] or scalar_iou(given_boxes[i], given_boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


@given(boxes(0, 20), st.sampled_from([0.1, 0.3, 0.65]), st.integers(0, 2**32 - 1))
def test_nms_equals_plain_loops(given_boxes, threshold, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(1, 10, len(given_boxes)).astype(np.float32) / 10  # with ties
    labels = rng.integers(0, 2, len(given_boxes))
    kept = nms(given_boxes, scores, iou_threshold=threshold, labels=labels)
    assert kept.tolist() == scalar_nms(given_boxes.tolist(), scores.tolist(), threshold, labels.tolist())


@given(boxes(0, 20), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_nms_of_what_it_kept_keeps_everything(given_boxes, threshold, seed):
    scores = np.random.default_rng(seed).random(len(given_boxes)).astype(np.float32)
    kept = nms(given_boxes, scores, iou_threshold=threshold)
    again = nms(given_boxes[kept], scores[kept], iou_threshold=threshold)
    assert again.tolist() == list(range(len(kept)))


@given(boxes(0, 20), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_nms_keeps_the_same_boxes_in_whatever_order_they_come(given_boxes, threshold, seed):
    rng = np.random.default_rng(seed)
    scores = rng.permutation(np.linspace(0.1, 0.9, len(given_boxes))).astype(np.float32)  # without ties
    order = rng.permutation(len(given_boxes))
    kept = nms(given_boxes, scores, iou_threshold=threshold)
    shuffled = order[nms(given_boxes[order], scores[order], iou_threshold=threshold)]
    assert shuffled.tolist() == kept.tolist()


def test_classes_do_not_suppress_each_other():
    twice = np.array([[0, 0, 10, 10], [0, 0, 10, 10]], np.float32)
    scores = np.array([0.5, 0.6], np.float32)
    assert nms(twice, scores, iou_threshold=0.5).tolist() == [1]
    assert nms(twice, scores, iou_threshold=0.5, labels=np.array([0, 1])).tolist() == [1, 0]


# --- poses


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4))
def test_oks_equals_plain_loops(seed, count_a, count_b):
    rng = np.random.default_rng(seed)
    a = rng.uniform(0, 100, (count_a, 17, 2)).astype(np.float32)
    b = rng.uniform(0, 100, (count_b, 17, 2)).astype(np.float32)
    b[0] = a[0] + rng.normal(0, 3, (17, 2))
    a[rng.random((count_a, 17)) < 0.2] = np.nan
    b[rng.random((count_b, 17)) < 0.2] = np.nan
    areas = rng.uniform(50, 20_000, count_b).astype(np.float32)
    expected = [[scalar_oks(a[i], b[j], float(areas[j]), SIGMAS) for j in range(count_b)] for i in range(count_a)]
    np.testing.assert_allclose(oks_matrix(a, b, areas=areas, sigmas=SIGMAS), expected, atol=1e-5)


def test_oks_takes_an_area_for_each_pair():
    pose = np.zeros((2, 17, 2), np.float32)
    moved = pose[:1] + 5
    areas = np.array([[100.0], [10_000.0]], np.float32)
    near_small, near_large = oks_matrix(pose, moved, areas=areas, sigmas=SIGMAS)[:, 0]
    assert near_small == pytest.approx(scalar_oks(pose[0], moved[0], 100, SIGMAS), abs=1e-6)
    assert near_large == pytest.approx(scalar_oks(pose[0], moved[0], 10_000, SIGMAS), abs=1e-6)


def test_oks_of_a_pose_with_itself_is_one_and_without_a_common_joint_zero():
    left, right = np.full((1, 2, 2), np.nan, np.float32), np.full((1, 2, 2), np.nan, np.float32)
    left[0, 0], right[0, 1] = 3, 3
    options = {"areas": np.ones(1, np.float32), "sigmas": np.full(2, 0.05, np.float32)}
    assert oks_matrix(left, left, **options).item() == 1
    assert oks_matrix(left, right, **options).item() == 0


def test_oks_counts_only_the_joints_said_to_be_valid():
    a, b = np.zeros((1, 2, 2), np.float32), np.array([[[0, 0], [500, 0]]], np.float32)
    options = {"areas": np.full(1, 100, np.float32), "sigmas": np.full(2, 0.05, np.float32)}
    first_only = np.array([[True, False]])
    assert oks_matrix(a, b, **options).item() == pytest.approx(0.5)
    assert oks_matrix(a, b, valid_a=first_only, valid_b=np.array([[True, True]]), **options).item() == 1


def test_boxes_from_keypoints_are_tight_around_the_valid_joints():
    keypoints = np.array([[[1, 2], [5, 9], [400, 400]], [[np.nan] * 2] * 3], np.float32)
    valid = np.array([[True, True, False], [False, False, False]])
    around = boxes_from_keypoints(keypoints, valid)
    assert around[0].tolist() == [1, 2, 5, 9]
    assert np.isnan(around[1]).all()


# --- crops


def matrix_by_hand(box: list[float], size_wh: tuple[int, int], padding: float) -> np.ndarray:
    """The crop of the numerical contract: centre c, size (w, h)·padding widened to the input's aspect, k = W/s_w."""
    x1, y1, x2, y2 = box
    width, height = size_wh
    centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2
    side_w, side_h = (x2 - x1) * padding, (y2 - y1) * padding
    aspect = width / height
    side_w = max(side_w, side_h * aspect)
    k = width / side_w
    return np.array([[k, 0, width / 2 - k * centre_x], [0, k, height / 2 - k * centre_y]])


def test_the_crop_of_a_known_box():
    # 100 wide and 200 high, padded to 125 × 250, widened to 187.5 × 250; so k = 192 / 187.5 = 1.024.
    transform = crop_transform(np.array([[300, 100, 400, 300]], np.float32), (192, 256))
    np.testing.assert_allclose(
        transform.matrices()[0], [[1.024, 0, 96 - 1.024 * 350], [0, 1.024, 128 - 1.024 * 200]], rtol=1e-6
    )


@given(boxes(), st.sampled_from([(192, 256), (288, 384), (256, 256), (320, 48)]), st.floats(0.5, 2))
def test_crop_matrices_equal_arithmetic_by_hand(given_boxes, size_wh, padding):
    matrices = crop_transform(given_boxes, size_wh, padding=padding).matrices()
    for matrix, box in zip(matrices, given_boxes.tolist(), strict=True):
        expected = matrix_by_hand(box, size_wh, padding)
        np.testing.assert_allclose(matrix, expected, rtol=1e-5, atol=1e-2)


@given(boxes(), st.integers(0, 2**32 - 1))
def test_mapping_to_the_input_and_back_returns_the_place(given_boxes, seed):
    transform = crop_transform(given_boxes, (192, 256))
    points = np.random.default_rng(seed).uniform(-100, 700, (len(given_boxes), 17, 2)).astype(np.float32)
    np.testing.assert_allclose(transform.to_frame(transform.to_input(points)), points, atol=2e-3)


@given(boxes(), st.integers(0, 2**32 - 1))
def test_the_mapping_of_points_is_the_mapping_of_pixels(given_boxes, seed):
    transform = crop_transform(given_boxes, (192, 256))
    points = np.random.default_rng(seed).uniform(-100, 700, (len(given_boxes), 5, 2)).astype(np.float32)
    homogeneous = np.concatenate([points, np.ones((*points.shape[:2], 1))], axis=2)
    by_matrix = np.einsum("nij,nkj->nki", transform.matrices(), homogeneous)
    np.testing.assert_allclose(transform.to_input(points), by_matrix, rtol=1e-5, atol=2e-2)


@given(boxes())
def test_the_whole_padded_box_is_in_the_crop(given_boxes):
    transform = crop_transform(given_boxes, (192, 256), padding=1.0)
    corners = transform.to_input(given_boxes.reshape(-1, 2, 2))
    assert (corners >= -1e-2).all()
    assert (corners <= np.array([192, 256]) + 1e-2).all()
    touching = np.isclose(corners[:, 0], 0, atol=1e-2).any(axis=1)
    assert touching.all()  # and no larger than it must be
