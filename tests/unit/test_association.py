"""The assignment against SciPy's, and its behaviour where nobody has to have a partner."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment

from rtmpose_infer.association import linear_assignment, match, pose_similarity
from rtmpose_infer.errors import InputError, ShapeError
from rtmpose_infer.geometry import oks_matrix
from rtmpose_infer.skeletons import load_skeleton

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=9)


@given(hnp.arrays(np.float64, SHAPES, elements=st.floats(-1e3, 1e3)))
def test_total_cost_is_that_of_scipy(cost: np.ndarray) -> None:
    rows, cols = linear_assignment(cost)
    expected = linear_sum_assignment(cost)
    assert len(rows) == min(cost.shape)
    assert len(set(rows.tolist())) == len(rows) == len(set(cols.tolist()))
    assert (np.diff(rows) > 0).all()
    assert cost[rows, cols].sum() == pytest.approx(cost[expected].sum(), abs=1e-6)


@given(hnp.arrays(np.int64, SHAPES, elements=st.integers(0, 3)))
def test_ties_do_not_break_it(cost: np.ndarray) -> None:
    rows, cols = linear_assignment(cost)
    assert cost[rows, cols].sum() == cost[linear_sum_assignment(cost)].sum()


def test_a_large_matrix_agrees_with_scipy() -> None:
    cost = np.random.default_rng(0).random((80, 120))
    rows, cols = linear_assignment(cost)
    assert cost[rows, cols].sum() == pytest.approx(cost[linear_sum_assignment(cost)].sum())


def test_what_is_no_matrix_of_numbers_is_refused() -> None:
    with pytest.raises(ShapeError, match="cost"):
        linear_assignment(np.zeros(3))
    with pytest.raises(InputError, match="finite"):
        linear_assignment([[np.nan, 1.0]])


@given(
    hnp.arrays(np.float64, (4, 5), elements=st.floats(0.01, 1)),
    hnp.arrays(np.bool_, (4, 5)),
)
def test_match_makes_the_most_of_the_allowed_pairs(similarity: np.ndarray, allowed: np.ndarray) -> None:
    rows, cols = match(similarity, allowed)
    assert allowed[rows, cols].all()
    assert len(set(rows.tolist())) == len(rows) == len(set(cols.tolist()))
    gain = np.where(allowed, similarity, 0)
    best = max(sum(gain[i, p[i]] for i in range(4)) for p in itertools.permutations(range(5), 4))
    assert similarity[rows, cols].sum() == pytest.approx(best)


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (2, 3)])
def test_match_without_an_allowed_pair_is_empty(shape: tuple[int, int]) -> None:
    rows, cols = match(np.zeros(shape), np.zeros(shape, bool))
    assert len(rows) == len(cols) == 0


def test_pose_similarity_is_coco_oks() -> None:
    rng = np.random.default_rng(1)
    sigmas = load_skeleton("coco17").oks_sigmas
    a = rng.uniform(0, 200, (3, 17, 2)).astype(np.float32)
    b = a + rng.normal(0, 8, a.shape).astype(np.float32)
    valid = rng.random((3, 17)) > 0.3
    areas = np.array([9000.0, 12000.0, 20000.0], np.float32)
    expected = oks_matrix(a, b, areas=areas, sigmas=sigmas, valid_a=valid).diagonal()
    np.testing.assert_allclose(
        pose_similarity(a, b, valid, sizes_px=np.sqrt(areas), sigmas=sigmas), expected, rtol=1e-5
    )


def test_pose_similarity_of_poses_without_a_common_joint_is_zero() -> None:
    pose, nothing = np.zeros((1, 17, 2), np.float32), np.zeros((1, 17), bool)
    sigmas = load_skeleton("coco17").oks_sigmas
    assert pose_similarity(pose, pose, nothing, sizes_px=np.array([100.0]), sigmas=sigmas)[0] == 0
