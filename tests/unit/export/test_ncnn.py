"""The way to ncnn: what is cut off a graph, what is put in another form, and that nothing wrong gets through."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the export extra is not installed")
pytest.importorskip("onnxruntime", reason="the cpu extra is not installed")
pytest.importorskip("ncnn", reason="the ncnn extra is not installed")

import onnx
from onnx import TensorProto, helper, numpy_helper

from rtmpose_infer.backends import load_backend
from rtmpose_infer.errors import BackendUnavailableError, ExportError, ModelError, ParityError
from rtmpose_infer.export import ncnn as export
from rtmpose_infer.export.ncnn import bare_network, ncnn_from_onnx
from rtmpose_infer.model_spec import METADATA_KEY, ModelSpec, load_model_file
from tests.contract import models
from tests.tiny_onnx import light_detector

try:
    export._converter()
except BackendUnavailableError:
    pytest.skip("pnnx is not installed", allow_module_level=True)

SIZE = 32
DETECTOR_SPEC = ModelSpec(task="detection", head="rtmdet", input_size_wh=(SIZE, SIZE))


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime

    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)


def built(nodes, source, outputs, weights, path: Path, spec: ModelSpec) -> Path:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info(
                source, TensorProto.FLOAT, [1, 3, spec.input_size_wh[1], spec.input_size_wh[0]]
            )
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.save(model, path)
    return path


def tiny_rtmdet(path: Path, *, scale: float = 1.0) -> Path:
    """A detector with one level: class logits, then distances, of cells of 8 pixels."""
    rng = np.random.default_rng(0)
    weights = {
        "w": (rng.normal(0, 0.02, (5, 3, 8, 8)) * scale).astype(np.float32),
        "b": np.zeros(5, np.float32),
        "parts": np.array([1, 4]),
        "back": np.float32(1 / scale),
    }
    nodes = [
        helper.make_node("Conv", ["input", "w", "b"], ["maps"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Mul", ["maps", "back"], ["all"]),
        helper.make_node("Split", ["all", "parts"], ["logits", "distances"], axis=1),
    ]
    return built(nodes, "input", ["logits", "distances"], weights, path, DETECTOR_SPEC)


# ---------------------------------------------------------------------------------------------------- bare networks


def test_a_deploy_graph_is_cut_to_float_planes_and_vectors(tmp_path: Path) -> None:
    file = models.deploy_pose(tmp_path / "deploy.onnx")
    bare, spec = bare_network(onnx.load(file.data), file.spec)
    assert (spec.head, spec.input_format, spec.colour, spec.mean, spec.std) == (
        "simcc",
        "nchw_float32",
        "bgr",
        (0, 0, 0),
        (1, 1, 1),
    )
    picture = models.pictures(1)
    x, y = run(bare, {bare.graph.input[0].name: picture.transpose(0, 3, 1, 2).astype(np.float32)})
    places = np.stack([x.argmax(axis=2), y.argmax(axis=2)], axis=2)
    np.testing.assert_array_equal(places, models.deploy_answer(picture)["keypoints"])
    assert not {"ArgMax", "Cast", "Transpose"} & {node.op_type for node in bare.graph.node}
    assert ModelSpec.from_json(bare.metadata_props[0].value) == spec


def test_a_channel_swap_behind_the_cast_goes_into_the_spec(tmp_path: Path) -> None:
    file = models.deploy_pose(tmp_path / "deploy.onnx")
    model = onnx.load(file.data)
    swap = helper.make_node("Gather", ["planes", "order"], ["swapped"], axis=1)
    model.graph.node.insert(2, swap)
    model.graph.node[3].input[0] = "swapped"
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), "order"))
    picture = models.pictures(1)
    expected = run(model, {"frames_u8": picture})[0]
    bare, spec = bare_network(model, file.spec)
    assert spec.colour == "rgb"
    assert "Gather" not in {node.op_type for node in bare.graph.node}
    x, y = run(bare, {bare.graph.input[0].name: picture[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)})
    np.testing.assert_array_equal(np.stack([x.argmax(axis=2), y.argmax(axis=2)], axis=2), expected)


def test_the_maps_of_a_detectors_deploy_graph_come_back(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the export extra is not installed")
    from rtmpose_infer.export.deploy_graph import Suppression
    from rtmpose_infer.export.onnx_writer import GraphForm, upgrade_model

    raw = onnx.load(tiny_rtmdet(tmp_path / "raw.onnx"))
    form = GraphForm(suppression=Suppression(score_threshold=0.3, iou_threshold=0.55))
    deploy, deploy_spec = upgrade_model(raw, DETECTOR_SPEC, form)
    bare, spec = bare_network(deploy, deploy_spec)
    assert (spec.head, spec.input_format, spec.suppression_iou) == ("rtmdet", "nchw_float32", 0.55)
    planes = np.random.default_rng(1).uniform(0, 255, (1, 3, SIZE, SIZE)).astype(np.float32)
    for ours, source in zip(run(bare, {bare.graph.input[0].name: planes}), run(raw, {"input": planes}), strict=True):
        np.testing.assert_allclose(ours, source, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (ModelSpec(task="detection", head="nms", input_size_wh=(64, 64)), "needs its raw maps"),
        (ModelSpec(task="detection", head="yolox", input_size_wh=(64, 64)), "has no ncnn form"),
    ],
)
def test_networks_without_an_ncnn_form_are_refused(spec: ModelSpec, complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        bare_network(onnx.load_from_string(light_detector()), spec)


# --------------------------------------------------------------------------------------------------------- resizing


@pytest.mark.parametrize("mode", ["cubic", "linear"])
def test_a_resize_that_ncnn_lacks_becomes_matrix_products(mode: str) -> None:
    node = helper.make_node(
        "Resize", ["x", "", "scales"], ["y"], mode=mode, coordinate_transformation_mode="asymmetric"
    )
    graph = helper.make_graph(
        [node],
        "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 6, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 12, 40])],
        [numpy_helper.from_array(np.array([1, 1, 2, 8], np.float32), "scales")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    changed = export._with_matrices(model)
    assert [n.op_type for n in changed.graph.node] == ["MatMul", "MatMul"]
    x = np.random.default_rng(0).normal(0, 1, (1, 2, 6, 5)).astype(np.float32)
    np.testing.assert_allclose(run(changed, {"x": x})[0], run(model, {"x": x})[0], rtol=1e-4, atol=1e-5)


def test_a_resize_that_ncnn_has_stays(tmp_path: Path) -> None:
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 6, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 12, 10])],
        [numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    assert export._with_matrices(model) is model


# ------------------------------------------------------------------------------------------------------- conversion


def test_three_files_are_written_and_say_what_they_are(tmp_path: Path) -> None:
    source = models.raw_pose(tmp_path / "raw.onnx")
    written = ncnn_from_onnx(Path(source.data), tmp_path / "out" / "pose.param")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["pose.bin", "pose.json", "pose.param"]
    spec = load_model_file(written.param, task="pose").spec
    assert spec == dataclasses.replace(written.spec, parity=spec.parity)
    assert spec.precision == "fp16"
    assert spec.exporter.startswith("rtmpose_infer ")
    assert spec.parity["p99_px"] <= 0.5
    assert spec.parity["compared"] > 0
    full = ncnn_from_onnx(Path(source.data), tmp_path / "full.param", half=False)
    assert full.weights.stat().st_size > written.weights.stat().st_size
    assert full.spec.precision == "fp32"


def test_a_detector_keeps_the_order_of_its_maps(tmp_path: Path) -> None:
    source = tiny_rtmdet(tmp_path / "raw.onnx")
    written = ncnn_from_onnx(source, tmp_path / "det.param", task="detection", half=False)
    planes = np.random.default_rng(1).uniform(0, 255, (1, 3, SIZE, SIZE)).astype(np.float32)
    with load_backend(load_model_file(written.param, task="detection"), backend="ncnn") as backend:
        assert [t.shape for t in backend.outputs] == [(None, 1, 4, 4), (None, 4, 4, 4)]
        answers = list(backend.run({"in0": planes}).values())
    for ours, theirs in zip(answers, run(onnx.load(source), {"input": planes}), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_everything_behind_the_last_convolution_is_computed_in_float32(tmp_path: Path) -> None:
    source = models.raw_pose(tmp_path / "raw.onnx")
    lines = ncnn_from_onnx(Path(source.data), tmp_path / "pose.param").param.read_text().splitlines()[2:]
    kinds = [line.split()[0] for line in lines]
    last = kinds.index("Convolution")
    marked = [line.endswith(" 31=1") for line in lines]
    assert marked == [i > last and kind != "Split" for i, kind in enumerate(kinds)]
    assert any(marked)


def test_weights_that_half_precision_cannot_hold_stay_in_float32(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tiny_rtmdet(tmp_path / "raw.onnx", scale=1e7)  # beyond 65504
    written = ncnn_from_onnx(source, tmp_path / "det.param", task="detection")
    assert written.spec.precision == "fp32"
    assert "too coarse" in caplog.text
    with pytest.raises(ParityError, match=r"beyond 65504. No file was written\.$"):
        ncnn_from_onnx(source, tmp_path / "half.param", task="detection", half=True)
    assert not (tmp_path / "half.param").exists()


def test_a_conversion_that_computes_something_else_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The converter itself puts ncnn's nearest relative in the place of a resize that ncnn lacks."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(0, 1, (5, 3, 1, 1)).astype(np.float32),
        "scales": np.array([1, 1, 1, 4], np.float32),
        "axis": np.array([2]),
    }
    nodes = [helper.make_node("Conv", ["input", "w"], ["maps"])]
    for name, axis in (("simcc_x", 2), ("simcc_y", 3)):
        nodes += [
            helper.make_node("ReduceMax", ["maps"], [f"{name}_flat"], axes=[axis], keepdims=0),
            helper.make_node("Unsqueeze", [f"{name}_flat", "axis"], [f"{name}_row"]),
            helper.make_node(
                "Resize",
                [f"{name}_row", "", "scales"],
                [f"{name}_wide"],
                mode="cubic",
                coordinate_transformation_mode="asymmetric",
            ),
            helper.make_node("Squeeze", [f"{name}_wide", "axis"], [name]),
        ]
    spec = dataclasses.replace(models.RAW_SPEC, split_ratio=4.0)
    source = built(nodes, "input", ["simcc_x", "simcc_y"], weights, tmp_path / "raw.onnx", spec)
    assert ncnn_from_onnx(source, tmp_path / "right.param").spec.parity["p99_px"] <= 0.25
    monkeypatch.setattr(export, "_with_matrices", lambda model: model)
    # ncnn 20240410 answers now with wrong numbers, now with NaN.
    with pytest.raises(ParityError, match=r"No file was written\.$"):
        ncnn_from_onnx(source, tmp_path / "wrong.param", half=False)
    assert not (tmp_path / "wrong.param").exists()


def test_layers_that_ncnn_lacks_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The converter leaves those under names of its own; which operators they are is a matter of its version."""
    convert = export._run_converter

    def unfinished(source, made, spec, *, half):
        convert(source, made, spec, half=half)
        made.write_text(made.read_text().replace("\nConvolution ", "\nTensor.slice ", 1))

    monkeypatch.setattr(export, "_run_converter", unfinished)
    with pytest.raises(ExportError, match=r"layers that ncnn lacks: Tensor\.slice"):
        ncnn_from_onnx(tiny_rtmdet(tmp_path / "raw.onnx"), tmp_path / "det.param", task="detection")


