"""INT8: which layers are quantised, how, and which stay in float because measurement says so.

ONNX Runtime's static quantiser calibrates the ranges and writes the quantise/dequantise pairs. Three things are added to
it, each because it was measured on trained networks of this family (benchmarks/export has the figures):

- Depthwise convolutions stay in float. They hold a tenth of the arithmetic and cause most of the error: a per-tensor
  activation scale leaves their quiet channels with two or three bits.
- The output of a convolution is not quantised, the input of the next one is. Between them lies a SiLU, whose input needs
  more range than its output.
- Bias correction (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019): each
  quantised convolution's mean output error, channel by channel, is added to its bias. It halves the error and removes the
  drift of the scores.

What then still exceeds the limit is found by quantising one group of layers at a time; the groups that cost most per
multiplication return to float until the limit holds.
"""

from __future__ import annotations

import logging
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from rtmpose_infer.errors import BackendUnavailableError, ExportError
from rtmpose_infer.export.onnx_graph import check_graph
from rtmpose_infer.export.parity import Observation, displacements, observe_model, run_batches, run_model
from rtmpose_infer.export.precision import trunk_nodes
from rtmpose_infer.preprocess import InputBuffer

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from rtmpose_infer.model_spec import ModelSpec

__all__ = ["Int8Report", "quantize_to_int8"]

_log = logging.getLogger("rtmpose_infer.export")

_MOST_GROUPS = 40
_SEARCH_PICTURES = {"pose": 48, "detection": 12, "one_stage": 12}
_MARGIN = 0.8
_SAMPLES = 4096

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Int8Report:
    """What became of the layers.

    Attributes:
        quantized: Convolutions in INT8.
        total: Convolutions in all.
        arithmetic: Share of all multiplications that is in INT8, 0 to 1.
    """

    quantized: int
    total: int
    arithmetic: float


def quantize_to_int8(
    model: onnx.ModelProto, spec: ModelSpec, calibration: Frames, *, limit_px: float
) -> tuple[onnx.ModelProto, Int8Report]:
    """Return the model with its dense convolutions in INT8, as far as ``limit_px`` allows.

    Args:
        model: In float32.
        spec: What it wants and gives.
        calibration: ``[N, H, W, 3]`` uint8 BGR inputs, photographs of what the network is for.
        limit_px: Displacement (99th percentile) that the result must stay within on the calibration pictures.

    Raises:
        ExportError: The model has nothing to quantise, or no choice of layers keeps the limit.
        BackendUnavailableError: ONNX Runtime's quantiser is not installed.
    """
    model = _with_named_nodes(model)
    sizes = _multiplications(model, spec, calibration[:1])
    chosen = _quantizable(model.graph)
    if not chosen:
        raise ExportError("the model has no dense convolutions to quantise.")
    quantized = _corrected(model, _calibrated(model, spec, chosen, calibration), spec, calibration[:64])
    pictures = _spread(calibration, _SEARCH_PICTURES[spec.task])
    reference = observe_model(model, spec, pictures)
    search = _Search(model, quantized, spec, pictures, reference, limit_px * _MARGIN)
    kept_float: set[str] = set()
    if search.error(kept_float) > search.limit_px:
        kept_float = search.layers_to_keep(chosen, sizes)
    result = _in_float(quantized, model, kept_float)
    remaining = [name for name in chosen if name not in kept_float]
    share = sum(sizes[name] for name in remaining) / sum(sizes.values())
    _log.info("%d of %d convolutions are in INT8, %.0f %% of the arithmetic.", len(remaining), len(sizes), 100 * share)
    check_graph(result)
    return result, Int8Report(len(remaining), len(sizes), share)


class _Search:
    """Finds the layers that must stay in float for the displacement to stay within a limit."""

    def __init__(
        self,
        model: onnx.ModelProto,
        quantized: onnx.ModelProto,
        spec: ModelSpec,
        pictures: Frames,
        reference: Observation,
        limit_px: float,
    ) -> None:
        self.limit_px = limit_px
        self._model = model
        self._quantized = quantized
        self._spec = spec
        self._pictures = pictures
        self._reference = reference

    def error(self, kept_float: Collection[str]) -> float:
        """Return the 99th percentile of the displacement with these layers in float."""
        return float(np.percentile(displacements(self._reference, self._observe(kept_float))[0], 99))

    def layers_to_keep(self, chosen: Sequence[str], sizes: dict[str, float]) -> set[str]:
        """Return the layers to keep in float, as few multiplications of them as it takes."""
        groups = list(_groups(chosen))
        costs = []
        for group in groups:
            deviation = self._deviation([name for name in chosen if name not in group])
            costs.append(deviation / math.sqrt(sum(sizes[name] for name in group)))
        order = np.argsort(costs)[::-1]
        low, high = 0, len(groups)  # keeping none is known to fail, keeping all is the float model
        while high - low > 1:
            middle = (low + high) // 2
            kept = {name for i in order[:middle] for name in groups[i]}
            if self.error(kept) > self.limit_px:
                low = middle
            else:
                high = middle
        if high == len(groups):
            raise ExportError(
                "no layer of this network can be quantised within the limit. Export it as fp16, or allow more with "
                "--parity-limit."
            )
        return {name for i in order[:high] for name in groups[i]}

    def _deviation(self, kept_float: Collection[str]) -> float:
        """Return how far the network's answers are from the reference's, smoothly, where joints or boxes are clear."""
        seen = self._observe(kept_float)
        clear = self._reference.clear
        if self._reference.vectors is not None and seen.vectors is not None:
            total = 0.0
            for ours, theirs in zip(self._reference.vectors, seen.vectors, strict=True):
                right = ours.reshape(-1, ours.shape[-1])[clear]
                apart = np.abs(right - theirs.reshape(-1, ours.shape[-1])[clear]).max(axis=1)
                total += float((apart / np.maximum(right.max(axis=1) - np.median(right, axis=1), 1e-9)).mean())
            return total
        moved, _ = displacements(self._reference, seen)
        return float(np.minimum(moved, 8).mean())

    def _observe(self, kept_float: Collection[str]) -> Observation:
        return observe_model(_in_float(self._quantized, self._model, kept_float), self._spec, self._pictures)


