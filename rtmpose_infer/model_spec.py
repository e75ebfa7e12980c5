"""What a model needs from the pipeline: input size, colour, normalisation, head, skeleton.

A file should say this itself. The sources, in order: the property ``rtmpose_infer.model_spec`` that this package's
exporter writes into an ONNX file (JSON of ``ModelSpec``); the ``deploy.json`` and ``pipeline.json`` of an MMDeploy SDK
folder or zip; the shapes of the tensors, with a warning that says what was assumed. The caller's own words (keyword
arguments, or a zoo entry) win over all of them. What cannot be known is a ModelError that names what to pass.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import lzma
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rtmpose_infer.errors import InputError, ModelError
from rtmpose_infer.onnx_file import OnnxHeader, read_onnx_header
from rtmpose_infer.options import is_number, is_whole
from rtmpose_infer.skeletons import Skeleton, load_skeleton, skeleton_from_dict, unnamed_skeleton

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "METADATA_KEY",
    "ModelFile",
    "ModelSpec",
    "load_model_file",
    "spec_from_header",
    "wrong_task",
]

_log = logging.getLogger("rtmpose_infer.model_spec")
_said: set[str] = set()  # what was assumed of which file; once is enough for a file that is loaded twice

METADATA_KEY = "rtmpose_infer.model_spec"
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""ImageNet's mean and standard deviation, of 0–255 values and in the order RGB, as OpenMMLab's configs have them."""
_VERSION = 1
_NONE_MEAN, _NONE_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
_HEADS = {
    "detection": ("nms", "rtmdet", "yolox"),
    "pose": ("simcc", "keypoints"),
    "one_stage": ("rtmo",),
}
_SKELETON_OF_COUNT = {
    14: "crowdpose14",
    16: "mpii16",
    17: "coco17",
    21: "hand21",
    26: "halpe26",
    98: "wflw98",
    106: "face106",
    133: "wholebody133",
    136: "halpe136",
}
_VECTORS = {"simcc_x", "simcc_y"}
_INPUT_FORMATS = ("nchw_float32", "nhwc_uint8")
_MOST_KEYPOINTS = 4096
_LARGEST_MEMBER = 2**31
_LARGEST_RATIO = 200
# zipfile lets the errors of its decompressors through; JSON that is nested too deeply ends in a RecursionError.
_ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    NotImplementedError,
)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a model file says of itself.

    Attributes:
        task: ``"detection"``, ``"pose"`` or ``"one_stage"``.
        head: What the outputs are. Detection: ``"nms"`` (``dets``, ``labels``: decoded and suppressed in the graph),
            ``"rtmdet"`` (raw maps), ``"yolox"`` (raw rows). Pose: ``"simcc"`` (vectors) or ``"keypoints"`` (decoded in
            the graph). One-stage: ``"rtmo"`` (``dets`` and ``keypoints``: decoded and suppressed in the graph).
        input_size_wh: Width and height of the network's input in pixels.
        input_format: ``"nchw_float32"`` (the host prepares planes and normalises) or ``"nhwc_uint8"`` (BGR frames as
            they are; layout, colour and normalisation are in the graph).
        colour: Channel order the network wants, ``"rgb"`` or ``"bgr"``; for ``"nhwc_uint8"`` always ``"bgr"``.
        mean: Subtracted from 0–255 values, in the network's channel order; not used for ``"nhwc_uint8"``.
        std: What the difference is divided by, likewise.
        pad_value: Detection and one-stage: grey value of the letterbox's border.
        class_names: Detection: names of the classes, by label; empty where unknown.
        suppression_iou: Detection: overlap above which the weaker of two boxes is dropped, where this is what is left
            of a graph that did so itself; None elsewhere.
        padding: Pose: factor by which boxes were enlarged in training.
        split_ratio: Pose: SimCC bins per input pixel.
        skeleton: Pose and one-stage: what the keypoints mean.
        flip_test: Pose: whether the network also sees every crop mirrored, and the SimCC vectors of both are averaged, as
            published accuracies often are measured. It costs a second crop a person.
        calibration: Pose: scores to probabilities, as stored by the calibration that measured it; None where unknown.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        source_sha256: Hash of the checkpoint or model this file was made from; empty where unknown.
        exporter: Name and version of what wrote the file; empty where unknown.
        parity: What the parity gate measured on export.
        origin: Where this knowledge came from: ``"metadata"``, ``"sdk"`` or ``"shapes"``.

    Raises:
        ModelError: A field is out of range, or a pose or one-stage model has no skeleton.
    """

    task: str
    head: str
    input_size_wh: tuple[int, int]
    input_format: str = "nchw_float32"
    colour: str = "bgr"
    mean: tuple[float, float, float] = _NONE_MEAN
    std: tuple[float, float, float] = _NONE_STD
    pad_value: int = 114
    class_names: tuple[str, ...] = ()
    suppression_iou: float | None = None
    padding: float = 1.25
    split_ratio: float = 2.0
    skeleton: Skeleton | None = None
    flip_test: bool = False
    calibration: Mapping[str, Any] | None = None
    precision: str = "fp32"
    source_sha256: str = ""
    exporter: str = ""
    parity: Mapping[str, Any] | None = None
    origin: str = "metadata"

    def __post_init__(self) -> None:
        heads = _HEADS.get(self.task)
        if heads is None:
            raise ModelError(f"unknown task {self.task!r}; known are {', '.join(_HEADS)}.")
        if self.head not in heads:
            raise ModelError(f"unknown head {self.head!r} of a {self.task} model; known are {', '.join(heads)}.")

        def check(name: str, expected: str, *, fine: bool) -> None:
            if not fine:
                raise ModelError(f"{name} must be {expected}, got {getattr(self, name)!r}.")

        size = self.input_size_wh
        fine = _numbers(size, 2, is_whole) and all(0 < side <= 8192 for side in size)
        check("input_size_wh", "width and height from 1 to 8192", fine=fine)
        check("input_format", "'nchw_float32' or 'nhwc_uint8'", fine=self.input_format in _INPUT_FORMATS)
        check("colour", "'rgb' or 'bgr'", fine=self.colour in ("rgb", "bgr"))
        check("mean", "three numbers", fine=_numbers(self.mean, 3))
        check("std", "three positive numbers", fine=_numbers(self.std, 3) and all(s > 0 for s in self.std))
        check("padding", "above 0 and below 10", fine=is_number(self.padding) and 0 < self.padding < 10)
        check("split_ratio", "above 0 and below 100", fine=is_number(self.split_ratio) and 0 < self.split_ratio < 100)
        check("pad_value", "0 to 255", fine=is_whole(self.pad_value) and 0 <= self.pad_value <= 255)
        overlap = self.suppression_iou
        fine = overlap is None or (is_number(overlap) and 0 <= overlap <= 1)
        check("suppression_iou", "from 0 to 1", fine=fine)
        named = isinstance(self.class_names, tuple) and all(isinstance(name, str) for name in self.class_names)
        check("class_names", "names", fine=named)
        check("flip_test", "true or false", fine=isinstance(self.flip_test, bool))
        check("skeleton", "a Skeleton", fine=isinstance(self.skeleton, (Skeleton, type(None))))
        for name in ("precision", "source_sha256", "exporter"):
            check(name, "text", fine=isinstance(getattr(self, name), str))
        for name in ("calibration", "parity"):
            check(name, "a mapping", fine=isinstance(getattr(self, name), (Mapping, type(None))))
        if self.task != "detection" and self.skeleton is None:
            raise ModelError(f"a {self.task} model needs a skeleton; pass skeleton=… (a name or a .json file).")

    def to_json(self) -> str:
        """Return the JSON text that goes into the file's metadata; ``from_json`` reads it back."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "origin"}
        if self.skeleton is not None:
            data["skeleton"] = {
                "name": self.skeleton.name,
                "keypoints": self.skeleton.keypoints,
                "links": self.skeleton.links,
                "flip_index": self.skeleton.flip_index,
                "sigmas": None if self.skeleton.sigmas is None else [round(float(s), 6) for s in self.skeleton.sigmas],
            }
        given = {k: v for k, v in data.items() if v is not None}
        return json.dumps({"version": _VERSION, **given}, default=lambda number: number.item())  # numpy's numbers

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Return the spec of a file's metadata.

        Raises:
            ModelError: The text is not such JSON, or comes from a newer version of the format.
        """
        try:
            data = json.loads(text)
            version = data.pop("version")
            if version != _VERSION:
                raise ModelError(f"the model describes itself in format {version}; this package reads {_VERSION}.")
            known = {f.name for f in dataclasses.fields(cls)} - {"origin"}
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k in known}
            if isinstance(values.get("skeleton"), dict):
                values["skeleton"] = skeleton_from_dict(values["skeleton"])
            return cls(**values)
        except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
            raise ModelError(f"the model's description of itself is malformed: {error!r}. Export it again.") from error


@dataclass(frozen=True)
class ModelFile:
    """A model ready to be given to a runtime.

    Attributes:
        data: Path of the file, or its content where it came out of an archive.
        spec: What the model needs.
        header: Its inputs and outputs; None for formats other than ONNX, whose runtime tells them.
        name: How messages call it.
    """

    data: Path | bytes
    spec: ModelSpec
    header: OnnxHeader | None
    name: str


def load_model_file(path: str | Path, *, task: str, **known: Any) -> ModelFile:
    """Return a model and what it says of itself.

    Args:
        path: An ONNX file; an MMDeploy SDK folder or zip; an OpenVINO ``.xml`` or ncnn ``.param`` file, whose spec is
            the file of the same name with ``.json``.
        task: ``"detection"``, ``"pose"`` or ``"one_stage"``: what the model is wanted for.
        known: Fields of ``ModelSpec`` that the caller knows better, such as ``padding=1.0`` or ``skeleton="halpe26"``.

    Raises:
        ModelError: The file is missing, broken, of another task, or does not say enough.
        InputError: ``known`` names no field of ``ModelSpec``, or a skeleton that does not exist.
    """
    path = Path(path)
    known = _checked_overrides(known)
    if not path.exists():
        raise ModelError(
            f"there is no model at {path}. Pass a file that exists, or a name that `rtmpose models list` shows."
        )
    data: Path | bytes = path
    header: OnnxHeader | None = None
    spec: ModelSpec | None = None
    if path.is_dir() or path.suffix == ".zip":
        data, documents = _sdk_from_zip(path) if path.is_file() else _sdk_from_folder(path)
        header = read_onnx_header(data, name=str(path))
        spec = _spec_from_metadata(header) or _spec_from_sdk(header, documents, task, known, str(path))
    elif path.suffix in {".xml", ".param"}:
        spec = _spec_from_sidecar(path)
    else:
        header = read_onnx_header(path)
        spec = _spec_from_metadata(header)
        if spec is None and path.name == "end2end.onnx" and (path.parent / "pipeline.json").is_file():
            spec = _spec_from_sdk(header, _sdk_from_folder(path.parent)[1], task, known, str(path))
    if spec is None:
        assert header is not None  # noqa: S101  # only ONNX reaches this
        spec = spec_from_header(header, task=task, name=str(path), **known)
    if spec.task != task:
        raise ModelError(wrong_task(str(path), spec.task, task))
    if known:
        spec = _with_known(spec, known)
    return ModelFile(data, spec, header, str(path))


def spec_from_header(header: OnnxHeader, *, task: str, name: str, **known: Any) -> ModelSpec:
    """Return what the tensors' names and shapes tell, warning about what was assumed.

    Args:
        header: Inputs and outputs of the model.
        task: See ``load_model_file``.
        name: How messages call the model.
        known: See ``load_model_file``.

    Raises:
        ModelError: The outputs are of no known head or of another task, or the input size stays unknown.
    """
    known = _checked_overrides(known)
    if len(header.inputs) != 1:
        raise ModelError(f"{name}: expected one input, got {[t.name for t in header.inputs]}.")
    tensor = header.inputs[0]
    if len(tensor.shape) != 4:
        raise ModelError(f"{name}: expected a four-dimensional input, got {tensor.name}{list(tensor.shape)}.")
    head, found = _head(header)
    if head is None:
        shapes = ", ".join(f"{t.name}{list(t.shape)}" for t in header.outputs)
        raise ModelError(
            f"{name} has outputs of no known head: {shapes}. Known are dets+labels (NMS in the graph), RTMDet's raw "
            "maps, YOLOX's rows, SimCC vectors, and keypoints+scores. Export it with `rtmpose export`."
        )
    if found != task:
        raise ModelError(wrong_task(name, found, task))
    nhwc = tensor.dtype == "uint8"
    layout = "[n, height, width, 3]" if nhwc else "[n, 3, height, width]"
    if tensor.shape[3 if nhwc else 1] not in {3, None}:
        shape = list(tensor.shape)
        raise ModelError(f"{name}: a {tensor.dtype} input must be {layout}, for three colours; got {shape}.")
    height, width = tensor.shape[1:3] if nhwc else tensor.shape[2:4]
    values: dict[str, Any] = {"task": task, "head": head, "origin": "shapes"}
    values["input_format"] = "nhwc_uint8" if nhwc else "nchw_float32"
    values["input_size_wh"] = known.get("input_size_wh") or _size(header, head, width, height, name)
    assumed = []
    if not nhwc:
        normalisation = _normalisation(task, head, header, colour=known.get("colour"))
        values |= normalisation
        unsaid = {k: v for k, v in normalisation.items() if k not in known}
        assumed += [f"{v.upper()} input" if k == "colour" else f"{k} {v}" for k, v in unsaid.items()]
    if task != "detection":
        if head == "simcc":
            bins = header.outputs[_output(header, "simcc_x", 0)].shape[2]
            if bins:
                values["split_ratio"] = bins / max(values["input_size_wh"][0], 1)
        points = header.outputs[_output(header, "simcc_x" if head == "simcc" else "keypoints", 0)].shape
        values["skeleton"] = _skeleton(points[-2] if len(points) > 2 else None, name, known.get("skeleton"))
        standing_in = {"skeleton": f"skeleton {values['skeleton'].name}"}
        if task == "pose":
            standing_in["padding"] = "box padding 1.25"
        assumed += [words for field, words in standing_in.items() if field not in known]
    spec = ModelSpec(**(values | known))
    if assumed:
        _warn_once(f"{name} does not describe itself; assumed: {'; '.join(assumed)}.")
    return spec


def _warn_once(said: str) -> None:
    _log.log(logging.DEBUG if said in _said else logging.WARNING, "%s", said)
    _said.add(said)


def wrong_task(name: str, actual: str, wanted: str) -> str:
    """Return the message for a model of another task than the one that is needed."""
    hint = "Were the two models swapped?"
    if actual == "one_stage":
        hint = (
            "It finds people and their poses at once: pass it as one_stage (`rtmpose track --one-stage`) instead of both "
            "others."
        )
    return f"{name} is a {actual} model; a {wanted} model is needed here. {hint}"


def _numbers(values: Any, count: int, fits: Callable[[object], bool] = is_number) -> bool:
    """Say whether the value, which may come from a file, is a tuple of that many finite numbers."""
    return isinstance(values, tuple) and len(values) == count and all(map(fits, values))


def _checked_overrides(known: dict[str, Any]) -> dict[str, Any]:
    fields = {f.name for f in dataclasses.fields(ModelSpec)}
    known = {k: v for k, v in known.items() if v is not None}
    if wrong := sorted(set(known) - fields):
        raise InputError(f"unknown model option {', '.join(wrong)}; known are {', '.join(sorted(fields))}.")
    if isinstance(known.get("skeleton"), (str, Path)):
        known["skeleton"] = load_skeleton(known["skeleton"])
    known = {k: tuple(v) if isinstance(v, list) else v for k, v in known.items()}
    # What the shapes tell is reckoned with these two, before there is a spec that checks them.
    size, skeleton = known.get("input_size_wh"), known.get("skeleton")
    if size is not None and not _numbers(size, 2, is_whole):
        raise ModelError(f"input_size_wh must be width and height from 1 to 8192, got {size!r}.")
    if skeleton is not None and not isinstance(skeleton, Skeleton):
        raise ModelError(f"skeleton must be a Skeleton, a name or a .json file, got {skeleton!r}.")
    return known


def _with_known(spec: ModelSpec, known: Mapping[str, Any]) -> ModelSpec:
    skeleton = known.get("skeleton")
    if skeleton is not None and spec.skeleton is not None and skeleton.num_keypoints != spec.skeleton.num_keypoints:
        raise ModelError(_other_skeleton(skeleton, spec.skeleton.num_keypoints))
    return dataclasses.replace(spec, **known)


def _other_skeleton(skeleton: Skeleton, count: int) -> str:
    return f"skeleton {skeleton.name!r} has {skeleton.num_keypoints} keypoints; the model has {count}."


def _spec_from_metadata(header: OnnxHeader) -> ModelSpec | None:
    text = header.metadata.get(METADATA_KEY)
    return None if text is None else ModelSpec.from_json(text)


def _spec_from_sidecar(path: Path) -> ModelSpec:
    sidecar = path.with_suffix(".json")
    try:
        return ModelSpec.from_json(sidecar.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{path} needs {sidecar.name} beside it, which says what the model is: {error}. "
            "`rtmpose export` writes both."
        ) from error


def _output(header: OnnxHeader, name: str, default: int) -> int:
    names = [t.name for t in header.outputs]
    return names.index(name) if name in names else default


def _head(header: OnnxHeader) -> tuple[str | None, str]:  # one answer per family
    names = {t.name for t in header.outputs}
    ranks = [len(t.shape) for t in header.outputs]
    last = [t.shape[-1] if t.shape else None for t in header.outputs]
    if {"dets", "keypoints"} <= names:
        return "rtmo", "one_stage"
    if {"dets", "labels"} <= names:
        return "nms", "detection"
    if {"keypoints", "scores"} <= names:
        return "keypoints", "pose"
    if names >= _VECTORS and all(len(t.shape) == 3 for t in header.outputs if t.name in _VECTORS):
        return "simcc", "pose"
    if len(ranks) >= 2 and len(ranks) % 2 == 0 and set(ranks) == {4}:
        return "rtmdet", "detection"
    if ranks == [3, 2] and last[0] in {5, None}:
        return "nms", "detection"
    if ranks == [3, 3] and header.outputs[0].shape[1] == header.outputs[1].shape[1]:
        return "simcc", "pose"
    if ranks == [3] and (last[0] is None or last[0] >= 6):
        return "yolox", "detection"
    return None, ""


def _size(header: OnnxHeader, head: str, width: int | None, height: int | None, name: str) -> tuple[int, int]:
    if width and height:
        return width, height
    if head == "simcc":  # two bins per pixel in every published model
        bins_x, bins_y = (header.outputs[_output(header, f"simcc_{a}", i)].shape[2] for i, a in enumerate("xy"))
        if bins_x and bins_y:
            return bins_x // 2, bins_y // 2
    if head == "nms":
        _warn_once(f"{name} takes any input size; 320×320 is assumed. Pass input_size_wh=(w, h) for another.")
        return 320, 320
    raise ModelError(f"{name} does not say its input size; pass input_size_wh=(width, height).")


def _normalisation(task: str, head: str, header: OnnxHeader, *, colour: str | None) -> dict[str, Any]:
    """Return the family's usual colour order, or the given one, and mean and std in that order."""
    colour = colour or ("rgb" if task == "pose" else "bgr")
    # RTMDet and YOLOX both end in dets and labels. YOLOX begins by slicing the picture into four (its Focus layer)
    # and reads raw values, as RTMO does with the same backbone; RTMDet begins with a convolution.
    is_yolox = task == "detection" and (head == "yolox" or "Conv" not in header.first_operators)
    if is_yolox or task == "one_stage":
        mean, std = _NONE_MEAN, _NONE_STD
    else:
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    step = 1 if colour == "rgb" else -1
    return {"colour": colour, "mean": mean[::step], "std": std[::step]}


