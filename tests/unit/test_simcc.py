"""SimCC: the place of the highest bin, half a bin of error at most, and no place for what was not found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtmpose_infer.simcc import decode_simcc, mask_unfound, peak_prominence


def encoded(points: np.ndarray, size_wh: tuple[int, int], split_ratio: float) -> list[np.ndarray]:
    """Return SimCC vectors with a Gaussian around each point, as the networks are trained to give them."""
    axes = []
    for axis, side in enumerate(size_wh):
        bins = np.arange(round(side * split_ratio))
        distance = bins - points[..., axis, None] * split_ratio
        axes.append(np.exp(-(distance**2) / (2 * 4.0**2)).astype(np.float32))
    return axes


def scalar_oracle(simcc_x: np.ndarray, simcc_y: np.ndarray, split_ratio: float) -> tuple[list, list]:
    """Decode with plain loops over Python numbers."""
    places, scores = [], []
    for vector_x, vector_y in zip(simcc_x.tolist(), simcc_y.tolist(), strict=True):
        best_x, best_y = max(vector_x), max(vector_y)
        score = min(best_x, best_y)
        place = (vector_x.index(best_x) / split_ratio, vector_y.index(best_y) / split_ratio)
        places.append(place if score > 0 else (np.nan, np.nan))
        scores.append(score)
    return places, scores


@given(
    st.sampled_from([(192, 256), (48, 64), (256, 256), (33, 77)]),
    st.sampled_from([1.0, 2.0, 3.0]),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12),
)
def test_decoding_an_encoded_place_is_within_half_a_bin(size_wh, split_ratio, fractions):
    points = np.array(fractions, np.float64)[None] * (np.array(size_wh) - 1)
    keypoints, scores = decode_simcc(*encoded(points, size_wh, split_ratio), split_ratio=split_ratio)
    assert np.abs(keypoints - points).max() <= 0.5 / split_ratio + 1e-4
    assert (scores > 0.9).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 30), st.sampled_from([1.0, 2.0, 2.5]))
def test_decoding_equals_plain_loops(seed, people, keypoints_count, split_ratio):
    rng = np.random.default_rng(seed)
    simcc_x = rng.normal(-1, 1, (people, keypoints_count, 20)).astype(np.float32)
    simcc_y = rng.normal(-1, 1, (people, keypoints_count, 26)).astype(np.float32)
    keypoints, scores = decode_simcc(simcc_x, simcc_y, split_ratio=split_ratio)
    assert keypoints.dtype == scores.dtype == np.float32
    for person in range(people):
        places, best = scalar_oracle(simcc_x[person], simcc_y[person], split_ratio)
        np.testing.assert_allclose(keypoints[person], places, rtol=1e-6)
        np.testing.assert_array_equal(scores[person], np.float32(best))


@pytest.mark.parametrize("low_axis", ["x", "y"])
def test_the_score_is_the_lower_of_both_axes_not_their_mean(low_axis):
    high, low = np.array([[[0.0, 0.9]]], np.float32), np.array([[[0.0, 0.1]]], np.float32)
    _, scores = decode_simcc(*((low, high) if low_axis == "x" else (high, low)))
    assert scores.item() == pytest.approx(0.1)


@pytest.mark.parametrize("best", [0.0, -0.3, np.nan])
def test_a_joint_without_a_positive_score_has_no_coordinates(best):
    nothing = np.full((1, 1, 8), -1, np.float32)
    nothing[..., 3] = best
    something = np.eye(8, dtype=np.float32)[None, 2:3]
    keypoints, scores = decode_simcc(nothing, something)
    assert np.isnan(keypoints).all()
    assert not scores.item() > 0


def test_of_equal_bins_the_first_is_taken():
    flat = np.ones((1, 1, 8), np.float32)
    keypoints, _ = decode_simcc(flat, flat)
    assert keypoints.tolist() == [[[0.0, 0.0]]]


def test_nobody_is_nobody():
    keypoints, scores = decode_simcc(np.zeros((0, 17, 384), np.float32), np.zeros((0, 17, 512), np.float32))
    assert keypoints.shape == (0, 17, 2)
    assert scores.shape == (0, 17)


def test_masking_touches_only_what_was_not_found():
    keypoints = np.arange(8, dtype=np.float32).reshape(1, 4, 2)
    masked, scores = mask_unfound(keypoints.copy(), np.array([[0.1, 0.0, -1.0, np.nan]], np.float32))
    np.testing.assert_array_equal(masked[0, 0], keypoints[0, 0])
    assert np.isnan(masked[0, 1:]).all()
    np.testing.assert_array_equal(scores, np.array([[0.1, 0.0, -1.0, 0.0]], np.float32))


def test_a_joint_whose_score_overflowed_was_not_found():
    simcc_x, simcc_y = np.zeros((1, 2, 8), np.float32), np.zeros((1, 2, 8), np.float32)
    simcc_x[0, :, 3], simcc_y[0, 0, 2], simcc_y[0, 1, 2] = np.inf, 0.5, np.inf
    keypoints, scores = decode_simcc(simcc_x, simcc_y)
    np.testing.assert_array_equal(scores, [[np.float32(0.5), 0]])
    assert np.isnan(keypoints[0, 1]).all()
    assert keypoints[0, 0].tolist() == [1.5, 1.0]


def test_the_hill_of_a_peak_reaches_a_sixteenth_of_the_axis_to_either_side():
    vector = np.zeros(32, np.float32)
    vector[[10, 11, 12, 20]] = [1, 0.9, 0.8, 0.25]
    assert peak_prominence(vector).item() == 0.75  # two bins beside the peak are its hill, the far one is a rival
    vector[13] = 0.5
    assert peak_prominence(vector).item() == 0.5


def test_prominence_is_that_of_each_joint_of_each_person_whatever_the_scale_of_its_vector():
    vectors = np.random.default_rng(0).random((2, 3, 64)).astype(np.float32)
    together = peak_prominence(vectors)
    assert together.dtype == np.float32
    assert together.shape == (2, 3)
    np.testing.assert_array_equal(together, [[peak_prominence(joint) for joint in person] for person in vectors])
    np.testing.assert_allclose(peak_prominence(vectors * np.float32(0.01)), together, rtol=1e-4)
