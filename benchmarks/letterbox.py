"""What a detector's input costs on the host: letterbox and tensor, from a 1080p frame to 640×640.

    python benchmarks/letterbox.py [--size 640] [--runs 300]

Both forms of input take turns: uint8 pictures, as the exporter's graphs take them, and normalised float planes, as
published files do. The aim is at most 1.5 ms. Times are by the wall; on a busy machine the quickest tenth says more.
"""

from __future__ import annotations

import argparse
import statistics
import time

import cv2
import numpy as np

from rtmpose_infer.model_spec import ModelSpec
from rtmpose_infer.preprocess import InputBuffer, letterbox_into


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--runs", type=int, default=300)
    options = parser.parse_args()
    size_wh = (options.size, options.size)
    forms = {
        "uint8 pictures": ModelSpec(task="detection", head="nms", input_size_wh=size_wh, input_format="nhwc_uint8"),
        "float planes": ModelSpec(
            task="detection",
            head="nms",
            input_size_wh=size_wh,
            mean=(103.53, 116.28, 123.675),
            std=(57.375, 57.12, 58.395),
        ),
    }
    buffers = {name: InputBuffer(spec) for name, spec in forms.items()}
    frame = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(options.runs):
        for name, buffer in buffers.items():
            start = time.perf_counter()
            letterbox_into(frame, buffer.pictures(1)[0])
            buffer.tensor(1)
            seconds[name].append(time.perf_counter() - start)
    print(f"1920×1080 to {options.size}×{options.size}, OpenCV {cv2.__version__}, {cv2.getNumThreads()} threads")
    for name, values in seconds.items():
        tenth = statistics.quantiles(values, n=10)[0]
        print(f"  {name:16} median {1e3 * statistics.median(values):.2f} ms, quickest tenth {1e3 * tenth:.2f} ms")


if __name__ == "__main__":
    main()
