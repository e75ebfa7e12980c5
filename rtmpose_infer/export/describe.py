"""What a checkpoint's network wants and means: normalisation, padding, classes, skeleton.

None of this is in the tensors. The sources, the earlier before the later: the caller, the checkpoint's ``meta`` (training
config and data set), the family's published settings. What was taken from the last source is returned in words, for the
export's report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmpose_infer.errors import CheckpointError, InputError
from rtmpose_infer.export.mm_config import find_steps, find_value
from rtmpose_infer.model_spec import IMAGENET_MEAN, IMAGENET_STD, ModelSpec
from rtmpose_infer.skeletons import Skeleton, load_skeleton, skeleton_from_dict, skeleton_names, unnamed_skeleton

if TYPE_CHECKING:
    from rtmpose_infer.export.architecture import Architecture

__all__ = ["describe_network"]

_PLAIN = ("bgr", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
_NORMALISATION = {
    "rtmpose": ("rgb", IMAGENET_MEAN, IMAGENET_STD),
    "rtmw": ("rgb", IMAGENET_MEAN, IMAGENET_STD),
    "rtmdet": ("bgr", IMAGENET_MEAN[::-1], IMAGENET_STD[::-1]),
    "yolox": _PLAIN,
    "rtmo": _PLAIN,
}
_RAW_HEADS = {"pose": "simcc", "detection": "nms", "one_stage": "rtmo"}
# MMPose's names of data sets, where they differ from the skeleton's own name
_DATASETS = {
    "coco": "coco17",
    "coco_wholebody": "wholebody133",
    "coco_wholebody_hand": "hand21",
    "coco_wholebody_body": "coco17",
    "onehand10k": "hand21",
    "freihand": "hand21",
    "freihand2d": "hand21",
    "halpe26": "halpe26",
    "halpe": "halpe136",
    "lapa": "face106",
    "wflw": "wflw98",
    "ap10k": "ap10k17",
    "crowdpose": "crowdpose14",
    "mpii": "mpii16",
    "aic": "aic14",
    "humanart": "humanart17",
}
# These have their own order of 21 keypoints, fingers from tip to palm.
_TIPS_FIRST = {"interhand2d", "rhd2d"}
# Which data set a number of keypoints stands for in the published models, by the input's aspect where that decides.
_PUBLISHED = {
    14: ((None, "crowdpose14"),),
    17: ((3 / 4, "coco17"), (1.0, "ap10k17")),
}
_COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush",
)  # fmt: skip


def describe_network(
    architecture: Architecture,
    meta: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    sigmas: Sequence[float] | None = None,
    skeleton: Skeleton | None = None,
    class_names: Sequence[str] | None = None,
    padding: float | None = None,
    source_sha256: str = "",
) -> tuple[ModelSpec, tuple[str, ...]]:
    """Return what the raw network wants and gives, and what was assumed for it.

    Args:
        architecture: The network.
        meta: The checkpoint's ``meta``; may be empty.
        config: The training config; may be empty.
        sigmas: RTMO's OKS sigmas, which tell its data set.
        skeleton: The caller's word on what the keypoints are.
        class_names: The caller's word on a detector's classes.
        padding: The caller's word on the box padding.
        source_sha256: Hash of the checkpoint.

    Raises:
        CheckpointError: The keypoints could be of several data sets.
        InputError: The skeleton or the classes do not fit the network.
    """
    assumed = list(architecture.assumed)
    colour, mean, std = _normalisation(architecture.family, config)
    values: dict[str, Any] = {
        "task": architecture.task,
        "head": _RAW_HEADS[architecture.task],
        "input_size_wh": architecture.input_size_wh,
        "colour": colour,
        "mean": mean,
        "std": std,
        "source_sha256": source_sha256,
    }
    dataset = _first_mapping(meta, "dataset_meta", "dataset_info")
    if architecture.task == "detection":
        values["class_names"] = _classes(architecture, dataset, meta, class_names, assumed)
    else:
        values["skeleton"] = skeleton or _skeleton(architecture, dataset, config, sigmas, assumed)
        count = values["skeleton"].num_keypoints
        if count != architecture.num_outputs:
            raise InputError(
                f"skeleton {values['skeleton'].name!r} has {count} keypoints; the network has {architecture.num_outputs}."
            )
    if architecture.task == "pose":
        values["split_ratio"] = architecture.split_ratio
        found = padding if padding is not None else _padding(config)
        if found is None:
            found = 1.25
            assumed.append("box padding 1.25")
        values["padding"] = found
    else:
        values["pad_value"] = _pad_value(config)
    return ModelSpec(**values), tuple(assumed)


def _first_mapping(source: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    return next((source[k] for k in keys if isinstance(source.get(k), Mapping)), {})


def _normalisation(
    family: str, config: Mapping[str, Any]
) -> tuple[str, tuple[float, float, float], tuple[float, float, float]]:
    colour, mean, std = _NORMALISATION[family]
    preprocessor = find_value(config, "model", "data_preprocessor") or find_value(config, "data_preprocessor")
    if isinstance(preprocessor, Mapping) and preprocessor.get("type"):
        colour = "rgb" if preprocessor.get("bgr_to_rgb") else "bgr"
        mean = _three(preprocessor.get("mean")) or (0.0, 0.0, 0.0)
        std = _three(preprocessor.get("std")) or (1.0, 1.0, 1.0)
    return colour, mean, std


def _three(values: Any) -> tuple[float, float, float] | None:
    if isinstance(values, (list, tuple)) and len(values) == 3 and all(isinstance(v, (int, float)) for v in values):
        return float(values[0]), float(values[1]), float(values[2])
    return None


def _padding(config: Mapping[str, Any]) -> float | None:
    """Return the padding of the test-time pipeline; a config that leaves it out has MMPose's default."""
    for name in ("test_pipeline", "val_pipeline"):
        if isinstance(config.get(name), (list, tuple)):
            for step in find_steps({name: config[name]}, "GetBBoxCenterScale"):
                value = step.get("padding", 1.25)
                if isinstance(value, (int, float)) and 0 < value < 10:
                    return float(value)
    return None


