"""The re-implemented networks give the official implementation's outputs.

Source of the references: MMPose 1.3.2 and MMDetection 3.3.0, eval mode, float32, CPU, every tensor filled from the
CRC-32 of its key (``filled_tensor``). Tolerance 1e-3 absolute on outputs of magnitude 1 to 10: what two orders of
summation differ by; a mistake in the architecture gives differences of order 1.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")

from rtmpose_infer.export.networks.rtmdet import RTMDet  # noqa: E402
from rtmpose_infer.export.networks.rtmo import RTMO  # noqa: E402
from rtmpose_infer.export.networks.rtmpose import RTMPose  # noqa: E402
from rtmpose_infer.export.networks.rtmw import RTMW  # noqa: E402
from rtmpose_infer.export.networks.yolox import YOLOX  # noqa: E402

NETWORKS: dict[str, Callable[[], torch.nn.Module]] = {
    "rtmpose-t_coco17_256x192": lambda: RTMPose(0.167, 0.375, 17, (192, 256)),
    "rtmpose-t_face106_256x256": lambda: RTMPose(0.167, 0.375, 106, (256, 256)),
    "rtmpose-s_coco17_256x192": lambda: RTMPose(0.33, 0.5, 17, (192, 256)),
    "rtmpose-m_coco17_256x192": lambda: RTMPose(0.67, 0.75, 17, (192, 256)),
    "rtmpose-m_coco17_384x288": lambda: RTMPose(0.67, 0.75, 17, (288, 384)),
    "rtmpose-m_halpe26_256x192": lambda: RTMPose(0.67, 0.75, 26, (192, 256)),
    "rtmpose-m_hand21_256x256": lambda: RTMPose(0.67, 0.75, 21, (256, 256)),
    "rtmpose-m_ap10k17_256x256": lambda: RTMPose(0.67, 0.75, 17, (256, 256)),
    "rtmpose-m_wholebody133_256x192": lambda: RTMPose(0.67, 0.75, 133, (192, 256)),
    "rtmdet-nano_person_320x320": lambda: RTMDet(0.33, 0.25, 1, depthwise=True, share_conv=False, exp_on_reg=False),
    "rtmdet-tiny_coco80_640x640": lambda: RTMDet(0.167, 0.375, 80, exp_on_reg=False),
    "rtmdet-m_person_640x640": lambda: RTMDet(0.67, 0.75, 1),
    "rtmw-m_wholebody133_256x192": lambda: RTMW(0.67, 0.75, 133, (192, 256)),
    "yolox-tiny_coco80_416x416": lambda: YOLOX(0.33, 0.375, 80),
    "yolox-s_coco80_640x640": lambda: YOLOX(0.33, 0.5, 80),
    "rtmo-s_coco17_640x640": lambda: RTMO(0.33, 0.5, 17),
}


def filled_tensor(key: str, shape: tuple[int, ...]) -> np.ndarray:
    noise = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        return (1 + 0.1 * np.abs(noise)).astype(np.float32)
    if leaf == "running_mean":
        return 0.1 * noise
    if leaf == "bias":
        return 0.05 * noise
    if len(shape) >= 2:
        return noise * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    return 1 + 0.1 * noise


def filled_state(golden: np.lib.npyio.NpzFile) -> dict[str, torch.Tensor]:
    shapes = [tuple(int(n) for n in text.split(",") if n) for text in golden["shapes"]]
    return {
        str(key): torch.from_numpy(np.asarray(filled_tensor(str(key), shape)))
        for key, shape in zip(golden["keys"], shapes, strict=True)
    }


def expected_outputs(golden: np.lib.npyio.NpzFile) -> list[np.ndarray]:
    names = sorted((k for k in golden.files if k.startswith("out")), key=lambda k: int(k[3:]))
    return [golden[name] for name in names]


def flattened(outputs: object) -> list[torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [tensor for part in outputs for tensor in flattened(part)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_match_the_official_implementation(name: str, shared: Path) -> None:
    golden = np.load(shared / "golden" / f"{name}.npz")
    expected = expected_outputs(golden)
    network = NETWORKS[name]().eval()
    network.load_state_dict(filled_state(golden), strict=True)
    width, height = golden["input_wh"]
    x = np.random.default_rng(7).standard_normal((len(expected[0]), 3, height, width)).astype(np.float32)
    with torch.inference_mode():
        actual = flattened(network(torch.from_numpy(x)))
    assert [tuple(a.shape) for a in actual] == [e.shape for e in expected]
    for got, want in zip(actual, expected, strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=1e-3)
