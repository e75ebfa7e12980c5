"""The networks in the package give on every runtime what they give on ONNX Runtime's CPU provider, on real people."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from rtmpose_infer import BackendConfig, PersonDetector, PoseEstimator
from rtmpose_infer.cache import sha256_of
from rtmpose_infer.model_spec import load_model_file
from rtmpose_infer.zoo import model_path
from tests.contract.conftest import absent

EMBEDDED = {"embedded-detector": "detection", "embedded-pose": "pose"}


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    data = pytest.importorskip("skimage.data", reason="scikit-image, whose photographs these are, is not installed")
    grey = data.camera()
    return [np.ascontiguousarray(data.astronaut()[..., ::-1]), np.repeat(grey[..., None], 3, axis=2)]


def config(folder: Path) -> BackendConfig:
    return BackendConfig(device="cpu", threads=2, cache_dir=folder)


@pytest.mark.parametrize("runtime", ["openvino", "ncnn"])
def test_boxes_and_sure_joints_are_where_onnx_runtime_sees_them(
    runtime: str, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    for name in ("onnxruntime", runtime):
        if importlib.util.find_spec(name) is None:
            absent(name, f"{name} is not installed")
    settings = {"backend_config": config(tmp_path)}
    with (
        PersonDetector("embedded-detector", backend="onnxruntime", **settings) as detector,
        PoseEstimator("embedded-pose", backend="onnxruntime", **settings) as estimator,
        PersonDetector("embedded-detector", backend=runtime, **settings) as other_detector,
        PoseEstimator("embedded-pose", backend=runtime, **settings) as other_estimator,
    ):
        assert other_detector.describe().runtime == other_estimator.describe().runtime == runtime
        for picture in pictures:
            expected, found = detector.predict(picture), other_detector.predict(picture)
            assert len(found) == len(expected) > 0
            np.testing.assert_allclose(found.bboxes, expected.bboxes, atol=0.05)
            poses, others = (e.predict(picture, expected.bboxes) for e in (estimator, other_estimator))
            np.testing.assert_allclose(others.keypoint_scores, poses.keypoint_scores, atol=1e-3)
            sure = poses.keypoint_scores > 0.3
            assert sure.any()
            assert np.linalg.norm(others.keypoints - poses.keypoints, axis=2)[sure].max() < 0.5


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_files_for_ncnn_belong_to_the_embedded_models(name: str) -> None:
    """`models/embedded/training/export_models.py` writes both."""
    model = model_path(name)
    form = load_model_file(model.with_suffix(".param"), task=EMBEDDED[name])
    assert form.spec.source_sha256 == sha256_of(model)
    assert model.with_suffix(".bin").stat().st_size > 0.8 * model.stat().st_size
