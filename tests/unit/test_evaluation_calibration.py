"""Fitting a calibration: known curves are found again, and a calibrated file says probabilities."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from rtmpose_infer import PoseEstimator
from rtmpose_infer.calibration import Calibration
from rtmpose_infer.errors import InputError, MediaError
from rtmpose_infer.evaluation.calibration import (
    CalibrationSamples,
    calibration_report,
    calibration_samples,
    fit_calibration,
    write_calibrated,
)
from rtmpose_infer.evaluation.pose import load_annotations
from rtmpose_infer.model_spec import load_model_file
from rtmpose_infer.results import Poses
from rtmpose_infer.skeletons import load_skeleton
from tests.tiny_onnx import light_at, light_pose, write

COCO = load_skeleton("coco17")
TRUE = Calibration(np.array([8.0, 5.0, 8.0]), np.array([-4.0, -2.0, -1.0]))


def drawn(people: int, *, seed: int = 0) -> CalibrationSamples:
    """Return joints that are right as often as ``TRUE`` says."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.02, 1.1, (people, 3))
    correct = rng.uniform(0, 1, scores.shape) < TRUE.probabilities(scores)
    return CalibrationSamples(scores, correct, np.ones(scores.shape, bool), np.arange(people) // 3)


def test_the_curves_that_made_the_samples_are_found() -> None:
    fitted = fit_calibration(drawn(6000))
    np.testing.assert_allclose(fitted.slopes, TRUE.slopes, atol=0.7)
    np.testing.assert_allclose(fitted.offsets, TRUE.offsets, atol=0.4)


def test_probabilities_are_true_on_pictures_that_the_fit_has_not_seen() -> None:
    report = calibration_report(drawn(3000))
    assert report.error < 0.02 < 0.1 < report.error_of_scores
    assert report.brier < report.brier_of_scores
    assert report.joints == 9000
    assert json.loads(json.dumps(report.as_dict())) == report.as_dict()


def test_a_joint_with_few_samples_follows_the_others() -> None:
    samples = drawn(2000)
    rare = np.ones_like(samples.known)
    rare[3:, 2] = False
    fitted = fit_calibration(CalibrationSamples(samples.scores, samples.correct, rare, samples.image_ids))
    assert abs(fitted.slopes[2] - fitted.slopes[:2].mean()) < 2
    assert abs(fitted.offsets[2] - fitted.offsets[:2].mean()) < 2


def test_scores_that_say_nothing_give_the_mean_and_never_a_falling_curve() -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 1, (900, 3))
    correct = rng.uniform(0, 1, scores.shape) > 0.3 + 0.4 * scores  # the surer, the more often wrong
    samples = CalibrationSamples(scores, correct, np.ones_like(correct), np.arange(900))
    chances = fit_calibration(samples).probabilities(scores)
    assert (fit_calibration(samples).slopes == 0).all()
    assert ((chances > 0.3) & (chances < 0.95)).all()


def test_a_joint_that_is_wrong_the_more_often_the_higher_it_scores_gets_its_mean() -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.2, 0.9, (400, 3))
    correct = rng.random((400, 3)) < scores
    correct[:, 2] = rng.random(400) < 1 - scores[:, 2]
    fitted = fit_calibration(CalibrationSamples(scores, correct, np.ones((400, 3), bool), np.arange(400)))
    assert fitted.slopes[2] == 0
    assert fitted.probabilities(scores)[:, 2].mean() == pytest.approx(correct[:, 2].mean(), abs=0.03)


@pytest.mark.parametrize("right", [True, False])
def test_too_little_is_refused(right: bool) -> None:
    scores = np.random.default_rng(0).uniform(0, 1, (100, 3))
    alike = np.full(scores.shape, right)
    with pytest.raises(InputError, match="right and wrong"):
        fit_calibration(CalibrationSamples(scores, alike, np.ones_like(alike), np.arange(100)))
    with pytest.raises(InputError, match="at least 100"):
        fit_calibration(drawn(20))


def test_samples_are_right_within_the_distance_that_oks_allows(tmp_path: Path) -> None:
    joints = np.random.default_rng(1).uniform(50, 250, (17, 2))
    area = 40_000.0
    allowed = np.sqrt(2 * np.log(2) * area) * 2 * COCO.oks_sigmas
    truth = np.c_[joints, np.full(17, 2)]
    truth[4, 2] = 0
    person = {"image_id": 3, "bbox": [50, 50, 200, 200], "area": area, "keypoints": truth.ravel().tolist()}
    crowd = person | {"iscrowd": 1}
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"images": [{"id": 3, "file_name": "3.jpg"}], "annotations": [crowd, person]}))
    moved = joints.copy()
    moved[:, 0] += allowed * np.where(np.arange(17) < 9, 0.98, 1.02)
    moved[5] = np.nan
    scores = np.where(np.arange(17) == 5, 0, 0.7)[None]
    found = Poses(moved[None], scores, np.zeros((1, 4)), np.ones(1), COCO)
    samples = calibration_samples(load_annotations(path), {3: found})
    assert samples.correct.tolist() == [[i < 9 and i != 5 for i in range(17)]]
    assert samples.known.tolist() == [[i not in {4, 5} for i in range(17)]]
    with pytest.raises(InputError, match="expected 1 poses"):
        calibration_samples(load_annotations(path), {3: Poses.empty(COCO)})
    with pytest.raises(InputError, match="in its order"):
        calibration_samples(load_annotations(path), {3: Poses.empty(load_skeleton("halpe26"))})


def test_a_calibrated_copy_describes_itself_and_gives_probabilities_beside_the_same_scores(tmp_path: Path) -> None:
    source = write(tmp_path / "pose.onnx", light_pose(metadata={"author": "somebody"}))
    curves = Calibration(np.full(17, 5.0), np.full(17, -2.0))
    write_calibrated(load_model_file(source, task="pose", padding=1.0), curves, tmp_path / "copy.onnx")
    frame = light_at(60, 50, (160, 120))
    with PoseEstimator(source, backend="onnxruntime", threads=1) as plain:
        before = plain.predict(frame, [[40, 30, 80, 70]])
    with PoseEstimator(tmp_path / "copy.onnx", backend="onnxruntime", threads=1) as calibrated:
        after = calibrated.predict(frame, [[40, 30, 80, 70]])
        nobody = calibrated.predict(frame, np.zeros((0, 4)))
        assert calibrated.spec.padding == 1.0
    assert before.keypoint_probabilities is None
    np.testing.assert_allclose(after.keypoint_scores, before.keypoint_scores, atol=0.1)
    np.testing.assert_allclose(after.keypoint_probabilities, curves.probabilities(after.keypoint_scores), atol=1e-6)
    assert nobody.keypoint_probabilities.shape == (0, 17)
    properties = {p.key: p.value for p in onnx.load(tmp_path / "copy.onnx").metadata_props}
    assert properties["author"] == "somebody"


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "pose.onnx", light_pose())
    model = load_model_file(source, task="pose")
    with pytest.raises(MediaError, match="cannot be written"):
        write_calibrated(model, TRUE, tmp_path / "absent" / "copy.onnx")