def test_a_network_that_ncnn_refuses_or_that_ends_its_process_is_an_error_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = models.raw_pose(tmp_path / "raw.onnx")
    convert = export._convert

    def spoiled(model, made, spec, *, half):
        convert(model, made, spec, half=half)
        made.with_suffix(".bin").write_bytes(b"")

    monkeypatch.setattr(export, "_convert", spoiled)
    with pytest.raises(ExportError, match=r"ncnn does not run the converted network: .*[^.]\.$"):
        ncnn_from_onnx(Path(source.data), tmp_path / "pose.param")


def test_without_the_converter_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = models.raw_pose(tmp_path / "raw.onnx")
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendUnavailableError, match="pip install pnnx"):
        ncnn_from_onnx(Path(source.data), tmp_path / "pose.param")


@pytest.mark.parametrize(("name", "error"), [("pose.ncnn", ExportError), ("pose.param", ModelError)])
def test_other_endings_and_broken_models_are_refused(tmp_path: Path, name: str, error: type[Exception]) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(error):
        ncnn_from_onnx(broken, tmp_path / name, spec=models.RAW_SPEC)


def test_the_sidecar_is_plain_json_that_an_app_can_read(tmp_path: Path) -> None:
    source = models.raw_pose(tmp_path / "raw.onnx")
    told = json.loads(ncnn_from_onnx(Path(source.data), tmp_path / "pose.param").sidecar.read_text())
    assert told["input_size_wh"] == [models.WIDTH, models.HEIGHT]
    assert {"mean", "std", "colour", "split_ratio", "padding"} <= told.keys()


