"""What the export of each checkpoint of the zoo yields: inputs, outputs and file sizes, as the manifest states it.

    python benchmarks/export/yields.py [--write] [NAME ...]

Sizes are counted from the shapes of the weights that are left when batch norms and parallel branches are folded: four
bytes each, or two for what FP16 converts, the convolutions. Every line that the manifest has otherwise is printed, and the
exit code is 1; ``--write`` puts them into the manifest.
"""

from __future__ import annotations

import argparse
import re
import sys
from functools import cache

import torch
from torch import nn

from rtmpose_infer.export.networks.rtmdet import RTMDet
from rtmpose_infer.export.networks.rtmo import RTMO
from rtmpose_infer.export.networks.rtmpose import RTMPose
from rtmpose_infer.export.networks.rtmw import RTMW
from rtmpose_infer.export.networks.yolox import YOLOX
from rtmpose_infer.skeletons import load_skeleton
from rtmpose_infer.zoo.manifest import load_manifest, manifest_path

WIDTHS = {"nano": 0.25, "tiny": 0.375, "t": 0.375, "s": 0.5, "m": 0.75, "l": 1.0, "x": 1.25}
DEPTHS = {"nano": 0.33, "tiny": 0.167, "t": 0.167, "s": 0.33, "m": 0.67, "l": 1.0, "x": 1.33}

# What folding leaves nothing of, and what only training reads.
FOLDED = ("running_", "num_batches_tracked", "bn.weight", "branch_1x1", "out_kpt_reg", "sigma_fc")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="Default: every entry with a checkpoint.")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    path = manifest_path()
    models = load_manifest(path).models
    text, differing = path.read_text(encoding="utf-8"), 0
    for info in models.values():
        file = info.files.get("pth")
        if file is None or (arguments.names and info.name not in arguments.names):
            continue
        line = yields(info.family, info.name.split("-")[1], info.input_size_wh, info.skeleton)
        if line != file.yields:
            differing += 1
            print(f"{info.name}: {line}", flush=True)
            entry = re.compile(rf'(pth = {{ url = "{re.escape(file.url)}".*?)(?:, yields = "[^"]*")? }}')
            text = entry.sub(lambda found, line=line: f'{found[1]}, yields = "{line}" }}', text)
    if arguments.write:
        path.write_text(text, encoding="utf-8")
    return int(differing > 0 and not arguments.write)


@cache
def yields(family: str, size: str, input_size_wh: tuple[int, int], skeleton: str) -> str:
    """Return inputs, outputs and sizes of a network's export, in words."""
    width, height = input_size_wh
    keypoints = load_skeleton(skeleton).num_keypoints if skeleton else 0
    outputs = {
        "pose": f"keypoints [n, {keypoints}, 2], scores [n, {keypoints}]",
        "detection": "dets [n, 100, 5], labels [n, 100]",
        "one_stage": f"dets [n, 100, 5], labels [n, 100], keypoints [n, 100, {keypoints}, 2], scores [n, 100, {keypoints}]",
    }
    task = {"rtmdet": "detection", "yolox": "detection", "rtmo": "one_stage"}.get(family, "pose")
    with torch.device("meta"):
        weights = built(family, size, input_size_wh, keypoints).state_dict()
    total = convolutions = 0
    for key, tensor in weights.items():
        if any(part in key for part in FOLDED):
            continue
        total += tensor.numel()
        convolutions += tensor.numel() if tensor.ndim == 4 else 0
    full, half = total * 4e-6, (total * 4 - convolutions * 2) * 1e-6
    return f"frames_u8 [n, {height}, {width}, 3] to {outputs[task]}; {full:.0f} MB, FP16 {half:.0f} MB"


def built(family: str, size: str, input_size_wh: tuple[int, int], keypoints: int) -> nn.Module:
    depth, width = DEPTHS[size], WIDTHS[size]
    nano = size == "nano"
    match family:
        case "rtmpose":
            return RTMPose(depth, width, keypoints, input_size_wh)
        case "rtmw":
            return RTMW(depth, width, keypoints, input_size_wh)
        case "rtmo":
            return RTMO(max(depth, 0.33), width, keypoints)
        case "yolox":
            return YOLOX(max(depth, 0.33), width, 1, depthwise=nano)
        case _:
            return RTMDet(depth, width, 1, depthwise=nano, share_conv=not nano)


if __name__ == "__main__":
    sys.exit(main())
