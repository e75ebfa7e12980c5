"""The whole exporter: what is written, what is refused, and that nothing is left behind by a refusal."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the exporter needs the export extra")
onnx = pytest.importorskip("onnx", reason="the exporter needs the export extra")
ort = pytest.importorskip("onnxruntime", reason="exported models are run with ONNX Runtime")

from rtmpose_infer import PersonDetector, PoseEstimator  # noqa: E402
from rtmpose_infer.errors import CheckpointError, ExportError, InputError, ParityError  # noqa: E402
from rtmpose_infer.export import ExportOptions, describe, export  # noqa: E402
from rtmpose_infer.export import exporter as exporter_module  # noqa: E402
from rtmpose_infer.export import ncnn as ncnn_module  # noqa: E402
from rtmpose_infer.export.architecture import Architecture, read_architecture  # noqa: E402
from rtmpose_infer.export.checkpoint import load_checkpoint  # noqa: E402
from rtmpose_infer.export.mm_config import find_steps, parse_config  # noqa: E402
from rtmpose_infer.export.ncnn import NcnnExport  # noqa: E402
from rtmpose_infer.export.networks.rtmdet import RTMDet  # noqa: E402
from rtmpose_infer.export.networks.rtmpose import RTMPose  # noqa: E402
from rtmpose_infer.export.onnx_writer import GraphForm, upgrade_model  # noqa: E402
from rtmpose_infer.export.pictures import pictures_from_folder  # noqa: E402
from rtmpose_infer.geometry import xyxy_from_xywh  # noqa: E402
from rtmpose_infer.model_spec import ModelSpec, load_model_file  # noqa: E402
from rtmpose_infer.onnx_file import read_onnx_header  # noqa: E402
from rtmpose_infer.skeletons import unnamed_skeleton  # noqa: E402
from tests.sdk_samples import IMAGE_SIZE, pose_pipeline, sdk_archive, write_sdk_folder  # noqa: E402
from tests.tiny_onnx import declared_onnx, light_detector, write  # noqa: E402

POSE = {"deepen_factor": 0.167, "widen_factor": 0.375, "num_keypoints": 17, "input_size_wh": (96, 128)}


def filled(network: torch.nn.Module) -> torch.nn.Module:
    """Give the network weights under which activations keep their size, so that outputs differ from place to place."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.ndim >= 2:
                fan_in = tensor[0].numel()
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / fan_in) ** 0.5)
            elif tensor.is_floating_point() and not name.endswith("running_var"):
                tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator))
    return network.eval()


@pytest.fixture(scope="module")
def pose_state() -> dict[str, torch.Tensor]:
    return filled(RTMPose(**POSE)).state_dict()


@pytest.fixture(scope="module")
def pose_checkpoint(tmp_path_factory: pytest.TempPathFactory, pose_state: dict[str, torch.Tensor]) -> Path:
    path = tmp_path_factory.mktemp("pose") / "small.pth"
    torch.save({"state_dict": pose_state, "meta": {"epoch": 3}}, path)
    return path


