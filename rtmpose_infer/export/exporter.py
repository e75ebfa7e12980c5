"""From a checkpoint, or a published ONNX file, to a file that may be deployed: the one way through the exporter.

Nothing is written before the parity gate has passed, and then in one move, so a failed export leaves no file behind and
an earlier file as it was. Three steps are compared, each with the one before: the float32 graph with the source, and
FP16 or INT8 with the float32 graph.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from rtmpose_infer.cache import atomic_write
from rtmpose_infer.errors import ExportError, InputError, ModelError, ParityError
from rtmpose_infer.export.architecture import read_architecture
from rtmpose_infer.export.checkpoint import check_fit, load_checkpoint, load_into
from rtmpose_infer.export.deploy_graph import Suppression
from rtmpose_infer.export.describe import describe_network
from rtmpose_infer.export.mm_config import parse_config
from rtmpose_infer.export.onnx_graph import DEFAULT_OPSET, check_graph, check_opset
from rtmpose_infer.export.onnx_writer import GraphForm, set_spec, upgrade_model, with_open_batch, write_network
from rtmpose_infer.export.parity import (
    LIMITS_PX,
    Observation,
    ParityReport,
    compare,
    observe_model,
    observe_network,
    run_batches,
)
from rtmpose_infer.export.pictures import drawn_pictures, pictures_from_folder
from rtmpose_infer.export.precision import convert_to_fp16, float_activations, with_float_weights
from rtmpose_infer.model_spec import ModelFile, ModelSpec, load_model_file
from rtmpose_infer.skeletons import load_skeleton

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["ExportOptions", "ExportReport", "export"]

_log = logging.getLogger("rtmpose_infer.export")

Frames = npt.NDArray[np.uint8]

_PICTURES = {"pose": 32, "detection": 8, "one_stage": 8}
_DIM = 0.01
_CHECKPOINTS = {".pth", ".pt", ".ckpt"}
_SUPPRESSION = Suppression(score_threshold=0.05, iou_threshold=0.6)
_FLOAT_SHARES = (0.0, 0.1, 0.3)
_READING = ("weights", "prefix", "exp_on_reg", "share_conv")  # how a checkpoint is read
_SHAPING = ("opset", "batch", "vectors", "suppression")  # how a graph is built
_MEANINGLESS = {
    "pose": ("class_names", "suppression"),
    "detection": ("skeleton", "padding", "vectors", "boxes"),
    "one_stage": ("class_names", "padding", "vectors", "boxes"),
}


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a network is exported.

    Attributes:
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        raw: OpenMMLab's inputs and outputs in place of the deploy graph's.
        opset: Version of the operator set.
        batch: A fixed batch size; None leaves it open.
        vectors: Give the SimCC vectors as well, in the deploy graph of a pose network.
        suppression: Rule of the detectors' suppression in the graph.
        skeleton: Name or file of the skeleton, where the checkpoint does not say it.
        class_names: A detector's classes, likewise.
        padding: Box padding of the training, likewise.
        input_size_wh: Input size of a detector or of RTMO.
        weights: Name of the mapping in the checkpoint to take; by default the averaged weights.
        prefix: What stands before ``backbone.`` in the checkpoint's keys; found out by default.
        exp_on_reg: Overrides RTMDet's switch.
        share_conv: Overrides RTMDet's switch.
        calibration: Folder of photographs of what the network is for; needed by INT8, and used by the parity gate.
        boxes: COCO annotation file with the persons in these photographs, for pose networks.
        parity_limit_px: Largest displacement (99th percentile) the gate lets pass; None: 0.05 px for FP32, 0.5 px for
            FP16, 2 px for INT8.

    Raises:
        InputError: An option is out of range, or lacks another that it needs.
    """

    precision: str = "fp32"
    raw: bool = False
    opset: int = DEFAULT_OPSET
    batch: int | None = None
    vectors: bool = False
    suppression: Suppression = _SUPPRESSION
    skeleton: str | Path | None = None
    class_names: Sequence[str] | None = None
    padding: float | None = None
    input_size_wh: tuple[int, int] | None = None
    weights: str | None = None
    prefix: str | None = None
    exp_on_reg: bool | None = None
    share_conv: bool | None = None
    calibration: str | Path | None = None
    boxes: str | Path | None = None
    parity_limit_px: float | None = None

    def __post_init__(self) -> None:
        if self.precision not in LIMITS_PX:
            raise InputError(f"precision must be one of {', '.join(LIMITS_PX)}, got {self.precision!r}.")
        check_opset(self.opset)
        if self.batch is not None and self.batch < 1:
            raise InputError(f"batch must be at least 1, got {self.batch}.")
        if self.parity_limit_px is not None and not self.parity_limit_px > 0:
            raise InputError(f"the parity limit must be above 0 px, got {self.parity_limit_px}.")
        if self.precision == "int8" and self.calibration is None:
            raise InputError(
                "INT8 needs photographs of what the network is for: pass calibration (--calibration FOLDER)."
            )
        if self.boxes is not None and self.calibration is None:
            raise InputError("boxes are of the persons in the calibration pictures; pass their folder too.")

    def refuse(self, names: Sequence[str], why: str) -> None:
        """Raise an error if one of these options was set, rather than leave it without effect.

        Raises:
            InputError: One of them has another value than its default.
        """
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        idle = [name for name in names if getattr(self, name) != defaults[name]]
        if idle:
            raise InputError(f"{' and '.join(idle)} cannot be set: {why}.")


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        path: The file.
        spec: What it says of itself.
        name: What the network is, such as ``"rtmpose-m"``.
        assumed: What neither the checkpoint nor the caller said.
        parity: The comparisons that were passed.
        notes: What else the user should know, such as the share of INT8.
    """

    path: Path
    spec: ModelSpec
    name: str
    assumed: tuple[str, ...]
    parity: tuple[ParityReport, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Source:
    """The float32 model, and what its source says about pictures."""

    model: onnx.ModelProto
    spec: ModelSpec
    name: str
    assumed: tuple[str, ...]
    parity: tuple[ParityReport, ...]
    frames: Frames


def export(source: str | Path, output: str | Path, options: ExportOptions | None = None) -> ExportReport:
    """Write a network as a self-describing file, after the parity gate.

    Args:
        source: A checkpoint of the family (``.pth``), a published ONNX file, or an MMDeploy SDK folder or zip.
        output: The file to write: ``.onnx``, or ``.param`` for ncnn (its ``.bin`` and ``.json`` beside it).
        options: How.

    Raises:
        CheckpointError: The checkpoint is broken, hostile, or of no network of the family.
        ModelError: The ONNX file is broken or not understood.
        ParityError: The exported network does not compute what the source computes; no file is written.
        ExportError: The network cannot be written in this form.
        InputError: An option is wrong, or the calibration folder holds no pictures.
    """
    source, output = Path(source), Path(output)
    options = options or ExportOptions()
    if output.suffix not in {".onnx", ".param"}:
        raise InputError(f"the output must end in .onnx, or in .param for ncnn, got {output.name!r}.")
    if not output.parent.is_dir():
        raise InputError(f"there is no folder {output.parent} to write {output.name} to.")
    _refuse_to_replace(source, output)
    if output.suffix == ".param":
        return _export_ncnn(source, output, options)
    made = _from_checkpoint(source, options) if source.suffix in _CHECKPOINTS else _from_onnx(source, options)
    model, spec, parity, notes = _in_precision(made, options)
    spec = dataclasses.replace(spec, parity={p.reference: p.to_metadata() for p in parity})
    set_spec(model, spec)
    check_graph(model, full=True)
    _write(model, output)
    return ExportReport(output, spec, made.name, made.assumed, parity, notes)


def _refuse_to_replace(source: Path, output: Path) -> None:
    read = (source, *(source.iterdir() if source.is_dir() else ()))
    written = (
        (output, output.with_suffix(".bin"), output.with_suffix(".json")) if output.suffix == ".param" else (output,)
    )
    for path in written:
        if path.exists() and any(path.samefile(other) for other in read if other.exists()):
            raise InputError(
                f"{path} is what is exported, and would be replaced by what is made of it; name another file."
            )


def _from_checkpoint(path: Path, options: ExportOptions) -> _Source:
    checkpoint = load_checkpoint(path, weights=options.weights, prefix=options.prefix)
    config = _config(checkpoint.meta)
    architecture = read_architecture(
        checkpoint.tensors,
        config,
        input_size_wh=options.input_size_wh,
        exp_on_reg=options.exp_on_reg,
        share_conv=options.share_conv,
    )
    with torch.device("meta"):  # without memory: what a damaged file announces may be larger than any
        check_fit(architecture.build(), checkpoint.tensors)
    network = architecture.build()
    load_into(network, checkpoint.tensors)
    sigmas = checkpoint.tensors.get("head.loss_oks.sigmas")
    spec, assumed = describe_network(
        architecture,
        checkpoint.meta,
        config,
        sigmas=None if sigmas is None else sigmas.tolist(),
        skeleton=None if options.skeleton is None else load_skeleton(options.skeleton),
        class_names=options.class_names,
        padding=options.padding,
        source_sha256=checkpoint.sha256,
    )
    options.refuse(_MEANINGLESS[spec.task], f"{path.name} holds a {spec.task} network")
    frames = _pictures(spec, options)
    rule = None if spec.task == "pose" else options.suppression
    model, written = write_network(network, architecture, spec, _form(options, spec))
    seen = observe_network(network, architecture, spec, frames, rule=rule)
    if seen.saturated and options.calibration is None:
        frames = drawn_pictures(spec, _PICTURES[spec.task], brightness=_DIM)
        seen = observe_network(network, architecture, spec, frames, rule=rule)
    report = _compared(seen, model, written, frames, "pytorch", "fp32", options)
    return _Source(model, written, architecture.name, assumed, (report,), frames)


def _from_onnx(path: Path, options: ExportOptions) -> _Source:
    options.refuse(_READING, f"{path.name} is no checkpoint")
    file = _model_file(path, options)
    try:
        source = onnx.load_from_string(file.data) if isinstance(file.data, bytes) else onnx.load(str(file.data))
    except Exception as error:
        raise ModelError(f"cannot read {path}: {error}. Download or export it again.") from error
    spec = file.spec if file.spec.source_sha256 else dataclasses.replace(file.spec, source_sha256=_sha256(file))
    options.refuse(_MEANINGLESS[spec.task], f"{path.name} holds a {spec.task} network")
    frames = _pictures(spec, options)
    deploy = spec.input_format == "nhwc_uint8"
    if deploy and options.raw:
        raise ExportError(f"{path} is a deploy graph; the raw form is made from the checkpoint.")
    if deploy or options.raw:
        options.refuse(_SHAPING, f"{path.name} has this form already, and its graph is kept; export the checkpoint")
        return _Source(source, spec, path.stem, (), (), frames)
    if spec.head == "nms":
        options.refuse(("suppression",), f"{path.name} suppresses in its own graph; export the checkpoint")
    rule = None if spec.task == "pose" else options.suppression
    seen = observe_model(source, spec, frames, rule=rule)
    # A published graph with its own suppression is left as it is: its boxes of a batch may be mixed up afterwards.
    opened = with_open_batch(source) if options.batch != 1 and spec.head != "nms" else None
    if opened is not None:
        try:
            return _upgraded(opened, spec, path.stem, seen, frames, options)
        except (ParityError, ExportError) as error:
            if options.batch is not None:
                raise
            _log.info("the batch of %s stays one: %s", path.name, error)
    return _upgraded(source, spec, path.stem, seen, frames, options)


def _upgraded(
    source: onnx.ModelProto, spec: ModelSpec, name: str, seen: Observation, frames: Frames, options: ExportOptions
) -> _Source:
    model, written = upgrade_model(source, spec, _form(options, spec))
    report = _compared(seen, model, written, frames, "source onnx", "fp32", options)
    return _Source(model, written, name, (), (report,), frames)


def _in_precision(
    made: _Source, options: ExportOptions
) -> tuple[onnx.ModelProto, ModelSpec, tuple[ParityReport, ...], tuple[str, ...]]:
    if options.precision == "fp32":
        return made.model, made.spec, made.parity, ()
    made = dataclasses.replace(made, model=with_float_weights(made.model))
    rule = None if made.spec.task == "pose" else options.suppression
    seen = observe_model(made.model, made.spec, made.frames, rule=rule)
    spec = dataclasses.replace(made.spec, precision=options.precision)
    if options.precision == "fp16":
        model, report, notes = _in_half(made, spec, seen, options)
        return model, spec, (*made.parity, report), notes
    from rtmpose_infer.export.quantization import quantize_to_int8

    limit_px = options.parity_limit_px or LIMITS_PX["int8"]
    model, int8 = quantize_to_int8(made.model, made.spec, made.frames, limit_px=limit_px)
    note = f"{int8.quantized} of {int8.total} convolutions in INT8, {int8.arithmetic:.0%} of the multiplications"
    report = _compared(seen, model, spec, made.frames, "fp32 onnx", "int8", options)
    return model, spec, (*made.parity, report), (note,)


def _in_half(
    made: _Source, spec: ModelSpec, seen: Observation, options: ExportOptions
) -> tuple[onnx.ModelProto, ParityReport, tuple[str, ...]]:
    """Return the model with as much in FP16 as the parity gate lets pass."""
    largest = _largest_activations(made)
    failures: list[ParityError] = []
    for share in _FLOAT_SHARES:
        model = convert_to_fp16(made.model, largest, float_share=share)
        try:
            report = _compared(seen, model, spec, made.frames, "fp32 onnx", "fp16", options)
        except ParityError as error:
            failures.append(error)
            continue
        return model, report, (f"the first {share:.0%} of the layers stay in float32",) if share else ()
    raise failures[0]


def _compared(
    reference: Observation,
    model: onnx.ModelProto,
    spec: ModelSpec,
    frames: Frames,
    name: str,
    precision: str,
    options: ExportOptions,
) -> ParityReport:
    rule = None if spec.task == "pose" else options.suppression
    limit = LIMITS_PX[precision]
    if options.parity_limit_px is not None and precision == options.precision:
        limit = options.parity_limit_px
    return compare(
        reference,
        observe_model(model, spec, frames, rule=rule),
        name=name,
        pictures=len(frames),
        real=options.calibration is not None,
        limit_px=limit,
        rule=rule if precision == "fp32" and not options.raw and spec.task == "detection" else None,
    )


def _largest_activations(made: _Source) -> dict[str, float]:
    """Return the largest magnitude of every float tensor over the pictures, batch by batch."""
    names = sorted(float_activations(made.model))
    largest: dict[str, float] = {}
    for outputs in run_batches(made.model, made.spec, made.frames, extra=names):
        for name, values in outputs.items():
            if values.dtype.kind == "f" and values.size:
                largest[name] = max(largest.get(name, 0.0), float(np.abs(values).max()))
    return largest


def _form(options: ExportOptions, spec: ModelSpec) -> GraphForm:
    return GraphForm(
        raw=options.raw,
        opset=options.opset,
        batch=options.batch,
        vectors=options.vectors,
        suppression=None if spec.task == "pose" else options.suppression,
    )


def _pictures(spec: ModelSpec, options: ExportOptions) -> Frames:
    if options.calibration is None:
        return drawn_pictures(spec, _PICTURES[spec.task])
    limit = 300 if options.precision == "int8" else _PICTURES[spec.task]
    return pictures_from_folder(options.calibration, spec, boxes=options.boxes, limit=limit)


def _config(meta: Mapping[str, Any]) -> dict[str, Any]:
    text = meta.get("cfg") or meta.get("config")
    return parse_config(text) if isinstance(text, str) else {}


def _model_file(path: Path, options: ExportOptions) -> ModelFile:
    known = {"skeleton": options.skeleton, "padding": options.padding, "input_size_wh": options.input_size_wh}
    if options.class_names is not None:
        known["class_names"] = tuple(options.class_names)  # type: ignore[assignment]
    *others, last = _PICTURES
    found = (_file_of_task(path, task, known) for task in others)
    return next((file for file in found if file is not None), None) or load_model_file(path, task=last, **known)


def _file_of_task(path: Path, task: str, known: Mapping[str, Any]) -> ModelFile | None:
    """Return the file, or ``None`` where it says of itself, or shows by its outputs, that it is of another task."""
    try:
        return load_model_file(path, task=task, **known)
    except ModelError as error:
        if f"a {task} model is needed" not in str(error):
            raise
        return None


def _sha256(file: ModelFile) -> str:
    data = file.data if isinstance(file.data, bytes) else file.data.read_bytes()
    return hashlib.sha256(data).hexdigest()


def _export_ncnn(source: Path, output: Path, options: ExportOptions) -> ExportReport:
    from rtmpose_infer.export.ncnn import ncnn_from_onnx

    if options.precision == "int8":
        raise InputError("ncnn files are written with FP16 or float32 weights; leave out --precision int8.")
    options.refuse(("raw", "batch", "vectors"), f"{output.name} is for ncnn, whose networks have one form")
    limit_px, half = options.parity_limit_px, options.precision == "fp16"
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        # What is allowed to FP16 weights is not allowed to the float32 graph that they come from.
        deploy = dataclasses.replace(options, precision="fp32", parity_limit_px=None if half else limit_px)
        report = export(source, model, deploy)
        written = ncnn_from_onnx(
            model,
            output,
            spec=report.spec,
            half=True if half else None,
            pictures=None if options.calibration is None else _pictures(report.spec, options),
            parity_limit_px=limit_px or LIMITS_PX["fp16"],
        )
    return dataclasses.replace(report, path=written.param, notes=(*report.notes, f"weights in {written.weights.name}"))


def _write(model: onnx.ModelProto, output: Path) -> None:
    try:
        atomic_write(output, model.SerializeToString())
    except OSError as error:
        raise ExportError(f"cannot write {output}: {error.strerror or error}.") from error