def _groups(names: Sequence[str]) -> Iterator[list[str]]:
    """Yield runs of consecutive layers, at most ``_MOST_GROUPS`` of them."""
    length = -(-len(names) // _MOST_GROUPS)
    for start in range(0, len(names), length):
        yield list(names[start : start + length])


def _spread(frames: Frames, count: int) -> Frames:
    return np.asarray(frames[np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)])


def _with_named_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which every node has a name of its own."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        node.name = str(node.output[0])
    return copy


def _convolutions(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, npt.NDArray[Any]]]:
    weights = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] in weights:
            yield node, numpy_helper.to_array(weights[node.input[1]])


def _quantizable(graph: onnx.GraphProto) -> list[str]:
    """Return the dense convolutions of the trunk, but for the first (it reads pixels) and those on pooled vectors."""
    trunk = trunk_nodes(graph)
    pooled = {
        name for node in graph.node if "Pool" in node.op_type and "Max" not in node.op_type for name in node.output
    }
    names = []
    for node, weight in _convolutions(graph):
        group = next((a.i for a in node.attribute if a.name == "group"), 1)
        if node.output[0] in trunk and group == 1 and weight.shape[1] > 3 and node.input[0] not in pooled:
            names.append(str(node.name))
    return names


def _multiplications(model: onnx.ModelProto, spec: ModelSpec, frame: Frames) -> dict[str, float]:
    """Return the multiplications of every convolution for one picture."""
    layers = list(_convolutions(model.graph))
    outputs = run_model(model, spec, frame, extra=[str(node.output[0]) for node, _ in layers])
    return {str(node.name): float(weight[0].size * outputs[node.output[0]][0].size) for node, weight in layers}


def _ranges(model: onnx.ModelProto, spec: ModelSpec, names: Sequence[str], frames: Frames) -> dict[str, float]:
    """Return, for the input of each convolution, the magnitude to clip at that gives the least squared error."""
    sources = sorted({str(node.input[0]) for node, _ in _convolutions(model.graph) if node.name in set(names)})
    rng = np.random.default_rng(0)
    samples: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in sources}
    peaks = dict.fromkeys(sources, 0.0)
    for outputs in run_batches(model, spec, frames, extra=sources, batch=1):
        for name in sources:
            values = outputs[name].reshape(-1)
            peaks[name] = max(peaks[name], float(np.abs(values).max()))
            samples[name].append(values[rng.integers(0, values.size, _SAMPLES)])
    return {name: _clipping(np.concatenate(samples[name]), peaks[name]) for name in sources}


def _clipping(values: npt.NDArray[np.float32], peak: float) -> float:
    best, least = peak, math.inf
    for limit in peak * np.linspace(0.1, 1, 46):
        step = max(limit, 1e-9) / 127
        error = float(((np.clip(np.round(values / step), -127, 127) * step - values) ** 2).mean())
        if error < least:
            best, least = float(limit), error
    return max(best, 1e-6)