@pytest.fixture(scope="module")
def pose_models(tmp_path_factory: pytest.TempPathFactory, pose_checkpoint: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    paths = {"deploy": folder / "deploy.onnx", "raw": folder / "raw.onnx"}
    export(pose_checkpoint, paths["deploy"])
    export(pose_checkpoint, paths["raw"], ExportOptions(raw=True))
    return paths


def crops(count: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (count, 128, 96, 3), dtype=np.uint8)


def planes(
    pictures: np.ndarray,
    *,
    mean: Sequence[float] = (123.675, 116.28, 103.53),
    std: Sequence[float] = (58.395, 57.12, 57.375),
) -> np.ndarray:
    rgb = (pictures[..., ::-1] - np.float32(mean)) / np.float32(std)
    return np.ascontiguousarray(rgb.transpose(0, 3, 1, 2))


def run(path: Path, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(str(path))
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


@pytest.mark.parametrize("batch", [1, 3])
def test_the_raw_graph_computes_what_torch_computes(pose_models, pose_state, batch: int) -> None:
    network = RTMPose(**POSE).eval()
    network.load_state_dict(pose_state)
    x = np.random.default_rng(7).standard_normal((batch, 3, 128, 96)).astype(np.float32)
    with torch.inference_mode():
        expected = [t.numpy() for t in network(torch.from_numpy(x))]
    found = run(pose_models["raw"], input=x)
    np.testing.assert_allclose(found["simcc_x"], expected[0], atol=1e-3)
    np.testing.assert_allclose(found["simcc_y"], expected[1], atol=1e-3)


def test_the_deploy_graph_gives_the_raw_graphs_joints(pose_models) -> None:
    pictures = crops(3)
    raw = run(pose_models["raw"], input=planes(pictures))
    deploy = run(pose_models["deploy"], frames_u8=pictures)
    joints = np.stack([raw["simcc_x"].argmax(2), raw["simcc_y"].argmax(2)], axis=2) / 2
    np.testing.assert_array_equal(deploy["keypoints"], joints)
    scores = np.minimum(raw["simcc_x"].max(2), raw["simcc_y"].max(2))
    np.testing.assert_array_equal(deploy["scores"], scores)


def test_on_photographs_a_trained_network_gives_the_same_joints_in_either_form(shared: Path, tmp_path: Path) -> None:
    """Near-equal peaks are common there: whatever rounds otherwise than the raw graph moves a joint by a bin."""
    published, output = shared / "models" / "tinypose_coco17_256x192_simcc.onnx", tmp_path / "deploy.onnx"
    export(published, output)
    data = shared / "data" / "coco_val_dev"
    truth = json.loads((data / "person_keypoints.json").read_text())
    raw, deploy = (PoseEstimator(path, backend="ort") for path in (published, output))
    for image in truth["images"][:8]:
        boxes = [a["bbox"] for a in truth["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
        frame = cv2.imread(str(data / "images" / image["file_name"]))
        corners = xyxy_from_xywh(np.array(boxes, np.float32))
        np.testing.assert_array_equal(raw.predict(frame, corners).keypoints, deploy.predict(frame, corners).keypoints)


def test_a_file_says_of_itself_what_it_needs(pose_models, pose_checkpoint) -> None:
    spec = load_model_file(pose_models["deploy"], task="pose").spec
    assert (spec.origin, spec.head, spec.input_format) == ("metadata", "keypoints", "nhwc_uint8")
    assert spec.input_size_wh == (96, 128)
    assert spec.skeleton is not None
    assert spec.skeleton.name == "coco17"
    assert spec.exporter.startswith("rtmpose_infer ")
    assert len(spec.source_sha256) == 64
    assert spec.parity is not None
    assert spec.parity["pytorch"]["p99_px"] <= 0.05


def test_the_exported_file_runs_in_the_pipeline(pose_models) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    poses = PoseEstimator(pose_models["deploy"], backend="ort").predict(frame, [[10, 10, 100, 200], [50, 20, 200, 230]])
    assert poses.keypoints.shape == (2, 17, 2)


def test_a_detector_suppresses_in_the_graph_for_every_picture_of_a_batch(tmp_path: Path) -> None:
    checkpoint, output = tmp_path / "det.pth", tmp_path / "det.onnx"
    network = filled(RTMDet(deepen_factor=0.33, widen_factor=0.25, num_classes=1, depthwise=True))
    torch.save(network.state_dict(), checkpoint)
    options = ExportOptions(input_size_wh=(128, 128), class_names=["person"], exp_on_reg=False, share_conv=True)
    report = export(checkpoint, output, options)
    assert report.spec.head == "nms"
    pictures = np.random.default_rng(1).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    together = run(output, frames_u8=pictures)
    for index, picture in enumerate(pictures):
        alone = run(output, frames_u8=picture[None])
        np.testing.assert_allclose(together["dets"][index], alone["dets"][0], atol=1e-2)
        np.testing.assert_array_equal(together["labels"][index], alone["labels"][0])
    assert np.all(np.diff(together["dets"][..., 4], axis=1) <= 1e-6)
    PersonDetector(output, backend="ort", score_threshold=0.05).predict(pictures[0])


def test_half_precision_keeps_the_types_at_the_border(pose_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "half.onnx"
    report = export(pose_checkpoint, output, ExportOptions(precision="fp16", parity_limit_px=96))
    model = onnx.load(output)
    assert report.spec.precision == "fp16"
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert {o.type.tensor_type.elem_type for o in model.graph.output} == {onnx.TensorProto.FLOAT}
    assert any(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer)


def test_half_precision_that_moves_joints_too_far_gives_way_at_the_networks_beginning(
    pose_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tries = exporter_module.convert_to_fp16, []

    def spoiled_at_first(model, largest, *, float_share):
        half = real(model, largest, float_share=float_share)
        tries.append(float_share)
        if len(tries) == 1:
            for tensor in half.graph.initializer:
                if tensor.data_type == onnx.TensorProto.FLOAT16:
                    values = onnx.numpy_helper.to_array(tensor)
                    tensor.CopyFrom(onnx.numpy_helper.from_array(-values, tensor.name))
        return half

    monkeypatch.setattr(exporter_module, "convert_to_fp16", spoiled_at_first)
    report = export(pose_checkpoint, tmp_path / "half.onnx", ExportOptions(precision="fp16", parity_limit_px=10))
    assert tries == [0.0, 0.1]
    assert report.notes == ("the first 10% of the layers stay in float32",)


@pytest.mark.parametrize("name", ["a.onnx", "a.param"])
def test_what_is_exported_is_never_replaced(tmp_path: Path, name: str) -> None:
    source = tmp_path / "a.onnx" if name == "a.onnx" else tmp_path / "a.bin"
    source.write_bytes(b"a network")
    with pytest.raises(InputError, match="would be replaced by what is made of it"):
        export(source, tmp_path / name)
    assert source.read_bytes() == b"a network"
    folder = tmp_path / "sdk"
    folder.mkdir()
    (folder / "end2end.onnx").write_bytes(b"a network")
    with pytest.raises(InputError, match="would be replaced by what is made of it"):
        export(folder, folder / "end2end.onnx")


def test_a_published_file_is_upgraded(pose_models, tmp_path: Path) -> None:
    output = tmp_path / "upgraded.onnx"
    export(pose_models["raw"], output)
    pictures = crops(2)
    a, b = run(output, frames_u8=pictures), run(pose_models["deploy"], frames_u8=pictures)
    np.testing.assert_allclose(a["keypoints"], b["keypoints"], atol=1e-3)


@pytest.mark.parametrize("packed", [True, False], ids=["archive", "folder"])
def test_a_published_archive_is_upgraded_by_what_its_pipeline_says(pose_models, tmp_path: Path, packed: bool) -> None:
    model = onnx.load(pose_models["raw"])
    del model.metadata_props[:]
    text = json.dumps(pose_pipeline())
    pipeline = json.loads(text.replace(json.dumps(IMAGE_SIZE), "[96, 128]").replace("3.0", "2.0"))
    source = tmp_path / "published.zip"
    if packed:
        source.write_bytes(sdk_archive(model.SerializeToString(), pipeline))
    else:
        source = write_sdk_folder(tmp_path / "published", model.SerializeToString(), pipeline)
    report = export(source, tmp_path / "upgraded.onnx")
    assert (report.spec.head, report.spec.input_format, report.spec.padding) == ("keypoints", "nhwc_uint8", 1.1)
    pictures = crops(2)
    own_planes = planes(pictures, mean=(120, 110, 100), std=(50, 51, 52))
    raw = run(pose_models["raw"], input=own_planes)
    joints = np.stack([raw["simcc_x"].argmax(2), raw["simcc_y"].argmax(2)], axis=2) / 2
    np.testing.assert_array_equal(run(report.path, frames_u8=pictures)["keypoints"], joints)


@pytest.mark.parametrize(
    ("outputs", "task"),
    [
        ([("a", ["n", 17, 384]), ("b", ["n", 17, 512])], "pose"),
        ([("dets", ["n", 10, 5]), ("keypoints", ["n", 10, 17, 3])], "one_stage"),
        ([("a", ["n", 10, 5]), ("b", ["n", 10])], "detection"),
    ],
    ids=["pose", "one-stage", "detection"],
)
def test_a_published_file_is_what_its_outputs_say_whatever_they_are_called(
    tmp_path: Path, outputs: list[tuple[str, list[int | str]]], task: str
) -> None:
    named = [(name, shape, "float32") for name, shape in outputs]
    model = write(tmp_path / "m.onnx", declared_onnx([("input", ["n", 3, 256, 192], "float32")], named))
    assert exporter_module._model_file(model, ExportOptions()).spec.task == task


def test_a_published_detector_that_segments_and_counts_its_classes_in_32_bits_is_upgraded() -> None:
    source = onnx.load_from_string(light_detector())
    helper = onnx.helper
    source.graph.node[-1].output[0] = "wide"
    source.graph.node.append(helper.make_node("Cast", ["wide"], ["labels"], to=onnx.TensorProto.INT32))
    source.graph.output[1].type.tensor_type.elem_type = onnx.TensorProto.INT32
    source.graph.node.append(helper.make_node("Identity", ["light"], ["masks"]))
    source.graph.output.append(helper.make_tensor_value_info("masks", onnx.TensorProto.FLOAT, None))
    spec = ModelSpec(task="detection", head="nms", input_size_wh=(64, 64))
    model, _ = upgrade_model(source, spec, GraphForm())
    picture = np.zeros((1, 64, 64, 3), np.uint8)
    picture[:, 10:20, 30:50] = 255
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    dets, labels = session.run(None, {"frames_u8": picture})
    np.testing.assert_allclose(dets, [[[30, 10, 50, 20, 0.9]]])
    assert (labels.dtype, labels.tolist()) == (np.int64, [[0]])


def test_a_file_whose_graph_does_not_hold_together_is_refused(tmp_path: Path) -> None:
    takes, gives = (
        ("frames", ["n", 64, 64, 3], "uint8"),
        [("dets", ["n", 10, 5], "float32"), ("labels", ["n", 10], "int64")],
    )
    source = write(tmp_path / "m.onnx", declared_onnx([takes], gives))
    with pytest.raises(ExportError, match="no valid ONNX"):
        export(source, tmp_path / "out.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_averaged_weights_prefixes_and_nesting_are_found(pose_state, tmp_path: Path) -> None:
    path = tmp_path / "nested.pth"
    noise = {k: torch.zeros_like(v) for k, v in pose_state.items()}
    wrapped = {f"module.{k}": v for k, v in pose_state.items()}
    torch.save({"state_dict": noise, "ema_state_dict": wrapped, "epoch": 1}, path)
    report = export(path, tmp_path / "a.onnx")
    pictures = crops(1)
    torch.save(pose_state, tmp_path / "plain.pth")
    export(tmp_path / "plain.pth", tmp_path / "b.onnx")
    a, b = (run(tmp_path / f"{n}.onnx", frames_u8=pictures) for n in "ab")
    np.testing.assert_array_equal(a["keypoints"], b["keypoints"])
    assert report.name


class Harmful:
    """Would write a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (self.path, "executed"))


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_a_checkpoint_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path, kind: str) -> None:
    trace, path = tmp_path / "trace.txt", tmp_path / "hostile.pth"
    content = {"state_dict": {"backbone.stem.0.conv.weight": Harmful(trace)}}
    if kind == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError):
        export(path, tmp_path / "out.onnx")
    assert not trace.exists()
    assert not (tmp_path / "out.onnx").exists()


def test_a_truncated_checkpoint_is_refused(pose_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    path.write_bytes(pose_checkpoint.read_bytes()[:-5000])
    with pytest.raises(CheckpointError):
        export(path, tmp_path / "out.onnx")


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"state_dict": {"fc.weight": torch.zeros(3, 3)}}, path)
    with pytest.raises(CheckpointError):
        export(path, tmp_path / "out.onnx")


STEM = {"backbone.stem.0.conv.weight": torch.zeros(4, 3, 3, 3)}


def shared_lists() -> list[object]:
    found: list[object] = ["x"]
    for _ in range(7):
        found = [found] * 10
    return found


def list_that_holds_itself() -> list[object]:
    found: list[object] = []
    found += [found, found]
    return found


@pytest.mark.parametrize(
    "value",
    [shared_lists(), list_that_holds_itself(), [torch.zeros(1000)] * 1001],
    ids=["shared lists", "a list that holds itself", "a shared tensor"],
)
def test_a_small_checkpoint_that_would_unfold_to_very_much_is_refused(tmp_path: Path, value: object) -> None:
    path = tmp_path / "folded.pth"
    torch.save({"meta": {"a": value}, "state_dict": STEM}, path)
    with pytest.raises(CheckpointError, match="meta holds more than 1000000 values"):
        load_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")  # torch from 2.14 on says so
@pytest.mark.parametrize(
    "value",
    [torch.zeros(3, device="meta"), torch.zeros(3, 3).to_sparse(), torch.zeros(3, dtype=torch.complex64)],
    ids=["without values", "sparse", "complex"],
)
def test_odd_tensors_in_the_meta_are_left_out(tmp_path: Path, value: torch.Tensor) -> None:
    path = tmp_path / "odd.pth"
    torch.save({"meta": {"a": value, "epoch": torch.tensor(3), ("a", "b"): 1}, "state_dict": STEM}, path)
    meta = load_checkpoint(path).meta
    assert meta["epoch"] == 3
    assert meta.keys() == {"a", "epoch"}
    assert meta["a"] in (None, [None] * 3)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")  # torch from 2.14 on says so
@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (torch.zeros(4, 3, 3, 3, device="meta"), "not an ordinary dense tensor"),
        (torch.zeros(4, 3).to_sparse(), "not an ordinary dense tensor"),
        (torch.zeros(2**40, 0, 3, 3), "no values"),
    ],
    ids=["without values", "sparse", "empty"],
)
def test_a_weight_whose_values_are_not_in_the_file_is_refused(tmp_path: Path, weight: torch.Tensor, words: str) -> None:
    path = tmp_path / "hollow.pth"
    torch.save({"state_dict": {"backbone.stem.0.conv.weight": weight}}, path)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(path)


@pytest.mark.parametrize("line", ["a = {[1]: 2}", f"a = 1{'0' * 400} * 1.0", "a = 0xff" + "f" * 400, "a = {(1,): 2}"])
def test_a_line_of_a_config_that_makes_no_sense_is_left_out(line: str) -> None:
    assert parse_config(f"{line}\nb = 3") == {"b": 3}


def test_the_numbers_of_a_config_stay_small() -> None:
    assert parse_config("a = 10\n" + "a = a * a\n" * 16)["a"].bit_length() <= 64


def test_a_step_that_a_config_names_many_times_is_found_once() -> None:
    config = parse_config("a = dict(type='Pad', size=2)\n" + "a = [a, a, a, a]\n" * 5)
    assert list(find_steps(config, "Pad")) == [{"type": "Pad", "size": 2}]


@pytest.mark.parametrize(
    ("key", "weight"),
    [
        ("backbone.stage4.2.final_conv.conv.weight", torch.tensor(1.0)),
        ("head.mlp.1.weight", torch.zeros(1, 0)),
        ("head.gau.o.weight", torch.zeros(0, 512)),
        ("backbone.stage4.2.final_conv.conv.weight", torch.zeros(1, 1, 1, 1)),
    ],
    ids=["no axes", "no cells", "no dimensions", "one channel"],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_weights_of_impossible_shapes_are_refused(pose_state, key: str, weight: torch.Tensor) -> None:
    assert key in pose_state
    with pytest.raises(CheckpointError, match=r"looks like rtmpose.*fit no such network"):
        read_architecture({**pose_state, key: weight}, {}).build()


def test_a_network_that_the_checkpoint_does_not_fill_is_never_built_in_memory(
    pose_state, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    build = Architecture.build

    def noting(self: Architecture) -> torch.nn.Module:
        network = build(self)
        built.append(next(network.parameters()).device.type)
        return network

    monkeypatch.setattr(Architecture, "build", noting)
    wide = torch.zeros(1024, 1, 1, 1)
    torch.save({**pose_state, "backbone.stage4.2.final_conv.conv.weight": wide}, tmp_path / "wide.pth")
    with pytest.raises(CheckpointError, match="modified architecture"):
        export(tmp_path / "wide.pth", tmp_path / "out.onnx")
    assert built == ["meta"]


BOX = {"image_id": 1, "bbox": [1, 2, 30, 30]}


@pytest.mark.parametrize(
    "annotations",
    [
        ["x"],
        [{"image_id": 1}],
        [{"image_id": 2, "bbox": [1, 2, 30, 30]}],
        [{"image_id": 1, "bbox": []}],
        [{"image_id": 1, "bbox": None}],
        [{"image_id": 1, "bbox": ["a"] * 4}],
        [{"image_id": 1, "bbox": [10**400, 2, 30, 30]}],
        None,
    ],
    ids=["text", "no box", "no image", "empty", "null", "words", "huge", "nested"],
)
def test_an_annotation_file_that_is_none_is_refused(pose_models, tmp_path: Path, annotations: object) -> None:
    spec, path = load_model_file(pose_models["raw"], task="pose").spec, tmp_path / "boxes.json"
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 40, 3), np.uint8))
    content = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [BOX]}
    path.write_text(json.dumps(content))
    assert pictures_from_folder(tmp_path, spec, boxes=path).shape == (1, 128, 96, 3)
    path.write_text("[" * 100_000 if annotations is None else json.dumps(content | {"annotations": annotations}))
    with pytest.raises(InputError, match="is not a COCO annotation file"):
        pictures_from_folder(tmp_path, spec, boxes=path)


def test_a_missing_tensor_is_named(pose_state, tmp_path: Path) -> None:
    path = tmp_path / "lacking.pth"
    gone = "backbone.stage2.0.conv.weight"
    torch.save({k: v for k, v in pose_state.items() if k != gone}, path)
    with pytest.raises(CheckpointError, match="stage2"):
        export(path, tmp_path / "out.onnx")


def test_a_graph_that_computes_something_else_is_not_written(
    pose_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.onnx"
    output.write_bytes(b"an earlier export")
    real = exporter_module.write_network

    def wrong(*arguments):
        model, spec = real(*arguments)
        for tensor in model.graph.initializer:  # the classifiers' bins in reverse: left becomes right
            if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2:
                values = onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values[:, ::-1].copy(), tensor.name))
        return model, spec

    monkeypatch.setattr(exporter_module, "write_network", wrong)
    with pytest.raises(ParityError, match="limit"):
        export(pose_checkpoint, output)
    assert output.read_bytes() == b"an earlier export"
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "int4"}, "precision"),
        ({"precision": "int8"}, "calibration"),
        ({"opset": 3}, "opset"),
        ({"batch": 0}, "batch"),
        ({"parity_limit_px": 0.0}, "parity limit"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ExportOptions(**options)


def test_options_without_effect_are_refused(pose_checkpoint: Path, pose_models, tmp_path: Path) -> None:
    for source, options, words in (
        (pose_checkpoint, ExportOptions(class_names=["person"]), "class_names.*pose network"),
        (
            pose_models["raw"],
            ExportOptions(weights="state_dict", exp_on_reg=True),
            "weights and exp_on_reg.*checkpoint",
        ),
        (pose_models["deploy"], ExportOptions(batch=4), "batch.*this form already"),
    ):
        with pytest.raises(InputError, match=words):
            export(source, tmp_path / "out.onnx", options)
    assert not (tmp_path / "out.onnx").exists()


def test_a_published_file_is_written_for_the_batch_that_is_asked_for(pose_models, tmp_path: Path) -> None:
    output = tmp_path / "four.onnx"
    export(pose_models["raw"], output, ExportOptions(batch=4))
    assert run(output, frames_u8=crops(4))["keypoints"].shape == (4, 17, 2)
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.InvalidArgument):
        run(output, frames_u8=crops(3))


@pytest.mark.parametrize("raw", [False, True])
def test_eight_bits_in_either_form_and_from_weights_stored_in_half(
    pose_checkpoint: Path, tmp_path: Path, raw: bool
) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index, picture in enumerate(crops(3)):
        cv2.imwrite(str(folder / f"{index}.png"), picture)
    source, output = tmp_path / "source.onnx", tmp_path / "eight.onnx"
    export(pose_checkpoint, source, ExportOptions(raw=raw))
    store_in_half(source)
    report = export(source, output, ExportOptions(precision="int8", raw=raw, calibration=folder, parity_limit_px=1000))
    assert report.spec.precision == "int8"
    model = onnx.load(output)
    assert {node.op_type for node in model.graph.node} >= {"QuantizeLinear", "DequantizeLinear"}
    feeds = {"input": planes(crops(2))} if raw else {"frames_u8": crops(2)}
    assert all(np.isfinite(values).all() for values in run(output, **feeds).values())


def store_in_half(path: Path) -> None:
    """Rewrite a model's convolutions as small files have them: weights in float16, cast when the file is opened."""
    model = onnx.load(path)
    weights = {t.name: t for t in model.graph.initializer}
    casts = []
    for node in model.graph.node:
        if node.op_type == "Conv":
            tensor, name = weights[node.input[1]], node.input[1]
            half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}_half"))
            casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)


def test_wrong_outputs_are_refused_before_any_work(pose_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.onnx"):
        export(pose_checkpoint, tmp_path / "model.engine")
    with pytest.raises(InputError, match="no folder"):
        export(pose_checkpoint, tmp_path / "none" / "model.onnx")


def test_the_comparison_with_ncnn_has_the_limit_and_the_pictures_that_were_given(
    pose_models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2.imwrite(str(tmp_path / "crop.png"), crops(1)[0])
    seen: dict[str, object] = {}

    def converting(model: Path, output: Path, **settings: object) -> NcnnExport:
        seen.update(settings, float32=read_onnx_header(model).metadata["rtmpose_infer.model_spec"])
        return NcnnExport(output, output.with_suffix(".bin"), output.with_suffix(".json"), settings["spec"])

    monkeypatch.setattr(ncnn_module, "ncnn_from_onnx", converting)
    options = ExportOptions(precision="fp16", calibration=tmp_path, parity_limit_px=1.5)
    export(pose_models["raw"], tmp_path / "pose.param", options)
    assert (seen["half"], seen["parity_limit_px"]) == (True, 1.5)
    np.testing.assert_array_equal(seen["pictures"], crops(1))
    assert json.loads(seen["float32"])["parity"]["source onnx"]["limit_px"] == 0.05
    with pytest.raises(InputError, match="raw and batch cannot be set"):
        export(pose_models["raw"], tmp_path / "pose.param", ExportOptions(raw=True, batch=2))


def test_sigmas_of_another_number_of_keypoints_tell_nothing_about_the_skeleton() -> None:
    wholebody = SimpleNamespace(num_outputs=133)
    assert describe._skeleton(wholebody, {}, {}, [0.1] * 17, []).name == "wholebody133"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("OneHand10KDataset", "hand21"),
        ("FreiHandDataset", "hand21"),
        ("CocoWholeBodyHandDataset", "hand21"),
        ("InterHand2DDataset", unnamed_skeleton(21).name),
        ("Rhd2DDataset", unnamed_skeleton(21).name),
    ],
)
def test_hands_whose_fingers_begin_at_the_tip_are_not_taken_for_others(kind: str, name: str) -> None:
    assumed: list[str] = []
    hand = SimpleNamespace(num_outputs=21, input_size_wh=(256, 256), task="pose")
    assert describe._skeleton(hand, {}, {"dataset_type": kind}, None, assumed).name == name
    assert bool(assumed) == (name != "hand21")


@pytest.mark.parametrize("dataset", ["interhand2d", "rhd2d"])
def test_a_hand_that_the_checkpoint_describes_is_as_it_says(dataset: str) -> None:
    names = {str(i): f"finger{i}" for i in range(20)} | {"20": "wrist"}
    described = {"dataset_name": dataset, "keypoint_id2name": names, "skeleton_links": [[20, 3]]}
    skeleton = describe._skeleton(SimpleNamespace(num_outputs=21), described, {}, None, [])
    assert (skeleton.keypoints[20], skeleton.links) == ("wrist", ((20, 3),))


def test_a_skeleton_of_another_size_is_refused(pose_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="26 keypoints"):
        export(pose_checkpoint, tmp_path / "out.onnx", ExportOptions(skeleton="halpe26"))
