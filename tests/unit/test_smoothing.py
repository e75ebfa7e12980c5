"""What a smoother must do to resting, moving, vanishing and returning joints."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtmpose_infer.errors import InputError
from rtmpose_infer.smoothing import NoSmoother, OneEuroConfig, OneEuroSmoother, SmoothingState

SIZE = np.array([150.0], np.float32)


def run(
    path: np.ndarray, *, config: OneEuroConfig | None = None, dt_s: float = 1 / 30, valid: np.ndarray | None = None
) -> np.ndarray:
    """Smooth a (T, K, 2) path of one person."""
    smoother = OneEuroSmoother(config)
    state = SmoothingState.fresh(1, path.shape[1])
    out = []
    for t, frame in enumerate(path.astype(np.float32)):
        seen = np.ones((1, path.shape[1]), bool) if valid is None else valid[t][None]
        smoothed, state = smoother.update(state, frame[None], seen, scales_px=SIZE, dt_s=dt_s)
        out.append(smoothed[0])
    return np.array(out)


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_a_constant_comes_back_as_it_is(x: float, y: float) -> None:
    path = np.tile(np.array([x, y], np.float32), (20, 3, 1))
    np.testing.assert_allclose(run(path), path, atol=1e-3)


def test_the_first_sight_of_a_joint_is_not_delayed() -> None:
    path = np.random.default_rng(0).uniform(0, 500, (1, 17, 2))
    np.testing.assert_allclose(run(path), path, rtol=1e-6)


def test_white_noise_on_a_resting_joint_shrinks() -> None:
    path = 300 + np.random.default_rng(0).normal(0, 2, (300, 17, 2))
    smoothed = run(path)[20:]
    assert np.diff(smoothed, 2, axis=0).std() < 0.3 * np.diff(path, 2, axis=0).std()
    assert smoothed.std() < 0.75 * path.std()


def test_steady_joints_are_left_where_they_are_and_restless_ones_are_not() -> None:
    t = np.arange(150)[:, None, None] / 30
    path = 300 + 60 * np.sin(2 * np.pi * t) * np.array([1.0, 0.5]) * np.ones((1, 12, 1))
    noise = np.random.default_rng(0).normal(0, 1, path.shape)

    def error(seen: np.ndarray) -> float:
        return float(np.sqrt(((seen - path)[30:] ** 2).mean()))

    steady, restless = path + 0.5 * noise, path + 4 * noise
    assert error(run(restless)) < error(restless)
    assert error(run(steady)) < 2 * error(steady) < error(run(steady, config=OneEuroConfig(noise=0)))


def test_a_joint_that_starts_is_held_back_no_further_than_its_noise_explains() -> None:
    rest = np.full((90, 12, 2), 300.0) + np.random.default_rng(0).normal(0, 1, (90, 12, 2))
    path = rest.copy()
    path[60:, 3] += np.arange(1, 31)[:, None] * np.array([9.0, -6.0])

    def held_back(config: OneEuroConfig | None = None) -> float:
        return float(np.linalg.norm(run(path, config=config) - path, axis=2)[60:, 3].max())

    assert held_back() < 3 < held_back(OneEuroConfig(noise=0))
    np.testing.assert_allclose(run(path)[:, 4:], run(rest)[:, 4:], atol=0.1)  # hardly the other joints' business


def test_who_walks_is_not_left_behind_however_much_the_joints_tremble() -> None:
    walk = 300 + np.arange(90)[:, None, None] * np.array([20.0, 0.0]) * np.ones((1, 12, 1))
    path = walk + np.random.default_rng(0).normal(0, 12, walk.shape)
    assert np.linalg.norm(run(path) - path, axis=2).max() < 0.05 * SIZE[0]
    assert np.linalg.norm(run(path, config=OneEuroConfig(noise=0)) - path, axis=2).max() > 0.1 * SIZE[0]


def test_the_noise_is_a_persons_own() -> None:
    rng = np.random.default_rng(0)
    truth = np.full((120, 2, 12, 2), 300.0) + 40 * np.sin(np.arange(120) / 5)[:, None, None, None]
    seen = truth + rng.normal(0, 1, truth.shape) * np.array([0.3, 4.0])[:, None, None]
    smoother, state = OneEuroSmoother(), SmoothingState.fresh(2, 12)
    for frame in seen.astype(np.float32):
        _, state = smoother.update(
            state, frame, np.ones((2, 12), bool), scales_px=np.array([150, 150], np.float32), dt_s=1 / 30
        )
    steady, restless = np.sqrt(state.noise)
    assert restless == pytest.approx(4, rel=0.25)
    assert steady < 1


def test_a_steady_motion_is_followed_within_half_a_frame() -> None:
    path = np.arange(90)[:, None, None] * np.array([4.0, 2.0])
    lag_px = np.abs(run(path) - path)[45:].max(axis=(0, 1))
    assert (lag_px < 0.5 * np.array([4.0, 2.0])).all()


@pytest.mark.parametrize("joints", [1, 5])
def test_nobody_is_held_back_far_before_it_is_known_how_much_the_joints_tremble(joints: int) -> None:
    rng = np.random.default_rng(0)
    steps = 6.0 * np.arange(40)[:, None, None] * np.ones((joints, 2))
    path = (steps + rng.normal(0, 2, steps.shape)).astype(np.float32)
    away = np.linalg.norm(run(path) - path, axis=2) / SIZE[0]
    assert away[:3].max() <= 0.003 + 1e-6
    assert away[20:].max() > 0.003


def test_a_swing_is_not_taken_for_trembling() -> None:
    t = np.arange(60)[:, None, None]
    swing = 300 + 200 * np.sin(t / 4) * np.array([1.0, 0.4]) * np.linspace(0.2, 1, 12)[:, None]
    path = swing + np.random.default_rng(0).normal(0, 0.5, swing.shape)
    smoother, state = OneEuroSmoother(), SmoothingState.fresh(1, 12)
    for frame in path.astype(np.float32):
        _, state = smoother.update(state, frame[None], np.ones((1, 12), bool), scales_px=SIZE, dt_s=1 / 30)
    assert np.sqrt(state.noise[0]) < 1
    assert np.linalg.norm(run(path) - swing, axis=2).mean() < 1.05 * np.linalg.norm(path - swing, axis=2).mean()


def test_who_comes_to_rest_after_a_swing_is_soon_steady() -> None:
    t = np.arange(90)[:, None, None]
    swing = 300 + 200 * np.sin(t / 2.5) * np.array([1.0, 0.4]) * np.linspace(0.2, 1, 12)[:, None]
    path = np.concatenate([swing, np.repeat(swing[-1:], 60, axis=0)])
    path += np.random.default_rng(0).normal(0, 2, path.shape)
    assert np.diff(run(path)[120:], 2, axis=0).std() < 0.4 * np.diff(path[120:], 2, axis=0).std()


def test_at_few_frames_a_second_moving_joints_are_left_and_resting_ones_held_steady() -> None:
    t = np.arange(100)[:, None, None] / 10
    rng = np.random.default_rng(0)
    spread = np.linspace(0.2, 1, 12)[:, None] * np.array([1.0, 0.4])
    swing = 300 + 60 * np.sin(2 * np.pi * (2.5 * t + np.linspace(0, 1, 12)[:, None])) * spread
    noise = rng.normal(0, 2, swing.shape)
    away = np.linalg.norm(run(swing + noise, dt_s=0.1) - swing, axis=2).mean()
    assert away < 1.3 * np.linalg.norm(noise, axis=2).mean()
    rest = 300 + rng.normal(0, 2, swing.shape)
    assert np.diff(run(rest, dt_s=0.1)[20:], 2, axis=0).std() < 0.45 * np.diff(rest[20:], 2, axis=0).std()


def test_guesses_do_not_tell_how_much_a_person_trembles() -> None:
    rng = np.random.default_rng(0)
    path = 300 + rng.normal(0, 1, (90, 17, 2)).astype(np.float32)
    path[:, 7:] += rng.normal(0, 20, (90, 10, 2)).astype(np.float32)
    sure = np.arange(17)[None] < 7
    smoother, state = OneEuroSmoother(), SmoothingState.fresh(1, 17)
    for frame in path:
        _, state = smoother.update(state, frame[None], np.ones((1, 17), bool), scales_px=SIZE, dt_s=1 / 30, sure=sure)
    assert np.sqrt(state.noise[0]) == pytest.approx(1, rel=0.3)


def test_how_much_joints_tremble_is_known_within_a_few_frames() -> None:
    guesses = []
    for seed in range(40):
        path = 300 + np.random.default_rng(seed).normal(0, 2, (10, 17, 2)).astype(np.float32)
        smoother, state = OneEuroSmoother(), SmoothingState.fresh(1, 17)
        for frame in path:
            _, state = smoother.update(state, frame[None], np.ones((1, 17), bool), scales_px=SIZE, dt_s=1 / 30)
        guesses.append(state.noise[0])
    assert np.mean(guesses) == pytest.approx(4, rel=0.1)
    assert np.std(guesses) < 1.2  # of one frame alone: 1.5


@pytest.mark.parametrize("lengths", [(1, 1, 1, 3), (1, 4), (1, 2, 1, 5), (1,) * 29 + (30,)])
def test_frames_that_are_left_out_do_not_look_like_trembling(lengths: tuple[int, ...]) -> None:
    at = np.cumsum(lengths * (900 // sum(lengths)))
    walk = 2.0 * at[:, None, None] * np.ones((1, 17, 2))
    path = (walk + np.random.default_rng(0).normal(0, 2, walk.shape)).astype(np.float32)
    smoother, state = OneEuroSmoother(), SmoothingState.fresh(1, 17)
    guesses = []
    for points, steps in zip(path, np.diff(at, prepend=0), strict=True):
        _, state = smoother.update(state, points[None], np.ones((1, 17), bool), scales_px=SIZE, dt_s=float(steps) / 30)
        guesses.append(state.noise[0])
    assert np.mean(guesses[30:]) == pytest.approx(4, rel=0.15)
    assert max(guesses[30:]) < 9


def test_the_same_motion_in_time_is_smoothed_alike_at_any_frame_rate() -> None:
    def at(rate: int) -> float:
        t = np.arange(0, 3, 1 / rate)
        path = (100 * np.sin(2 * np.pi * 0.5 * t))[:, None, None] * np.ones(2)
        error = run(path, config=OneEuroConfig(noise=0), dt_s=1 / rate) - path
        return float(np.abs(error[rate:]).mean())

    assert at(60) == pytest.approx(at(30), rel=0.6)
    assert at(60) < at(30) < at(15)


def test_near_and_far_people_are_smoothed_alike() -> None:
    rng = np.random.default_rng(0)
    path = 300 + np.cumsum(rng.normal(0, 2, (60, 4, 2)), axis=0)
    smoother = OneEuroSmoother()
    near, far = SmoothingState.fresh(1, 4), SmoothingState.fresh(1, 4)
    seen = np.ones((1, 4), bool)
    for frame in path.astype(np.float32):
        large, near = smoother.update(near, frame[None] * 4, seen, scales_px=SIZE * 4, dt_s=1 / 30)
        small, far = smoother.update(far, frame[None], seen, scales_px=SIZE, dt_s=1 / 30)
    np.testing.assert_allclose(large, small * 4, rtol=1e-5)


def test_a_joint_that_comes_back_after_a_while_starts_where_it_is() -> None:
    path = np.zeros((40, 1, 2))
    path[20:] = 200
    valid = np.ones((40, 1), bool)
    valid[10:20] = False
    np.testing.assert_array_equal(run(path, valid=valid)[20], path[20])


def test_a_joint_that_blinks_for_a_frame_goes_on_smoothly() -> None:
    path = np.arange(60)[:, None, None] * np.array([3.0, 0.0])
    valid = np.ones((60, 1), bool)
    valid[40] = False
    shown = np.where(valid[..., None], path, np.nan)
    smoothed = run(shown, valid=valid)
    assert np.isnan(smoothed[40]).all()
    np.testing.assert_allclose(smoothed[41:], path[41:], atol=1.5)


def test_update_leaves_its_arguments_alone() -> None:
    state = SmoothingState.fresh(1, 2)
    keypoints = np.ones((1, 2, 2), np.float32)
    _, after = OneEuroSmoother().update(state, keypoints, np.ones((1, 2), bool), scales_px=SIZE, dt_s=0.1)
    assert (state.position == 0).all()
    assert np.isinf(state.unseen_s).all()
    assert (keypoints == 1).all()
    assert (after.position == 1).all()


def test_no_people_is_fine() -> None:
    none = np.zeros((0, 5, 2), np.float32)
    smoothed, state = OneEuroSmoother().update(
        SmoothingState.fresh(0, 5), none, np.zeros((0, 5), bool), scales_px=np.zeros(0, np.float32), dt_s=0.1
    )
    assert smoothed.shape == (0, 5, 2)
    assert len(state) == 0


def test_no_smoother_returns_what_it_gets() -> None:
    keypoints = np.random.default_rng(0).random((2, 3, 2)).astype(np.float32)
    state = SmoothingState.fresh(2, 3)
    smoothed, after = NoSmoother().update(
        state, keypoints, np.ones((2, 3), bool), scales_px=np.ones(2, np.float32), dt_s=0.1
    )
    np.testing.assert_array_equal(smoothed, keypoints)
    assert after is state


@pytest.mark.parametrize(
    "options",
    [
        {"min_cutoff_hz": 0},
        {"beta": -1},
        {"derivative_cutoff_hz": math.inf},
        {"trend": 1.5},
        {"reset_after_s": math.nan},
        {"noise": "little"},
    ],
)
def test_settings_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        OneEuroConfig(**options)
