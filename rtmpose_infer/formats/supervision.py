"""Conversions to the types of the ``supervision`` library, which is imported when they are called and not before."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmpose_infer.errors import BackendUnavailableError

if TYPE_CHECKING:
    from types import ModuleType

    from rtmpose_infer.results import Poses

__all__ = ["supervision_detections_from_poses", "supervision_keypoints_from_poses"]


def supervision_keypoints_from_poses(poses: Poses) -> Any:
    """Return a ``supervision.KeyPoints`` of the people; a joint without place is 0, 0, its mark for missing.

    ``data`` holds the track ids under ``"tracker_id"`` where people are tracked.

    Raises:
        BackendUnavailableError: supervision is not installed.
    """
    supervision = _supervision()
    if not len(poses):
        return supervision.KeyPoints.empty()
    found = np.isfinite(poses.keypoints).all(axis=2, keepdims=True)
    # Releases before 0.29 call the scores of the joints "confidence".
    parameters = inspect.signature(supervision.KeyPoints).parameters
    scores = "keypoint_confidence" if "keypoint_confidence" in parameters else "confidence"
    return supervision.KeyPoints(
        xy=np.where(found, poses.keypoints, 0).astype(np.float32),
        class_id=np.zeros(len(poses), np.int64),
        data={} if poses.track_ids is None else {"tracker_id": poses.track_ids.copy()},
        **{scores: poses.keypoint_scores.copy()},
    )


def supervision_detections_from_poses(poses: Poses) -> Any:
    """Return a ``supervision.Detections`` of the people's boxes, with ``tracker_id`` where they are tracked.

    Raises:
        BackendUnavailableError: supervision is not installed.
    """
    supervision = _supervision()
    return supervision.Detections(
        xyxy=poses.bboxes.copy(),
        confidence=poses.bbox_scores.copy(),
        class_id=np.zeros(len(poses), np.int64),
        tracker_id=None if poses.track_ids is None else poses.track_ids.copy(),
    )


def _supervision() -> ModuleType:
    try:
        return importlib.import_module("supervision")
    except ImportError as error:
        raise BackendUnavailableError(
            "converting to supervision's types needs that library; install it with: pip install supervision"
        ) from error
