"""What the deploy graph costs beside the raw one: opening it, and running it against the raw graph plus host work.

    python benchmarks/export/load_and_run.py [--family rtmpose|rtmdet] [--size m] [--rounds 25] [--threads 2]

Both graphs are written from the same untrained network. Opening: time to make an ONNX Runtime session. Running: a batch of
uint8 pictures to keypoints (or boxes), by the deploy graph alone, and by this package's own host path (normalisation into
float planes), the raw graph and, for pose, decoding in numpy. The two are timed in turn, round by round; time is the
processor time of all threads, which do not spin while they wait, and given is the ratio of the least times, so that
neighbours on a busy machine count as little as may be. The aims: opening at most 1.2 times as long, running no slower
(within one percent, which is what a repetition of the same call differs by).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import torch

from rtmpose_infer.export import ExportOptions, export
from rtmpose_infer.export.networks.rtmdet import RTMDet
from rtmpose_infer.export.networks.rtmpose import RTMPose
from rtmpose_infer.model_spec import load_model_file
from rtmpose_infer.preprocess import InputBuffer
from rtmpose_infer.simcc import decode_simcc

FACTORS = {"t": (0.167, 0.375), "s": (0.33, 0.5), "m": (0.67, 0.75), "l": (1.0, 1.0), "x": (1.33, 1.25)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=("rtmpose", "rtmdet"), default="rtmpose")
    parser.add_argument("--size", choices=FACTORS, default="m")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with TemporaryDirectory() as folder:
        paths = written(Path(folder), arguments.family, arguments.size)
        task = "pose" if arguments.family == "rtmpose" else "detection"
        specs = {form: load_model_file(path, task=task).spec for form, path in paths.items()}

        def opened(form: str) -> onnxruntime.InferenceSession:
            return onnxruntime.InferenceSession(str(paths[form]), options, providers=["CPUExecutionProvider"])

        loading = ratio(lambda: opened("deploy"), lambda: opened("raw"), arguments.rounds)
        record = {
            "network": f"{arguments.family}-{arguments.size}",
            "threads": arguments.threads,
            "rounds": arguments.rounds,
            "open_deploy_over_raw": loading,
        }
        deploy, raw = opened("deploy"), opened("raw")
        width, height = specs["raw"].input_size_wh
        buffer = InputBuffer(specs["raw"])
        for batch in (1, 8):
            pictures = np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)

            def run_deploy(pictures: np.ndarray = pictures) -> object:
                return deploy.run(None, {"frames_u8": pictures})

            def run_raw(pictures: np.ndarray = pictures) -> object:
                buffer.pictures(len(pictures))[:] = pictures
                outputs = raw.run(None, {"input": buffer.tensor(len(pictures))})
                return decode_simcc(outputs[0], outputs[1]) if task == "pose" else outputs

            record[f"run_deploy_over_raw_batch_{batch}"] = ratio(run_deploy, run_raw, arguments.rounds)
    print(json.dumps(record))
    runs = [value for key, value in record.items() if key.startswith("run_")]
    return int(loading > 1.2 or max(runs) > 1.01)


def written(folder: Path, family: str, size: str) -> dict[str, Path]:
    deepen, widen = FACTORS[size]
    if family == "rtmpose":
        network: torch.nn.Module = RTMPose(deepen, widen, 17, (192, 256))
    else:
        network = RTMDet(deepen, widen, 1, exp_on_reg=size in "mlx")
    checkpoint = folder / "network.pth"
    torch.save(network.state_dict(), checkpoint)
    paths = {"deploy": folder / "deploy.onnx", "raw": folder / "raw.onnx"}
    for form, path in paths.items():
        export(checkpoint, path, ExportOptions(raw=form == "raw"))
    return paths


def ratio(first: Callable[[], object], second: Callable[[], object], rounds: int) -> float:
    """Return the ratio of the least processor times of two calls, timed in turn."""
    times: dict[Callable[[], object], list[float]] = {first: [], second: []}
    for index in range(rounds + 2):
        for call in (first, second) if index % 2 else (second, first):
            start = time.process_time()
            call()
            times[call].append(time.process_time() - start)
    return round(min(times[first]) / min(times[second]), 3)


if __name__ == "__main__":
    sys.exit(main())
