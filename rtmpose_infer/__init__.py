"""RTMPose in production: detection, pose estimation and tracking behind one small API.

    from rtmpose_infer import PoseTracker

    with PoseTracker() as tracker:
        for frame in frames:                # BGR uint8 (H, W, 3), as OpenCV gives it
            poses = tracker(frame)          # poses.keypoints, poses.keypoint_scores, poses.track_ids, …

Importing this loads numpy and OpenCV and nothing else that is heavy; a runtime is imported when a network is loaded.
"""

from rtmpose_infer.backends.base import Backend, BackendConfig, BackendInfo, TensorSpec
from rtmpose_infer.backends.callable import CallableBackend
from rtmpose_infer.detector import PersonDetector
from rtmpose_infer.errors import RtmposeInferError
from rtmpose_infer.estimator import PoseEstimator
from rtmpose_infer.one_stage import OneStageEstimator
from rtmpose_infer.pose_tracker import PosePipeline, PoseTracker
from rtmpose_infer.results import Detections, Poses
from rtmpose_infer.skeletons import Skeleton, load_skeleton
from rtmpose_infer.smoothing import OneEuroConfig
from rtmpose_infer.tracker import TrackerConfig
from rtmpose_infer.version import __version__

__all__ = [
    "Backend",
    "BackendConfig",
    "BackendInfo",
    "CallableBackend",
    "Detections",
    "OneEuroConfig",
    "OneStageEstimator",
    "PersonDetector",
    "PoseEstimator",
    "PosePipeline",
    "PoseTracker",
    "Poses",
    "RtmposeInferError",
    "Skeleton",
    "TensorSpec",
    "TrackerConfig",
    "__version__",
    "load_skeleton",
]