def _calibrated(model: onnx.ModelProto, spec: ModelSpec, names: Sequence[str], frames: Frames) -> onnx.ModelProto:
    """Return the model with these convolutions quantised by ONNX Runtime's static quantiser, within our ranges."""
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise BackendUnavailableError(
            "INT8 needs ONNX Runtime's quantiser; pip install 'rtmpose-infer[export]'."
        ) from error

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Feeds one batch: the ranges are given, but the quantiser wants to have seen data."""

        def __init__(self) -> None:
            source = model.graph.input[0]
            batch = source.type.tensor_type.shape.dim[0].dim_value or 1
            buffer = InputBuffer(spec)
            buffer.pictures(batch)[:] = frames[:1]
            self._feeds = iter([{source.name: buffer.tensor(batch)}])

        def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
            return next(self._feeds, None)

    overrides = {
        name: [{"rmin": np.float32(-limit), "rmax": np.float32(limit), "symmetric": True}]
        for name, limit in _ranges(model, spec, names, frames).items()
    }
    with tempfile.TemporaryDirectory(prefix="rtmpose_infer_") as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        root = logging.getLogger()
        level, root.level = root.level, logging.ERROR  # its advice on pre-processing does not concern these graphs
        try:
            quantization.quantize_static(
                source,
                target,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                calibrate_method=quantization.CalibrationMethod.MinMax,
                nodes_to_quantize=list(names),
                op_types_to_quantize=["Conv"],
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "OpTypesToExcludeOutputQuantization": ["Conv"],
                    "TensorQuantOverrides": overrides,
                },
            )
        finally:
            root.level = level
        return onnx.load(target)


def _corrected(model: onnx.ModelProto, quantized: onnx.ModelProto, spec: ModelSpec, frames: Frames) -> onnx.ModelProto:
    """Add each quantised convolution's mean output error to its bias.

    Both convolutions run side by side on the float network's activations, so that each layer answers for its own error.
    """
    originals = {str(node.name): node for node, _ in _convolutions(model.graph)}
    added, means = [], {}
    producers = {output: node for node in quantized.graph.node for output in node.output}
    taken: set[str] = set()
    for node in quantized.graph.node:
        if node.op_type != "Conv" or not _is_dequantized(node, producers):
            continue
        for name in (*_feeding(node.input[0], producers), *_feeding(node.input[1], producers)):
            if name not in taken:
                taken.add(name)
                added.append(producers[name])
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        twin.name += "/int8"
        twin.output[0] += "/int8"
        error = f"{node.output[0]}/error"
        means[str(node.name)] = f"{error}/mean"
        axes: dict[str, Any] = {"axes": [0, 2, 3]} if model.opset_import[0].version < 18 else {}
        reduced = [error] if axes else [error, "rtmpose_infer/spatial_axes"]
        added += [
            twin,
            helper.make_node("Sub", [originals[node.name].output[0], twin.output[0]], [error]),
            helper.make_node("ReduceMean", reduced, [f"{error}/mean"], keepdims=1, **axes),
        ]
    both = onnx.ModelProto()
    both.CopyFrom(model)
    both.graph.node.extend(added)
    known = {t.name for t in both.graph.initializer}
    both.graph.initializer.extend(t for t in quantized.graph.initializer if t.name not in known)
    both.graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 3], np.int64), "rtmpose_infer/spatial_axes"))
    seen: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in means}
    for outputs in run_batches(both, spec, frames, extra=list(means.values()), batch=1):
        for name, tensor in means.items():
            seen[name].append(outputs[tensor].reshape(-1))
    return _with_biases(quantized, {name: np.mean(values, axis=0) for name, values in seen.items()})


def _with_biases(model: onnx.ModelProto, shifts: dict[str, npt.NDArray[np.float32]]) -> onnx.ModelProto:
    weights = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        shift = shifts.get(node.name)
        if shift is None:
            continue
        name = f"{node.name}/corrected_bias"
        own = numpy_helper.to_array(weights[node.input[2]]) if len(node.input) > 2 else 0
        model.graph.initializer.append(numpy_helper.from_array((own + shift).astype(np.float32), name))
        if len(node.input) > 2:
            node.input[2] = name
        else:
            node.input.append(name)
    return model


def _is_dequantized(node: onnx.NodeProto, producers: dict[str, onnx.NodeProto]) -> bool:
    return all(name in producers and producers[name].op_type == "DequantizeLinear" for name in node.input[:2])


def _feeding(name: str, producers: dict[str, onnx.NodeProto]) -> list[str]:
    """Return the outputs of the quantise and dequantise nodes in front of a tensor, in order."""
    chain: list[str] = []
    while name in producers and producers[name].op_type in {"QuantizeLinear", "DequantizeLinear"}:
        chain.insert(0, name)
        name = producers[name].input[0]
    return chain


def _in_float(quantized: onnx.ModelProto, model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """Return the quantised model with some convolutions as they were in ``model``."""
    originals = {str(node.name): node for node in model.graph.node}
    result = onnx.ModelProto()
    result.CopyFrom(quantized)
    for node in result.graph.node:
        if node.name in names:
            node.CopyFrom(originals[node.name])
    needed = {value.name for value in result.graph.output}
    nodes = []
    for node in reversed(result.graph.node):
        if not needed.isdisjoint(node.output):
            nodes.append(node)
            needed.update(node.input)
    nodes.reverse()
    known = {t.name for t in result.graph.initializer}
    tensors = [*result.graph.initializer, *(t for t in model.graph.initializer if t.name not in known)]
    final = onnx.ModelProto()
    final.CopyFrom(result)
    del final.graph.node[:], final.graph.initializer[:], final.graph.value_info[:]
    final.graph.node.extend(nodes)
    final.graph.initializer.extend(t for t in tensors if t.name in needed)
    return final
