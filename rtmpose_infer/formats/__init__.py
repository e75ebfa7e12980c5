"""Results on disk in the forms that other programs read, and conversions to their types.

============  ==========================================================================================
``native``    one JSON file with everything a ``Poses`` holds; documented in ``formats.native``; read back by
              ``load_recording``
``coco``      COCO keypoint results, as the COCO evaluation code loads them; COCO-WholeBody's for its 133 joints
``openpose``  a folder of one JSON file a frame, BODY_25 with face and hands where the skeleton has them
``mmpose``    the JSON file of MMPose's demo scripts
``csv``       one row a person and frame
============  ==========================================================================================

All writers stream: after every ``write`` the file on disk is complete and valid, so neither Ctrl-C nor a power cut
costs more than the frame in work. Coordinates are rounded to 0.01 pixels and scores to 0.0001, far below what any
network can tell.
"""

from __future__ import annotations

from rtmpose_infer.formats.coco import CocoWriter, coco_results_from_poses
from rtmpose_infer.formats.csv_table import CsvWriter
from rtmpose_infer.formats.mmpose import MmposeWriter, mmpose_instances_from_poses
from rtmpose_infer.formats.native import (
    NATIVE_VERSION,
    NativeWriter,
    Recording,
    load_recording,
    poses_from_record,
    record_from_poses,
)
from rtmpose_infer.formats.openpose import OpenposeWriter, openpose_people_from_poses
from rtmpose_infer.formats.supervision import supervision_detections_from_poses, supervision_keypoints_from_poses
from rtmpose_infer.formats.writers import FORMATS, PosesWriter, open_poses_writer

__all__ = [
    "FORMATS",
    "NATIVE_VERSION",
    "CocoWriter",
    "CsvWriter",
    "MmposeWriter",
    "NativeWriter",
    "OpenposeWriter",
    "PosesWriter",
    "Recording",
    "coco_results_from_poses",
    "load_recording",
    "mmpose_instances_from_poses",
    "open_poses_writer",
    "openpose_people_from_poses",
    "poses_from_record",
    "record_from_poses",
    "supervision_detections_from_poses",
    "supervision_keypoints_from_poses",
]
