"""The exported ONNX of every recorded network gives the official implementation's outputs in ONNX Runtime.

References and tolerance as in ``test_networks``; batches of one and of three. Detectors and RTMO end in suppression, so
what is compared of them is what their decoding reads: the head's maps, taken out of the graph as it is exported.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
ort = pytest.importorskip("onnxruntime", reason="exported graphs are run with ONNX Runtime")

from rtmpose_infer.export.architecture import read_architecture  # noqa: E402
from rtmpose_infer.export.checkpoint import load_into  # noqa: E402
from rtmpose_infer.export.deploy_graph import Suppression  # noqa: E402
from rtmpose_infer.export.describe import describe_network  # noqa: E402
from rtmpose_infer.export.onnx_writer import GraphForm, write_network  # noqa: E402
from rtmpose_infer.skeletons import load_skeleton  # noqa: E402
from tests.golden.test_networks import NETWORKS, expected_outputs, filled_state  # noqa: E402

POSE = [name for name in NETWORKS if name.startswith(("rtmpose", "rtmw"))]
SKELETONS = {"face106": "face106", "hand21": "hand21", "ap10k17": "ap10k17"}
RULE = Suppression(score_threshold=0.05, iou_threshold=0.6)
# In which order the recorded maps are read by the graph's decoding, by thirds (YOLOX) or quarters (RTMO).
READ_IN_ORDER = {"rtmdet": (0, 1), "yolox": (0, 2, 1), "rtmo": (0, 1, 3, 2)}


def exported(name: str, golden: np.lib.npyio.NpzFile) -> onnx.ModelProto:
    """Return the raw graph of a recorded network."""
    tensors = filled_state(golden)
    width, height = (int(v) for v in golden["input_wh"])
    architecture = read_architecture(tensors, {}, input_size_wh=(width, height))
    network = architecture.build()
    load_into(network, tensors)
    skeleton = next((load_skeleton(s) for k, s in SKELETONS.items() if k in name), None)
    spec, _ = describe_network(architecture, {}, {}, skeleton=skeleton)
    model, _ = write_network(network, architecture, spec, GraphForm(raw=True, suppression=RULE))
    return model


def ending_in_maps(model: onnx.ModelProto, family: str) -> tuple[onnx.ModelProto, list[str]]:
    """Return the graph with the head's maps as its outputs, and their names in the recorded order."""
    reshapes = (n for n in model.graph.node if n.op_type == "Reshape" and n.name.startswith("decode"))
    read = [n.input[0] for n in reshapes if n.input[0].startswith(("bbox_head/", "head/"))]
    order = READ_IN_ORDER[family]
    levels = len(read) // len(order)
    parts = {part: read[i * levels : (i + 1) * levels] for i, part in enumerate(order)}
    names = [name for part in sorted(parts) for name in parts[part]]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return model, names


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    return ort.InferenceSession(model.SerializeToString(), options)


def pictures(golden: np.lib.npyio.NpzFile, count: int) -> np.ndarray:
    width, height = golden["input_wh"]
    return np.random.default_rng(7).standard_normal((count, 3, height, width)).astype(np.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_in_onnx_runtime_match_the_official_implementation(name: str, shared: Path) -> None:
    golden = np.load(shared / "golden" / f"{name}.npz")
    expected = expected_outputs(golden)
    model = exported(name, golden)
    names = ["simcc_x", "simcc_y"]
    if name in POSE:
        assert [o.name for o in model.graph.output] == names
    else:
        model, names = ending_in_maps(model, name.split("-", 1)[0])
    runtime = session(model)
    x = pictures(golden, len(expected[0]))
    for found, want in zip(runtime.run(names, {"input": x}), expected, strict=True):
        np.testing.assert_allclose(found, want, rtol=0, atol=1e-3)
    # The recorded picture last, so that one that is mixed up with another of the batch shows.
    others = np.random.default_rng(8).standard_normal((2, *x.shape[1:])).astype(np.float32)
    for found, want in zip(runtime.run(names, {"input": np.concatenate([others, x[:1]])}), expected, strict=True):
        assert len(found) == 3
        np.testing.assert_allclose(found[2], want[0], rtol=0, atol=1e-3)
