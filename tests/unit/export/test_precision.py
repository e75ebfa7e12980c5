"""Half precision: which layers are converted, and that every tensor of the result has one type."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the exporter needs the export extra")
onnx = pytest.importorskip("onnx", reason="the exporter needs the export extra")

from rtmpose_infer.export.architecture import read_architecture  # noqa: E402
from rtmpose_infer.export.deploy_graph import Suppression  # noqa: E402
from rtmpose_infer.export.describe import describe_network  # noqa: E402
from rtmpose_infer.export.networks.rtmdet import RTMDet  # noqa: E402
from rtmpose_infer.export.onnx_writer import GraphForm, write_network  # noqa: E402
from rtmpose_infer.export.precision import convert_to_fp16, float_activations, trunk_nodes  # noqa: E402


@pytest.fixture(scope="module")
def detector() -> onnx.ModelProto:
    network = RTMDet(deepen_factor=0.167, widen_factor=0.125, num_classes=1, exp_on_reg=False).eval()
    architecture = read_architecture(network.state_dict(), {}, input_size_wh=(64, 64), exp_on_reg=False)
    spec, _ = describe_network(architecture, {}, {}, class_names=["person"])
    rule = Suppression(score_threshold=0.05, iou_threshold=0.6)
    return write_network(network, architecture, spec, GraphForm(suppression=rule))[0]


def halves(model: onnx.ModelProto) -> set[str]:
    """Return the convolutions that read a weight in float16."""
    weights = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
    return {n.name for n in model.graph.node if n.op_type == "Conv" and n.input[1] in weights}


def convolutions(model: onnx.ModelProto) -> list[str]:
    return [node.name for node in model.graph.node if node.op_type == "Conv"]


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_every_tensor_has_one_type_and_the_borders_keep_theirs(detector: onnx.ModelProto, share: float) -> None:
    half = convert_to_fp16(detector, float_share=share)
    onnx.checker.check_model(half, full_check=True)  # infers the type of every tensor, strictly
    assert [v.type for v in half.graph.input] == [v.type for v in detector.graph.input]
    assert [v.type.tensor_type.elem_type for v in half.graph.output] == [
        v.type.tensor_type.elem_type for v in detector.graph.output
    ]
    assert len(float_activations(half)) < len(float_activations(detector))


def test_a_detectors_predictions_stay_in_float(detector: onnx.ModelProto) -> None:
    pointwise = {t.name: t.dims[0] for t in detector.graph.initializer if t.dims[2:] == [1, 1]}
    last = {n.name for n in detector.graph.node if n.op_type == "Conv" and pointwise.get(n.input[1]) in {1, 4}}
    assert len(last) == 6  # a class and four distances, three times
    assert halves(convert_to_fp16(detector)) == set(convolutions(detector)) - last
    assert not last & trunk_nodes(detector.graph)


def test_what_stays_in_float_is_the_networks_beginning(detector: onnx.ModelProto) -> None:
    everything = [name for name in convolutions(detector) if name in halves(convert_to_fp16(detector))]
    some = halves(convert_to_fp16(detector, float_share=0.3))
    kept = [name for name in everything if name not in some]
    assert 0 < len(kept) < len(everything)
    assert kept == everything[: len(kept)]


def test_a_layer_that_comes_near_overflow_stays_in_float(detector: onnx.ModelProto) -> None:
    hot = convolutions(detector)[2]
    converted = halves(convert_to_fp16(detector, {hot: 60000.0}))
    assert hot not in converted
    assert converted


def test_a_weight_beyond_half_precision_keeps_its_layer_in_float(detector: onnx.ModelProto) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(detector)
    node = next(n for n in model.graph.node if n.op_type == "Conv")
    tensor = next(t for t in model.graph.initializer if t.name == node.input[1])
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[0] = 1e5
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    half = convert_to_fp16(model)
    assert node.name not in halves(half)
    assert all(np.isfinite(onnx.numpy_helper.to_array(t)).all() for t in half.graph.initializer)