class TestWeightsInHalf:
    LINES = (
        "7767517",
        "8 8",
        "Input in0 0 1 a",
        "MemoryData m 0 1 b 0=1 1=1 2=3",
        "BinaryOp sub 2 1 a b c 0=1",
        "Convolution k 1 1 c d 0=2 1=1 5=1 6=6",
        "ConvolutionDepthWise w 1 1 d e 0=2 1=1 5=0 6=3 7=2 -23303=1,1.0",
        "InnerProduct i 1 1 e f 0=2 1=1 2=8",
        "Gemm g 1 1 f g 4=0 5=1 6=1 7=5 8=2 9=3 10=4",
        "Swish s 1 1 g h",
    )
    GRAPH = "\n".join(LINES)
    TAGGED = (6, 3, 8, 6, 2)

    def file(self, values: np.ndarray) -> bytes:
        tag, parts = bytes(4), []
        for count, tagged in (
            (3, False),
            (6, True),
            (2, False),
            (3, True),
            (8, True),
            (2, False),
            (6, True),
            (2, True),
        ):
            part, values = values[:count], values[count:]
            parts.append((tag if tagged else b"") + part.tobytes())
        assert not len(values)
        return b"".join(parts)

    def test_kernels_are_halved_and_what_has_no_tag_is_not(self) -> None:
        values = np.linspace(-3, 3, 32, dtype=np.float32)
        halved = export.weights_in_half(self.GRAPH, self.file(values))
        assert halved is not None
        assert halved[:12] == values[:3].tobytes()
        assert halved[12:16] == bytes.fromhex("476b3001")
        assert halved[16:28] == values[3:9].astype(np.float16).tobytes()
        assert halved[28:36] == values[9:11].tobytes()
        assert halved[40:48] == values[11:14].astype(np.float16).tobytes() + bytes(2)  # to a multiple of four
        assert len(halved) == 4 * 7 + 5 * 4 + 2 * sum(self.TAGGED) + 2

    def test_what_only_subnormal_numbers_hold_is_not_lost(self) -> None:
        values = np.full(32, 2.0**-20, np.float32)
        halved = export.weights_in_half(self.GRAPH, self.file(values))
        assert halved is not None
        assert np.frombuffer(halved, np.float16, 6, offset=16).tolist() == [2.0**-20] * 6

    @pytest.mark.parametrize("layer", ["BatchNorm n 1 1 d e 0=2", "Deconvolution n 1 1 d e 0=2 5=1 6=5"])
    def test_a_file_that_is_not_as_the_graph_says_is_left_to_the_converter(self, layer: str) -> None:
        lines = [*self.LINES]
        lines[6] = layer
        weights = self.file(np.ones(32, np.float32))
        assert export.weights_in_half("\n".join(lines), weights) is None
        assert export.weights_in_half(self.GRAPH, weights[:-4]) is None
        assert export.weights_in_half(self.GRAPH, weights + bytes(4)) is None
