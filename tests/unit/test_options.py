"""Options of a wrong type or out of range are refused where they are given, by their names."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from rtmpose_infer import OneStageEstimator, PersonDetector, PoseEstimator, PosePipeline, Poses, PoseTracker
from rtmpose_infer.backends import BackendConfig
from rtmpose_infer.drawing import draw_poses
from rtmpose_infer.errors import InputError, ModelError
from rtmpose_infer.offline import OfflineConfig, OfflineTracker
from rtmpose_infer.options import is_number, is_whole
from rtmpose_infer.skeletons import load_skeleton
from rtmpose_infer.smoothing import OneEuroConfig
from rtmpose_infer.tracker import TrackerConfig
from rtmpose_infer.video import VideoWriter, open_source
from tests.painted import painted_pipeline

NO_NUMBERS = ("0.5", None, True, math.nan, [1], {}, object(), 10**400)


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.int64(3), Fraction(1, 3)])
def test_numpys_numbers_are_numbers(value):
    assert is_number(value)
    assert is_whole(value) == (value in {1, 3})


@pytest.mark.parametrize("value", [*NO_NUMBERS, math.inf, 1j, np.bool_(1), np.ones(1), b"1"])
def test_what_is_no_finite_number_is_none(value):
    assert not is_number(value)
    assert not is_whole(value)


def pose(**options: Any) -> PoseEstimator:
    return PoseEstimator(options.pop("model", "embedded-pose"), **options)


def detector(**options: Any) -> PersonDetector:
    return PersonDetector(options.pop("model", "embedded-detector"), **options)


def one_stage(**options: Any) -> OneStageEstimator:
    return OneStageEstimator(options.pop("model", "missing.onnx"), **options)


def writer(**options: Any) -> VideoWriter:
    return VideoWriter("never.mp4", **options)


def drawing(**options: Any) -> Any:
    return draw_poses(np.zeros((8, 8, 3), np.uint8), Poses.empty(load_skeleton("coco17")), **options)


def folder(**options: Any) -> Any:
    return open_source(".", **options)


NO_NAMES = (0, None, [], b"cpu", object())
NO_CONFIGS = (5, "", [], {}, object())
WRONG: list[tuple[Callable[..., Any], str, tuple[Any, ...]]] = [
    (pose, "model", (5, None, [], b"x")),
    (pose, "backend", NO_NAMES),
    (pose, "device", NO_NAMES),
    (pose, "threads", (0, 1.5, "2", True, [])),
    (pose, "backend_config", NO_CONFIGS),
    (pose, "skeleton", (5, True, {}, ["nose"])),
    (pose, "input_size_wh", (192, "192x256", (192,), (192.0, 256.0), (True, True))),
    (pose, "padding", ("1.25", True, (1,), math.nan, 10**400)),
    (pose, "flip_test", (1, "yes", [])),
    (pose, "colour", ("grey", {}, ["rgb"])),
    (pose, "class_names", ("person", 5, (1,))),
    (detector, "model", (5, None)),
    (detector, "score_threshold", (*NO_NUMBERS, -0.1)),
    (detector, "iou_threshold", (*NO_NUMBERS, 1.1)),
    (detector, "max_detections", (*NO_NUMBERS, 0, 1.5)),
    (detector, "label", (-1, 0.0, math.nan, [])),
    (one_stage, "score_threshold", NO_NUMBERS),
    (one_stage, "iou_threshold", NO_NUMBERS),
    (one_stage, "max_people", (*NO_NUMBERS, 0)),
    (BackendConfig, "device", NO_NAMES),
    (BackendConfig, "threads", (0, 10**400, "2", True)),
    (BackendConfig, "allow_fallback", (1, None, "no")),
    (BackendConfig, "cache_dir", (5, True, b"cache", [])),
    (BackendConfig, "batch_sizes", (4, (), (2, 1), (1.0,), (True,), "12")),
    (BackendConfig, "options", (None, 5, "precision=fp16", [("precision", "fp16")])),
    (PosePipeline, "backend_config", NO_CONFIGS),
    (PosePipeline, "detector_options", (5, "", [])),
    (PosePipeline, "pose_options", (5, "", [])),
    (PosePipeline, "one_stage_options", (5, "", [])),
    (PoseTracker, "pipeline", NO_CONFIGS),
    (PoseTracker, "det_interval", (0, 1.5, "often", True)),
    (OfflineTracker, "pipeline", NO_CONFIGS),
    (OfflineTracker, "config", NO_CONFIGS),
    (OfflineConfig, "key_interval", (*NO_NUMBERS, 0, 1.5)),
    (OfflineConfig, "longest_gap_s", (*NO_NUMBERS, -1)),
    (OfflineConfig, "smoothing_s", (*NO_NUMBERS, 10)),
    (OfflineConfig, "workers", (0, 1.5, "2", True)),
    (OfflineConfig, "tracker", (None, *NO_CONFIGS)),
    (TrackerConfig, "det_interval", (0, 1.5, True, [])),
    (TrackerConfig, "track_lost_s", NO_NUMBERS),
    (TrackerConfig, "max_people", (0, "2", True)),
    (OneEuroConfig, "beta", NO_NUMBERS),
    (drawing, "score_threshold", ("0.3", None, [], object())),
    (drawing, "colour_by", ("joint", None, {})),
    (writer, "frame_rate", ("30", [], object())),
    (folder, "picture_rate", (*NO_NUMBERS, 0)),
]


@pytest.mark.parametrize(
    ("make", "option", "value"),
    [(make, option, value) for make, option, values in WRONG for value in values],
    ids=lambda given: getattr(given, "__name__", None) or repr(given)[:20],
)
def test_a_wrong_value_is_refused_by_the_options_name(make, option, value):
    with pytest.raises((InputError, ModelError), match=option):
        make(**{option: value})


def test_settings_of_the_tracking_must_be_a_config():
    with pytest.raises(InputError, match="config must be a TrackerConfig"):
        PoseTracker(painted_pipeline().pipeline, config={"det_interval": 3})  # type: ignore[arg-type]
