"""The JSON file of MMPose's demo scripts (``--save-predictions``).

``meta_info`` describes the data set and ``instance_info`` lists frames counted from 1, each with its ``instances``.
As there, ``bbox`` is a list that holds one box. MMPose knows no missing joint: one without place is 0, 0 with score
0.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmpose_infer.formats._ending import Ending
from rtmpose_infer.formats._growing import GrowingFile
from rtmpose_infer.formats._numbers import PIXEL_DIGITS, SCORE_DIGITS, rounded, rounded_or_zero

if TYPE_CHECKING:
    from rtmpose_infer.results import Poses
    from rtmpose_infer.skeletons import Skeleton

__all__ = ["MmposeWriter", "mmpose_instances_from_poses"]


def mmpose_instances_from_poses(poses: Poses) -> list[dict[str, Any]]:
    """Return MMPose's ``instances`` of one frame, with ``track_id`` besides where people are tracked."""
    found = np.isfinite(poses.keypoints).all(axis=2, keepdims=True) & np.isfinite(poses.keypoint_scores)[..., None]
    points = rounded(np.where(found, poses.keypoints, 0), PIXEL_DIGITS)
    scores = rounded(np.where(np.squeeze(found, axis=2), poses.keypoint_scores, 0), SCORE_DIGITS)
    boxes = rounded_or_zero(poses.bboxes, PIXEL_DIGITS)
    box_scores = rounded_or_zero(poses.bbox_scores, SCORE_DIGITS)
    instances: list[dict[str, Any]] = []
    for row in range(len(poses)):
        instance = {"keypoints": points[row], "keypoint_scores": scores[row]}
        instance |= {"bbox": [boxes[row]], "bbox_score": box_scores[row]}
        if poses.track_ids is not None:
            instance["track_id"] = int(poses.track_ids[row])
        instances.append(instance)
    return instances


class MmposeWriter(Ending):
    """Streams poses into a file of MMPose's form.

    Raises:
        MediaError: The file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._frames = 0
        self._file = GrowingFile(self.path, tail="\n]}\n")

    def write(self, poses: Poses, *, name: str | None = None) -> None:
        """Add one frame; ``name`` is not used."""
        del name
        if not self._file.begun:
            self._file.begin(f'{{"meta_info": {json.dumps(_meta_info(poses.skeleton))},\n"instance_info": [\n')
        index = self._frames if poses.frame_index is None else poses.frame_index
        frame = {"frame_id": int(index) + 1, "instances": mmpose_instances_from_poses(poses)}
        self._file.add(json.dumps(frame, separators=(",", ":"), allow_nan=False))
        self._frames += 1

    def close(self, *, complete: bool = True) -> None:
        """Close the file; its form has no place for ``complete``."""
        del complete
        self._file.finish()


def _meta_info(skeleton: Skeleton) -> dict[str, Any]:
    names = skeleton.keypoints
    return {
        "dataset_name": skeleton.name,
        "num_keypoints": len(names),
        "keypoint_id2name": {str(i): name for i, name in enumerate(names)},
        "keypoint_name2id": {name: i for i, name in enumerate(names)},
        "flip_indices": list(skeleton.flip_index),
        "flip_pairs": [[i, j] for i, j in enumerate(skeleton.flip_index) if i < j],
        "num_skeleton_links": len(skeleton.links),
        "skeleton_links": [list(link) for link in skeleton.links],
        "sigmas": rounded(skeleton.oks_sigmas, 6),
    }
