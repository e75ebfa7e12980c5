"""Tracking figures on scenes small enough to work out by hand, and lag and jitter of signals that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtmpose_infer.errors import InputError, ShapeError
from rtmpose_infer.evaluation.tracking import (
    PeopleFrame,
    identity_report,
    keypoint_jitter,
    keypoint_lag,
    matched_motion_report,
    motion_report,
    people_from_poses,
    track_boxes,
    track_recorded,
    tracks_jitter,
)
from rtmpose_infer.results import Poses
from rtmpose_infer.skeletons import load_skeleton

pytest.importorskip("motrics", reason="the eval extra is not installed")
SIGMAS = load_skeleton("coco17").oks_sigmas


def people(*who: tuple[int, float], ignored: list[bool] | None = None) -> PeopleFrame:
    """Return a frame of people of 20 × 40 pixels; each is given as id and x."""
    ids = np.array([i for i, _ in who], np.int64)
    boxes = np.array([[x, 0, x + 20, 40] for _, x in who], np.float32).reshape(-1, 4)
    return PeopleFrame(ids, boxes, ignored=None if ignored is None else np.array(ignored))


def test_faultless_tracking_is_faultless_whatever_the_ids_are_called() -> None:
    truth = [people((1, 10 * t), (2, 500)) for t in range(10)]
    found = [people((71, 10 * t), (9, 500)) for t in range(10)]
    report = identity_report(truth, found)
    assert report.idf1 == report.mota == report.hota == 1
    assert (report.id_switches, report.fragmentations, report.misses, report.false_alarms) == (0, 0, 0, 0)
    assert (report.people, report.ids, report.frames, report.truth) == (2, 2, 10, 20)


def test_one_change_of_id_half_way_costs_half_of_idf1_and_counts_as_one_switch() -> None:
    truth = [people((1, 0)) for _ in range(10)]
    found = [people((5 if t < 5 else 6, 0)) for t in range(10)]
    report = identity_report(truth, found)
    assert report.id_switches == 1
    assert report.idf1 == pytest.approx(0.5)
    assert report.mota == pytest.approx(0.9)


def test_misses_and_false_alarms_are_counted() -> None:
    truth = [people((1, 0)) for _ in range(10)]
    found = [people((5, 0), (6, 300)) if t != 4 else people((6, 300)) for t in range(10)]
    report = identity_report(truth, found)
    assert (report.misses, report.false_alarms, report.fragmentations) == (1, 10, 1)
    assert report.recall == pytest.approx(0.9)
    assert report.precision == pytest.approx(9 / 19)
    assert report.mota == pytest.approx(1 - 11 / 10)


def test_nobody_has_to_find_ignored_people_and_finding_them_is_no_mistake() -> None:
    truth = [people((1, 0), (2, 500), ignored=[False, True]) for _ in range(5)]
    assert identity_report(truth, [people((1, 0)) for _ in range(5)]).mota == 1
    assert identity_report(truth, [people((1, 0), (2, 500)) for _ in range(5)]).mota == 1
    assert identity_report(truth, [people((1, 0), (2, 700)) for _ in range(5)]).false_alarms == 5


def test_people_can_be_compared_by_joints() -> None:
    joints = np.random.default_rng(0).uniform(0, 40, (1, 17, 2))
    truth = [PeopleFrame(np.array([1]), np.array([[0, 0, 40, 40.0]]), joints)]
    near = [PeopleFrame(np.array([4]), np.array([[900, 0, 940, 40.0]]), joints + 0.5)]
    far = [PeopleFrame(np.array([4]), np.array([[0, 0, 40, 40.0]]), joints + 30)]
    assert identity_report(truth, near, sigmas=SIGMAS).recall == 1
    assert identity_report(truth, near).recall == 0
    assert identity_report(truth, far, sigmas=SIGMAS).recall == 0


def test_a_joint_that_truth_knows_and_the_tracker_lacks_counts_as_wrong() -> None:
    joints = np.full((1, 17, 2), 20.0)
    lacking = joints.copy()
    lacking[0, :12] = np.nan
    box = np.array([[0, 0, 40, 40.0]])
    truth = [PeopleFrame(np.array([1]), box, joints)]
    assert identity_report(truth, [PeopleFrame(np.array([1]), box, lacking)], sigmas=SIGMAS).recall == 0


def test_frames_that_do_not_pair_up_are_refused() -> None:
    with pytest.raises(InputError, match="3 frames"):
        identity_report([people()] * 3, [people()])
    with pytest.raises(InputError, match="keypoints"):
        identity_report([people((1, 0))], [people((1, 0))], sigmas=SIGMAS)
    with pytest.raises(InputError, match="once"):
        people((1, 0), (1, 50))
    with pytest.raises(ShapeError, match="bboxes"):
        PeopleFrame(np.array([1]), np.zeros((2, 4)))


@given(st.floats(-1, 8), st.integers(0, 1000))
def test_lag_of_a_delayed_signal_is_its_delay(delay: float, seed: int) -> None:
    steps = np.random.default_rng(seed).normal(0, 1, (12, 3, 2))
    knots = np.cumsum(np.cumsum(steps, axis=0), axis=0) * 3
    t = np.arange(100) / 9

    def at(times: np.ndarray) -> np.ndarray:
        low = np.clip(times.astype(int), 0, 10)
        share = (times - low)[:, None, None]
        return knots[low] * (1 - share) + knots[low + 1] * share

    truth = at(np.clip(t, 0, 11))
    moved = at(np.clip(t - delay / 9, 0, 11))
    assert keypoint_lag(truth, moved) == pytest.approx(delay, abs=0.15)


def test_jitter_is_the_acceleration_of_noise_and_nothing_on_a_straight_path() -> None:
    noise = np.random.default_rng(0).normal(0, 1, (5000, 1, 2))
    assert keypoint_jitter(noise) == pytest.approx(np.sqrt(12), rel=0.05)
    assert keypoint_jitter(np.arange(20.0)[:, None] * [3, 4]) == pytest.approx(0, abs=1e-9)
    assert math.isnan(keypoint_jitter(np.full((9, 2), np.nan)))


def test_a_gap_in_a_track_is_no_jitter() -> None:
    frames = []
    for t in range(30):
        x = 3.0 * t if t < 15 else 400 + 3.0 * t
        shown = t not in (14, 15)
        joints = np.full((1, 4, 2), x)
        frames.append(
            PeopleFrame(np.array([1]), np.array([[x, 0, x + 9, 9]]), joints) if shown else PeopleFrame.empty()
        )
    frames = [f if f.keypoints is not None else PeopleFrame(f.ids, f.bboxes, np.zeros((0, 4, 2))) for f in frames]
    assert tracks_jitter(frames) == pytest.approx(0, abs=1e-9)


def test_motion_report_tells_noise_from_delay() -> None:
    t = np.arange(300)
    truth = np.stack([200 * np.sin(t / 20), 100 * np.cos(t / 25)], axis=1)[:, None]
    sizes = np.full(1, 100.0)
    noisy = motion_report(truth, truth + np.random.default_rng(0).normal(0, 2, truth.shape), sizes_px=sizes)
    late = motion_report(truth[3:], truth[:-3], sizes_px=sizes)
    assert noisy.lag_frames == pytest.approx(0, abs=0.1)
    assert noisy.jitter_px > 10 * noisy.truth_jitter_px
    assert noisy.error_px == pytest.approx(np.sqrt(8), rel=0.1)
    assert late.lag_frames == pytest.approx(3, abs=0.05)
    assert late.jitter_px == pytest.approx(late.truth_jitter_px, rel=0.05)


def test_matched_motion_follows_a_person_through_a_change_of_id() -> None:
    rng = np.random.default_rng(0)
    shape = rng.uniform(0, 100, (17, 2))
    truth, found = [], []
    for t in range(80):
        joints = (shape + np.array([5 * t, 2 * t]))[None]
        box = np.array([[5 * t, 2 * t, 5 * t + 100, 2 * t + 100.0]])
        truth.append(PeopleFrame(np.array([1]), box, joints))
        found.append(PeopleFrame(np.array([1 if t < 40 else 2]), box, joints - [5, 2]))
    report = matched_motion_report(truth, found, sigmas=SIGMAS)
    assert report.lag_frames == pytest.approx(1, abs=0.05)
    assert report.error_px == pytest.approx(np.hypot(5, 2), rel=1e-6)


def test_nobody_found_is_no_faultless_motion() -> None:
    there = PeopleFrame(np.array([1]), np.array([[0.0, 0, 50, 100]]), np.zeros((1, len(SIGMAS), 2)))
    report = matched_motion_report([there] * 9, [PeopleFrame.empty(there)] * 9, sigmas=SIGMAS)
    assert all(math.isnan(value) for value in report.as_dict().values())
    assert math.isnan(tracks_jitter([people()] * 9))


def test_truth_without_anybody_leaves_false_alarms_and_no_shares() -> None:
    report = identity_report([people()] * 5, [people((1, 0))] * 5)
    assert (report.false_alarms, report.misses, report.truth) == (5, 0, 0)
    assert all(math.isnan(value) for value in (report.idf1, report.mota, report.hota, report.recall))


def test_recorded_poses_of_single_frames_become_one_stream() -> None:
    boxes = [PeopleFrame(np.array([1, 2])[:: 1 - 2 * (t % 2)], _two_boxes(t)[:: 1 - 2 * (t % 2)]) for t in range(20)]
    skeleton = load_skeleton("coco17")
    poses = [
        Poses(_joints(frame.bboxes), np.ones((2, 17), np.float32), frame.bboxes, np.full(2, 0.9, np.float32), skeleton)
        for frame in boxes
    ]
    truth = [PeopleFrame(np.array([1, 2]), _two_boxes(t)) for t in range(20)]
    assert identity_report(truth, [people_from_poses(p) for p in track_recorded(poses)]).idf1 == 1
    assert identity_report(truth, track_boxes(boxes, [np.full(2, 0.9, np.float32)] * 20)).idf1 == 1


def test_frames_without_anybody_bear_on_no_figure_but_their_number() -> None:
    def figures(nobody: int) -> dict[str, float]:
        pause = [people()] * nobody
        truth = [people((1, 10 * t), (2, 500)) for t in range(10)]
        found = [people((7, 10 * t), (9 if t < 6 else 8, 500)) for t in range(10)]
        report = identity_report(
            truth[:5] + pause + truth[5:] + pause, found[:5] + pause + [people((9, 50))] + found[6:] + pause
        )
        return report.as_dict()

    short, long = figures(1), figures(100_000)
    assert long.pop("frames") == 200_010
    assert short.pop("frames") == 12
    assert long == short
    assert short["reused_ids"] == 1


def test_boxes_that_come_back_hours_later_are_somebody_new() -> None:
    seen = [PeopleFrame(np.array([1, 2]), _two_boxes(t)) for t in range(20)]
    frames = [*seen, *[PeopleFrame.empty()] * 200_000, *seen]
    tracked = track_boxes(frames, [np.full(len(frame.ids), 0.9, np.float32) for frame in frames])
    assert len(tracked) == len(frames)
    assert {tuple(frame.ids.tolist()) for frame in tracked if len(frame.ids)} == {(1, 2), (3, 4)}


def test_poses_without_ids_are_refused_as_people() -> None:
    with pytest.raises(InputError, match="track ids"):
        people_from_poses(Poses.empty(load_skeleton("coco17")))


def _joints(bboxes: np.ndarray) -> np.ndarray:
    """Return (N, 17, 2) joints all over (N, 4) boxes."""
    spots = np.random.default_rng(0).uniform(0, 1, (17, 2))
    return (bboxes[:, None, :2] + spots * (bboxes[:, None, 2:] - bboxes[:, None, :2])).astype(np.float32)


def _two_boxes(t: int) -> np.ndarray:
    return np.array([[10 + 3 * t, 50, 60 + 3 * t, 200], [400 - 3 * t, 60, 450 - 3 * t, 210]], np.float32)
