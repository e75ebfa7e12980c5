"""RTMPose in production: detection, pose estimation and tracking behind one small API.

    from rtmpose_infer import PoseTracker

    with PoseTracker() as tracker:
        for frame in frames:                # BGR uint8 (H, W, 3), as OpenCV gives it
            poses = tracker(frame)          # poses.keypoints, poses.keypoint_scores, poses.track_ids, …

Importing this loads numpy and OpenCV and nothing else that is heavy; a runtime is imported when a network is loaded.

Where things are; a module imports only from the lines below its own (``tool.importlinter`` in ``pyproject.toml``)::

    cli                                         one file per command
    benchmark, doctor, export, evaluation       what the commands do besides tracking
    offline; demo_scene                         tracking whole videos; the film of ``rtmpose demo``
    pose_tracker                                the pipeline, shared by trackers of one stream each
    detector, estimator, one_stage              one network each: frames to boxes, boxes to poses, frames to poses
    tracker                                     poses to poses with identities
    video, drawing, formats                     frames in and out, overlays, files of results
    batching                                    pictures through one loaded network
    backends                                    one adapter per runtime, and the cache of compiled networks
    preprocess, simcc, association, smoothing   the steps before, between and after the networks
    zoo; model_spec, onnx_file                  model names to files; what a model file says of itself
    geometry, calibration, cache, machine       boxes and transforms, scores to probabilities, kept files, hardware
    results, skeletons, errors                  what is returned, what keypoints mean, what is raised
    result_files; closing, dynamic_batching, stages, workers    small helpers, the last four without imports of their own
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
