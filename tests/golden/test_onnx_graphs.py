"""The exported ONNX of every recorded network gives the official implementation's outputs in ONNX Runtime.

References and tolerance as in ``test_networks``. A pose network's raw graph ends in the very tensors that are recorded. A
detector's ends after suppression, so its maps are decoded here, plainly, and every box the graph gives must be one of
them; that the graph keeps the right ones is the parity gate's business, which every export in this file passes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
ort = pytest.importorskip("onnxruntime", reason="exported graphs are run with ONNX Runtime")

from rtmpose_infer.export import ExportOptions, export  # noqa: E402
from tests.golden.test_networks import NETWORKS, expected_outputs, filled_state  # noqa: E402

POSE = [name for name in NETWORKS if name.startswith(("rtmpose", "rtmw"))]
DETECTORS = [name for name in NETWORKS if name.startswith(("rtmdet", "yolox"))]
SKELETONS = {"face106": "face106", "hand21": "hand21", "ap10k17": "ap10k17"}


def exported(name: str, golden: np.lib.npyio.NpzFile, folder: Path) -> ort.InferenceSession:
    checkpoint, output = folder / f"{name}.pth", folder / f"{name}.onnx"
    torch.save({"state_dict": filled_state(golden)}, checkpoint)
    width, height = (int(v) for v in golden["input_wh"])
    detector = name in DETECTORS
    export(
        checkpoint,
        output,
        ExportOptions(
            raw=True,
            input_size_wh=(width, height) if detector else None,
            skeleton=next((s for k, s in SKELETONS.items() if k in name), None),
        ),
    )
    return ort.InferenceSession(str(output))


def pictures(golden: np.lib.npyio.NpzFile, count: int) -> np.ndarray:
    width, height = golden["input_wh"]
    return np.random.default_rng(7).standard_normal((count, 3, height, width)).astype(np.float32)


@pytest.mark.parametrize("name", POSE)
def test_pose_vectors(name: str, shared: Path, tmp_path: Path) -> None:
    golden = np.load(shared / "golden" / f"{name}.npz")
    expected = expected_outputs(golden)
    session = exported(name, golden, tmp_path)
    x = pictures(golden, len(expected[0]))
    assert [o.name for o in session.get_outputs()] == ["simcc_x", "simcc_y"]
    for found, want in zip(session.run(None, {"input": x}), expected, strict=True):
        np.testing.assert_allclose(found, want, rtol=0, atol=1e-3)
    three = np.concatenate([x, x, x])[:3]
    for found, want in zip(session.run(None, {"input": three}), expected, strict=True):
        np.testing.assert_allclose(found[0], want[0], rtol=0, atol=1e-3)


def decoded(name: str, maps: list[np.ndarray], size_wh: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return (P, 4) boxes and (P, C) scores of the first picture."""
    boxes, scores = [], []
    for level, stride in enumerate((8, 16, 32)):
        logits, raw = maps[level][0], maps[level + 3][0]
        rows, columns = np.mgrid[: logits.shape[1], : logits.shape[2]] * stride
        score = 1 / (1 + np.exp(-logits.astype(np.float64)))
        if name.startswith("rtmdet"):
            box = np.stack([columns - raw[0], rows - raw[1], columns + raw[2], rows + raw[3]])
        else:
            score = score / (1 + np.exp(-maps[level + 6][0].astype(np.float64)))
            x, y = raw[0] * stride + columns, raw[1] * stride + rows
            w, h = np.exp(raw[2].astype(np.float64)) * stride / 2, np.exp(raw[3].astype(np.float64)) * stride / 2
            box = np.stack([x - w, y - h, x + w, y + h])
        boxes.append(box.reshape(4, -1).T)
        scores.append(score.reshape(len(score), -1).T)
    return np.concatenate(boxes), np.concatenate(scores)


@pytest.mark.parametrize("name", DETECTORS)
def test_detections_are_those_of_the_maps(name: str, shared: Path, tmp_path: Path) -> None:
    golden = np.load(shared / "golden" / f"{name}.npz")
    width, height = (int(v) for v in golden["input_wh"])
    session = exported(name, golden, tmp_path)
    one = pictures(golden, len(golden["out0"]))[:1]
    boxes, scores = decoded(name, expected_outputs(golden), (width, height))
    size = np.maximum(np.abs(boxes).max(axis=1), 1)
    for batch in (1, 3):
        dets, labels = session.run(["dets", "labels"], {"input": np.repeat(one, batch, axis=0)})
        for rows, classes in zip(dets, labels, strict=True):
            real = classes >= 0
            assert real.any()
            for row, label in zip(rows[real], classes[real], strict=True):
                place = np.abs(boxes - row[:4]).max(axis=1) / size
                assert np.maximum(place, np.abs(scores[:, label] - row[4])).min() < 1e-3
