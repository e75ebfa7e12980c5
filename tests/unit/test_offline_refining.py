"""Joining pieces of tracks and two-way smoothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtmpose_infer.offline.refining import Piece, advancing_times, joined_ids, smooth_two_way


def piece(track_id: int, start_s: float, end_s: float, x: float, *, speed: float = 0.0, height: float = 200) -> Piece:
    def box(at: float) -> np.ndarray:
        return np.array([at, 100, at + height / 2, 100 + height], np.float32)

    velocity = np.array([speed, 0], np.float32)
    return Piece(track_id, start_s, end_s, box(x), box(x + speed * (end_s - start_s)), velocity, velocity)


@given(st.lists(st.sampled_from([0.0, 0.0, 0.02, 1.0]), max_size=12))
def test_times_that_stand_still_are_spread_and_others_stay(steps: list[float]) -> None:
    times = np.cumsum(np.array(steps, np.float64))
    spread = advancing_times(times)
    assert (np.diff(spread) > 0).all()
    first = np.diff(times, prepend=-1) > 0
    np.testing.assert_array_equal(spread[first], times[first])


def test_a_person_who_comes_back_where_expected_is_the_same() -> None:
    assert joined_ids([piece(1, 0, 2, 100), piece(2, 2.5, 4, 110)], longest_gap_s=3) == {1: 1, 2: 1}


def test_three_pieces_of_one_person_take_the_first_id() -> None:
    pieces = [piece(4, 4, 6, 105), piece(1, 0, 1, 100), piece(3, 2, 3, 102)]
    assert joined_ids(pieces, longest_gap_s=3) == {1: 1, 3: 1, 4: 1}


def test_motion_carries_on_through_the_gap() -> None:
    pieces = [piece(1, 0, 2, 100, speed=300), piece(2, 2.4, 4, 100 + 300 * 2.4, speed=300)]
    assert joined_ids(pieces, longest_gap_s=3) == {1: 1, 2: 1}


def test_somebody_elsewhere_of_another_size_or_too_late_is_another() -> None:
    first = piece(1, 0, 2, 100)
    for other in (piece(2, 2.2, 4, 900), piece(2, 2.2, 4, 100, height=600), piece(2, 7, 8, 100)):
        assert joined_ids([first, other], longest_gap_s=3) == {1: 1, 2: 2}


def test_people_seen_at_the_same_time_are_two() -> None:
    assert joined_ids([piece(1, 0, 2, 100), piece(2, 1.9, 4, 100)], longest_gap_s=3) == {1: 1, 2: 2}


def wave(count: int) -> tuple[np.ndarray, np.ndarray]:
    times = np.arange(count) / 30
    x = 300 + 200 * times + 40 * np.sin(2 * np.pi * times)
    y = 200 + 50 * np.cos(3 * np.pi * times)
    rest = np.random.default_rng(1).normal(0, 60, (1, 17, 2))
    return (np.stack([x, y], axis=1)[:, None] + rest).astype(np.float32), times


def test_noise_falls_and_the_joints_come_closer_to_the_truth() -> None:
    true, times = wave(200)
    noisy = true + np.random.default_rng(0).normal(0, 2, true.shape).astype(np.float32)
    smooth = smooth_two_way(noisy, np.full((200, 17), 0.8, np.float32), times, width_s=0.05)
    jitter = [float(np.sqrt(np.mean(np.diff(k - true, 2, axis=0) ** 2))) for k in (noisy, smooth)]
    error = [float(np.sqrt(np.mean((k - true) ** 2))) for k in (noisy, smooth)]
    assert jitter[1] < 0.3 * jitter[0]
    assert error[1] < 0.7 * error[0]


def test_a_wild_joint_is_put_back_and_its_neighbours_stay() -> None:
    true, times = wave(60)
    wild = true.copy()
    wild[30, 5] += 150
    smooth = smooth_two_way(wild, np.full((60, 17), 0.8, np.float32), times, width_s=0.05)
    assert np.abs(smooth - true).max() < 12


def test_a_jerk_of_the_camera_stays_and_the_noise_falls_all_the_same() -> None:
    true, times = wave(90)
    true[30:] += np.array([60, -25], np.float32)
    true[70:] += np.array([-40, 10], np.float32)
    noisy = true + np.random.default_rng(0).normal(0, 2, true.shape).astype(np.float32)
    smooth = smooth_two_way(noisy, np.full((90, 17), 0.8, np.float32), times, width_s=0.05)
    error = np.linalg.norm(smooth - true, axis=2)
    assert np.median(error) < 0.75 * np.median(np.linalg.norm(noisy - true, axis=2))
    assert error[[28, 29, 30, 31, 69, 70]].max() < 14


def test_what_two_views_differ_by_is_no_jerk_in_every_frame() -> None:
    truth, times = wave(80)
    views = np.where(np.arange(80) % 2, -1, 1)
    seen = truth + 3 * views[:, None, None]
    scores = np.full(truth.shape[:2], 0.9, np.float32)
    smooth = smooth_two_way(seen, scores, times, width_s=0.05, views=views)
    still = smooth_two_way(truth, scores, times, width_s=0.05)
    assert np.abs(smooth - still).max() < 0.3
    assert np.abs(smooth_two_way(seen, scores, times, width_s=0.05) - still).max() > 1


def test_a_joint_that_was_not_found_stays_unknown_and_spoils_nothing() -> None:
    true, times = wave(40)
    holed = true.copy()
    holed[10:14, 3] = np.nan
    scores = np.where(np.isnan(holed[..., 0]), 0, 0.8).astype(np.float32)
    smooth = smooth_two_way(holed, scores, times, width_s=0.05)
    assert np.isnan(smooth[10:14, 3]).all()
    assert np.isfinite(np.delete(smooth, range(10, 14), axis=0)).all()


@given(st.integers(1, 30), st.floats(0.01, 0.2), st.floats(-1000, 1000))
def test_somebody_standing_still_stays_there(count: int, width_s: float, place: float) -> None:
    still = np.full((count, 17, 2), place, np.float32)
    smooth = smooth_two_way(still, np.full((count, 17), 0.5, np.float32), np.arange(count) / 30, width_s=width_s)
    np.testing.assert_allclose(smooth, still, atol=1e-2)


@pytest.mark.parametrize("joints", [1, 2])
def test_joints_of_somebody_without_extent_are_smoothed_too(joints: int) -> None:
    rng = np.random.default_rng(0)
    shaking = (100 + rng.normal(0, 2, (120, joints, 2))).astype(np.float32)
    smooth = smooth_two_way(shaking, np.full((120, joints), 0.9, np.float32), np.arange(120) / 30, width_s=0.05)
    assert np.diff(smooth, 2, axis=0).std() < 0.3 * np.diff(shaking, 2, axis=0).std()
