"""The exported ONNX of every recorded pose network gives the official implementation's vectors in ONNX Runtime.

References and tolerance as in ``test_networks``; batches of one and of three.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
ort = pytest.importorskip("onnxruntime", reason="exported graphs are run with ONNX Runtime")

from rtmpose_infer.export.architecture import read_architecture  # noqa: E402
from rtmpose_infer.export.checkpoint import load_into  # noqa: E402
from rtmpose_infer.export.describe import describe_network  # noqa: E402
from rtmpose_infer.export.onnx_writer import GraphForm, write_network  # noqa: E402
from rtmpose_infer.skeletons import load_skeleton  # noqa: E402
from tests.golden.test_networks import NETWORKS, expected_outputs, filled_state  # noqa: E402

POSE = [name for name in NETWORKS if name.startswith(("rtmpose", "rtmw"))]
SKELETONS = {"face106": "face106", "hand21": "hand21", "ap10k17": "ap10k17"}


def exported(name: str, golden: np.lib.npyio.NpzFile) -> ort.InferenceSession:
    """Write the raw graph of a recorded network."""
    tensors = filled_state(golden)
    architecture = read_architecture(tensors, {})
    network = architecture.build()
    load_into(network, tensors)
    skeleton = next((load_skeleton(s) for k, s in SKELETONS.items() if k in name), None)
    spec, _ = describe_network(architecture, {}, {}, skeleton=skeleton)
    model, _ = write_network(network, architecture, spec, GraphForm(raw=True))
    return ort.InferenceSession(model.SerializeToString())


def pictures(golden: np.lib.npyio.NpzFile, count: int) -> np.ndarray:
    width, height = golden["input_wh"]
    return np.random.default_rng(7).standard_normal((count, 3, height, width)).astype(np.float32)


@pytest.mark.parametrize("name", POSE)
def test_pose_vectors(name: str, shared: Path) -> None:
    golden = np.load(shared / "golden" / f"{name}.npz")
    expected = expected_outputs(golden)
    session = exported(name, golden)
    x = pictures(golden, len(expected[0]))
    assert [o.name for o in session.get_outputs()] == ["simcc_x", "simcc_y"]
    for found, want in zip(session.run(None, {"input": x}), expected, strict=True):
        np.testing.assert_allclose(found, want, rtol=0, atol=1e-3)
    three = np.concatenate([x, x, x])[:3]
    for found, want in zip(session.run(None, {"input": three}), expected, strict=True):
        np.testing.assert_allclose(found[0], want[0], rtol=0, atol=1e-3)
