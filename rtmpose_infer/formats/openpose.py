"""OpenPose's output: a folder with one JSON file a frame, which Pose2Sim, Sports2D and many others read.

Form (https://github.com/CMU-Perceptual-Computing-Lab/openpose/blob/master/doc/02_output.md): the body as BODY_25,
faces with 70 points and hands with 21. Joints are found by name, so any body skeleton works: COCO-17 has no feet, and
its neck and mid-hip become the midpoints of shoulders and hips (as OpenPose's own training data define the neck);
Halpe-26 fills all 25; whole-body skeletons fill face and hands too, the pupils from the eyes. What is missing is 0,
0, 0.

For Pose2Sim, name the folder ``<camera>_json`` under ``pose/`` and set its ``pose_model`` to ``BODY_25``.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmpose_infer.errors import InputError, MediaError
from rtmpose_infer.formats._ending import Ending
from rtmpose_infer.formats._numbers import flat_triplets
from rtmpose_infer.result_files import free_name

if TYPE_CHECKING:
    from rtmpose_infer.results import Poses
    from rtmpose_infer.skeletons import Skeleton

__all__ = ["BODY_25", "OpenposeWriter", "openpose_people_from_poses"]

_VERSION = 1.3

BODY_25 = (
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "hip",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
    "left_big_toe",
    "left_small_toe",
    "left_heel",
    "right_big_toe",
    "right_small_toe",
    "right_heel",
)
"""OpenPose's 25 body joints, in its order and this package's names."""

_FACE_70 = (*(f"face-{i}" for i in range(68)), "right_eye", "left_eye")
_FINGERS = ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
_SYNONYMS = {"neck": ("upper_neck",), "hip": ("pelvis",)}
_MIDPOINTS = {"neck": ("left_shoulder", "right_shoulder"), "hip": ("left_hip", "right_hip")}
_NEEDED = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")


def openpose_people_from_poses(poses: Poses) -> list[dict[str, Any]]:
    """Return OpenPose's ``people`` of one frame; ``person_id`` holds the track id, or -1.

    Raises:
        InputError: The skeleton is not a body (no shoulders and hips).
    """
    parts = {part: flat_triplets(*_gathered(poses, indices)) for part, indices in _parts(poses.skeleton).items()}
    people = []
    for row in range(len(poses)):
        person: dict[str, Any] = {"person_id": [-1 if poses.track_ids is None else int(poses.track_ids[row])]}
        person |= {f"{part}_keypoints_2d": lists[row] for part, lists in parts.items()}
        person |= {f"{part}_keypoints_3d": [] for part in parts}
        people.append(person)
    return people


class OpenposeWriter(Ending):
    """Writes one ``<stem>_<frame>_keypoints.json`` a frame into a folder, which is made where missing.

    A picture's file is ``<picture's stem>_keypoints.json``. Where that was written before, the picture's ending goes
    into the name, and then a number, so that no file replaces another one: ``a.png`` after ``a.jpg`` becomes
    ``a_png_keypoints.json``.

    Files of an earlier run under the same stem are removed by the first frame, because readers take all they find.

    Args:
        path: The folder.
        stem: Begin of the file names; the folder's name where not given.

    Raises:
        MediaError: The folder cannot be made or written.
    """

    def __init__(self, path: str | Path, *, stem: str | None = None) -> None:
        self.path = Path(path)
        self._stem = re.sub(r"[^\w.-]", "_", stem or self.path.resolve().name)
        self._frames = 0
        self._used: set[str] = set()
        probe = self.path / f".{self._stem}.tmp"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise MediaError(
                f"{self.path}: OpenPose results are a folder of files, and this one cannot be made or written: "
                f"{error.strerror}."
            ) from error

    def write(self, poses: Poses, *, name: str | None = None) -> None:
        """Write one frame; a picture's file gets the picture's ``name``.

        Raises:
            InputError: The skeleton is not a body.
            MediaError: The disk is full.
        """
        people = openpose_people_from_poses(poses)
        index = self._frames if poses.frame_index is None else poses.frame_index
        ending = "_keypoints.json"
        file_name = f"{self._stem}_{index:012d}{ending}" if name is None else free_name(Path(name), ending, self._used)
        text = json.dumps({"version": _VERSION, "people": people}, separators=(",", ":"), allow_nan=False)
        target = self.path / file_name
        try:
            if self._frames == 0:
                self._remove_earlier_run()
            target.write_text(text, encoding="utf-8")
        except OSError as error:
            raise MediaError(f"{target}: cannot be written: {error.strerror}.") from error
        self._frames += 1

    def close(self, *, complete: bool = True) -> None:
        """Do nothing; every file is complete once written."""

    def _remove_earlier_run(self) -> None:
        own = re.compile(re.escape(self._stem) + r"_\d{12}_keypoints\.json")
        for path in self.path.iterdir():
            if own.fullmatch(path.name):
                path.unlink()


@cache
def _parts(skeleton: Skeleton) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Return, for each part of a person, the joints to average for each of OpenPose's points (none: missing)."""
    if not set(_NEEDED) <= set(skeleton.keypoints):
        raise InputError(
            f"poses of {skeleton.name} cannot be written in OpenPose's form, which needs a body with shoulders and "
            "hips; use the native form instead."
        )
    hands = {
        side: (f"{side}_hand_root", *(f"{side}_{finger}{i}" for finger in _FINGERS for i in range(1, 5)))
        for side in ("left", "right")
    }
    whole = {"pose": BODY_25, "face": _FACE_70, "hand_left": hands["left"], "hand_right": hands["right"]}
    parts = {part: tuple(_sources(skeleton, name) for name in names) for part, names in whole.items()}
    # The body's eyes alone do not make a face.
    return {part: sources if part == "pose" or any(sources[:68]) else () for part, sources in parts.items()}


def _sources(skeleton: Skeleton, name: str) -> tuple[int, ...]:
    for own_name in (name, *_SYNONYMS.get(name, ())):
        if own_name in skeleton.keypoints:
            return (skeleton.index(own_name),)
    midpoint = _MIDPOINTS.get(name, ())
    return tuple(skeleton.index(joint) for joint in midpoint)


def _gathered(poses: Poses, sources: tuple[tuple[int, ...], ...]) -> tuple[Any, Any]:
    """Return (N, M, 2) points and (N, M) scores; a midpoint is as sure as the less sure of its joints."""
    points = np.full((len(poses), len(sources), 2), np.nan, np.float32)
    scores = np.zeros((len(poses), len(sources)), np.float32)
    for target, joints in enumerate(sources):
        if joints:
            points[:, target] = poses.keypoints[:, joints].mean(axis=1)
            scores[:, target] = poses.keypoint_scores[:, joints].min(axis=1)
    return points, scores
