"""How far ncnn's joints are from its own float32 on the CPU when a device computes, or computes in FP16.

Takes people with at least six labelled joints from a COCO file (the pictures in a folder `images` beside it) and compares
the joints that float32 is sure of, in pixels of the network's input. A Vulkan device may be a software one (Mesa's).

    python benchmarks/ncnn_precision.py person_keypoints.json cpu:fp16 vulkan:0:fp32 vulkan:0:fp16
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from rtmpose_infer import BackendConfig, PoseEstimator

SURE = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("variants", nargs="+", help="device:precision")
    parser.add_argument("--pose", default="embedded-pose")
    parser.add_argument("--people", type=int, default=60)
    args = parser.parse_args()
    people = list(sample(args.annotations, args.people))
    with PoseEstimator(args.pose, backend="ncnn", device="cpu") as reference:
        size_wh, padding = reference.spec.input_size_wh, reference.spec.padding
        expected = [reference.predict(picture, box[None]) for picture, box in people]
    for variant in args.variants:
        device, _, precision = variant.rpartition(":")
        config = BackendConfig(device=device, options={"precision": precision})
        apart = []
        with PoseEstimator(args.pose, backend="ncnn", backend_config=config) as estimator:
            for (picture, box), poses in zip(people, expected, strict=True):
                scale = float(((box[2:] - box[:2]) * padding / size_wh).max())
                found = estimator.predict(picture, box[None])
                sure = poses.keypoint_scores > SURE
                apart += (np.linalg.norm(found.keypoints - poses.keypoints, axis=2)[sure] / scale).tolist()
            name = estimator.describe().details.get("name", "")
        p50, p90, p99 = np.percentile(apart, (50, 90, 99))
        print(f"{variant:16s} {len(apart)} joints: median {p50:.2f}, p90 {p90:.2f}, p99 {p99:.2f} input px  {name}")


def sample(annotations: Path, count: int):
    """Yield pictures and the (4,) box of one person in each."""
    data = json.loads(annotations.read_text(encoding="utf-8"))
    names = {image["id"]: image["file_name"] for image in data["images"]}
    chosen = [person for person in data["annotations"] if person.get("num_keypoints", 0) > 5]
    for person in chosen[:count]:
        x, y, width, height = person["bbox"]
        picture = cv2.imread(str(annotations.parent / "images" / names[person["image_id"]]))
        yield picture, np.array([x, y, x + width, y + height], np.float32)


if __name__ == "__main__":
    main()
