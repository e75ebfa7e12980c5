"""Every published size of every family has the official state-dict keys and shapes, and is recognised by them alone.

Source of ``official_tensors.json``: the models that MMPose 1.3.2 and MMDetection 3.3.0 build from their own configs of
these names; SHA-256 of the sorted lines "key shape" of their state dicts, without ``data_preprocessor``. What the networks
compute is compared in ``test_networks``; between the sizes only depth, width and the switches named there change.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")

from rtmpose_infer.errors import CheckpointError  # noqa: E402
from rtmpose_infer.export import architecture as reading  # noqa: E402
from rtmpose_infer.export.architecture import read_architecture  # noqa: E402
from rtmpose_infer.export.networks.rtmdet import RTMDet  # noqa: E402
from rtmpose_infer.export.networks.rtmo import RTMO  # noqa: E402
from rtmpose_infer.export.networks.rtmpose import RTMPose  # noqa: E402
from rtmpose_infer.export.networks.rtmw import RTMW  # noqa: E402
from rtmpose_infer.export.networks.yolox import YOLOX  # noqa: E402

OFFICIAL = json.loads((Path(__file__).parent / "official_tensors.json").read_text())
DEPTHS = {"tiny": 0.167, "t": 0.167, "nano": 0.33, "s": 0.33, "m": 0.67, "l": 1.0, "x": 1.33}
WIDTHS = {"nano": 0.25, "tiny": 0.375, "t": 0.375, "s": 0.5, "m": 0.75, "l": 1.0, "x": 1.25}
KEYPOINTS = {
    "crowdpose": 14, "mpii": 16, "hand5": 21, "halpe26": 26, "wflw": 98, "face6": 106, "cocktail14": 133,
}  # fmt: skip


def built(name: str) -> torch.nn.Module:
    """Return the network that an official config of this name describes, without memory for its weights."""
    family, size = re.match(r"([a-z]+)[-_]([a-z]+)", name).groups()  # type: ignore[union-attr]
    depth, width = DEPTHS[size], WIDTHS[size]
    keypoints = next((count for data, count in KEYPOINTS.items() if data in name), 17)
    with torch.device("meta"):
        if family in {"rtmpose", "rtmw"}:
            height_width = re.search(r"(\d+)x(\d+)$", name)
            assert height_width is not None
            size_wh = (int(height_width[2]), int(height_width[1]))
            return {"rtmpose": RTMPose, "rtmw": RTMW}[family](depth, width, keypoints, size_wh)
        if family == "rtmo":
            return RTMO(max(depth, 0.33), width, keypoints)
        if family == "yolox":
            return YOLOX(max(depth, 0.33), width, 80, depthwise=size == "nano")
        return RTMDet(depth, width, 80, exp_on_reg=size in "mlx")


def digest(network: torch.nn.Module) -> str:
    lines = sorted(f"{key} {','.join(map(str, tensor.shape))}" for key, tensor in network.state_dict().items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.mark.parametrize("name", OFFICIAL)
def test_keys_and_shapes_are_the_official_ones(name: str) -> None:
    network = built(name)
    assert len(network.state_dict()) == OFFICIAL[name]["tensors"]
    assert digest(network) == OFFICIAL[name]["sha256"]


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_architecture_is_read_off_the_tensors_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = built(name)
    monkeypatch.setattr(reading, "_levels_agree", lambda tensors: True)  # there are no values to compare
    found = read_architecture(network.state_dict(), {})
    assert found.name == re.match(r"[a-z]+[-_][a-z]+", name)[0].replace("_", "-")  # type: ignore[index]
    with torch.device("meta"):
        assert digest(found.build()) == OFFICIAL[name]["sha256"]
    if "x" in name.rsplit("-", 1)[-1]:
        height, width = map(int, name.rsplit("-", 1)[-1].split("x"))
        assert found.input_size_wh == (width, height)


def test_a_head_of_no_known_family_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"head\.deconv_layers"):
        read_architecture({"head.deconv_layers.0.weight": torch.zeros(1)}, {})