def _skeleton(count: int | None, name: str, known: Skeleton | None) -> Skeleton:
    if known is not None:
        if count and known.num_keypoints != count:
            raise ModelError(_other_skeleton(known, count))
        return known
    if not count:
        raise ModelError(f"{name} does not say how many keypoints it has; pass skeleton=….")
    if count > _MOST_KEYPOINTS:
        raise ModelError(
            f"{name} declares {count} keypoints; expected at most {_MOST_KEYPOINTS}. It is damaged, or no pose network."
        )
    usual = _SKELETON_OF_COUNT.get(count)
    return unnamed_skeleton(count) if usual is None else load_skeleton(usual)


def _sdk_from_folder(folder: Path) -> tuple[Path, dict[str, Any]]:
    model = folder / "end2end.onnx"
    if not model.is_file():
        raise ModelError(f"{folder} is no MMDeploy SDK folder: it has no end2end.onnx. Pass the .onnx file itself.")
    documents = {}
    for name in ("deploy.json", "pipeline.json"):
        path = folder / name
        try:
            documents[name] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(f"cannot read {path}: {error}.") from error
    return model, documents


def _sdk_from_zip(path: Path) -> tuple[bytes, dict[str, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {PurePosixPath(i.filename): i for i in archive.infolist() if not i.is_dir()}
            models = [member for member in members if member.name == "end2end.onnx"]
            if len(models) != 1:
                held = "no end2end.onnx" if not models else f"several: {', '.join(map(str, models))}"
                raise ModelError(f"{path} is no MMDeploy SDK archive of one model: it holds {held}.")
            content = {}
            for name in ("end2end.onnx", "deploy.json", "pipeline.json"):
                member = members.get(models[0].with_name(name))
                if member is None:
                    continue
                if member.file_size > min(_LARGEST_MEMBER, _LARGEST_RATIO * max(member.compress_size, 1) + 2**20):
                    raise ModelError(f"{path}: {name} would unpack to {member.file_size} bytes; refused.")
                content[name] = archive.read(member)
            documents: dict[str, Any] = {
                n: json.loads(content[n]) for n in ("deploy.json", "pipeline.json") if n in content
            }
            return content["end2end.onnx"], documents
    except _ARCHIVE_ERRORS as error:
        raise ModelError(f"cannot read the archive {path}: {error}. Download it again.") from error


def _spec_from_sdk(
    header: OnnxHeader, documents: Mapping[str, Any], task: str, known: Mapping[str, Any], name: str
) -> ModelSpec | None:
    pipeline = documents.get("pipeline.json")
    if pipeline is None or task == "one_stage":  # MMDeploy's runtime has no one-stage pipeline to describe
        return None
    try:
        tasks = pipeline["pipeline"]["tasks"]
        transforms: dict[str, dict[str, Any]] = {}
        for transform in next(t for t in tasks if t["module"] == "Transform")["transforms"]:
            # Pad comes twice: to the input's size, and later to a multiple of something.
            transforms[transform["type"]] = transform | transforms.get(transform["type"], {})
        found = _transforms(transforms)
        for component in tasks:
            if ratio := component.get("params", {}).get("simcc_split_ratio"):
                found["split_ratio"] = float(ratio)
    except (KeyError, TypeError, ValueError, StopIteration, AttributeError, IndexError, OverflowError) as error:
        raise ModelError(
            f"{name}: pipeline.json is not as MMDeploy writes it ({error!r}). Download it again."
        ) from error
    foreign = {"padding", "split_ratio"} if task == "detection" else {"pad_value"}
    found = {k: v for k, v in found.items() if k not in foreign}
    return spec_from_header(header, task=task, name=name, **{**found, **known, "origin": "sdk"})


def _transforms(transforms: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the fields of a spec that the transforms of a pipeline.json tell; a Pad size may be missing."""
    found: dict[str, Any] = {"colour": "bgr", "mean": _NONE_MEAN, "std": _NONE_STD}
    if (normalize := transforms.get("Normalize")) is not None:
        found["colour"] = "rgb" if normalize.get("to_rgb", False) else "bgr"
        found["mean"], found["std"] = tuple(normalize["mean"]), tuple(normalize["std"])
    for kind, key in (("TopDownAffine", "image_size"), ("Pad", "size"), ("Resize", "size")):
        size = transforms.get(kind, {}).get(key)
        if size:
            size = [size, size] if isinstance(size, int) else size
            found["input_size_wh"] = (int(size[0]), int(size[1]))
            break
    padding = transforms.get("TopDownGetBboxCenterScale", {}).get("padding")
    if padding:
        found["padding"] = float(padding)
    pad = transforms.get("Pad", {}).get("pad_val")
    if pad is not None:
        pad = pad.get("img", 114) if isinstance(pad, Mapping) else pad
        found["pad_value"] = int(pad[0] if isinstance(pad, (list, tuple)) else pad)
    return found