def _pad_value(config: Mapping[str, Any]) -> int:
    pipeline = config.get("test_pipeline")
    if isinstance(pipeline, (list, tuple)):
        for step in find_steps({"": pipeline}, "Pad"):
            value = step.get("pad_val")
            value = value.get("img") if isinstance(value, Mapping) else value
            value = value[0] if isinstance(value, (list, tuple)) and value else value
            if isinstance(value, (int, float)) and 0 <= value <= 255:
                return int(value)
    return 114


def _classes(
    architecture: Architecture,
    dataset: Mapping[str, Any],
    meta: Mapping[str, Any],
    wanted: Sequence[str] | None,
    assumed: list[str],
) -> tuple[str, ...]:
    count = architecture.num_outputs
    if wanted is not None:
        if len(wanted) != count:
            raise InputError(f"{len(wanted)} class names were given; the detector has {count} classes.")
        return tuple(wanted)
    for source in (dataset.get("classes"), dataset.get("CLASSES"), meta.get("CLASSES")):
        names = [source] if isinstance(source, str) else source
        if isinstance(names, (list, tuple)) and len(names) == count and all(isinstance(n, str) for n in names):
            return tuple(names)
    if count == len(_COCO_CLASSES):
        assumed.append("the 80 classes of COCO")
        return tuple(_COCO_CLASSES)
    assumed.append("nothing about the names of the classes (name them with --classes)")
    return ()


def _skeleton(
    architecture: Architecture,
    dataset: Mapping[str, Any],
    config: Mapping[str, Any],
    sigmas: Sequence[float] | None,
    assumed: list[str],
) -> Skeleton:
    count = architecture.num_outputs
    name = _DATASETS.get(str(dataset.get("dataset_name", "")).lower())
    if name is not None and load_skeleton(name).num_keypoints == count:
        return load_skeleton(name)
    if (described := _described_skeleton(dataset, count)) is not None:
        return described
    kinds = _config_datasets(config)
    for kind in kinds:
        if kind in _DATASETS and load_skeleton(_DATASETS[kind]).num_keypoints == count:
            return load_skeleton(_DATASETS[kind])
    if not _TIPS_FIRST.isdisjoint((str(dataset.get("dataset_name", "")).lower(), *kinds)):
        assumed.append(f"nothing about the {count} keypoints, fingers from tip to palm (describe them with --skeleton)")
        return unnamed_skeleton(count)
    candidates = [s for s in map(load_skeleton, skeleton_names()) if s.num_keypoints == count]
    told = None if sigmas is None or len(sigmas) != count else sigmas
    for candidate in candidates:
        if told is not None and candidate.sigmas is not None and np.allclose(candidate.sigmas, told, atol=1e-4):
            return candidate
    if not candidates:
        assumed.append(f"nothing about the {count} keypoints (describe them with --skeleton)")
        return unnamed_skeleton(count)
    chosen = candidates[0] if len(candidates) == 1 else _published(architecture, candidates)
    if chosen is None:
        raise CheckpointError(
            f"{count} keypoints could be {', '.join(c.name for c in candidates)}; say which with --skeleton."
        )
    assumed.append(f"skeleton {chosen.name}, from its {count} keypoints")
    return chosen


def _published(architecture: Architecture, candidates: Sequence[Skeleton]) -> Skeleton | None:
    width, height = architecture.input_size_wh
    one_stage = architecture.task == "one_stage"
    for aspect, name in _PUBLISHED.get(architecture.num_outputs, ()):
        if (
            aspect is None
            or (one_stage and name == "coco17")
            or (not one_stage and abs(width / height - aspect) < 1e-6)
        ):
            return next((c for c in candidates if c.name == name), None)
    return None


def _described_skeleton(dataset: Mapping[str, Any], count: int) -> Skeleton | None:
    """Return the skeleton that MMPose's parsed data-set description spells out, or ``None``."""
    names = dataset.get("keypoint_id2name")
    if not isinstance(names, Mapping) or len(names) != count:
        return None
    links, flips, sigmas = (dataset.get(k) for k in ("skeleton_links", "flip_indices", "sigmas"))
    try:
        return skeleton_from_dict(
            {
                "name": str(dataset.get("dataset_name", "custom")),
                "keypoints": [str(names[str(i)]) for i in range(count)],
                "links": links or (),
                "flip_index": flips or (),
                "sigmas": sigmas,
            }
        )
    except (InputError, KeyError, TypeError, ValueError):
        return None


def _config_datasets(config: Mapping[str, Any]) -> list[str]:
    """Return lower-case names of the data sets a config validates on."""
    loaders = ("test_dataloader", "val_dataloader")
    kinds = [config.get("dataset_type"), *(find_value(config, loader, "dataset", "type") for loader in loaders)]
    return [
        kind.removesuffix("Dataset").replace("BodyHand", "Body_Hand").replace("CocoWhole", "Coco_Whole").lower()
        for kind in kinds
        if isinstance(kind, str)
    ]
