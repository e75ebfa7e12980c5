"""What the settings of a runtime do to a detector and a pose network that take turns, as they do on every frame.

Each setting has a process of its own, and the processes take turns, frame by frame, so that whatever else runs on the
machine hits all of them. Printed are milliseconds per frame (median, 90th percentile) and the processor time of a frame
over all threads: a thread that spins costs time that the clock on the wall does not show when cores are idle.

    python benchmarks/runtime_settings.py onnxruntime --detector det.onnx --pose pose.onnx --people 3
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SETTINGS = {
    "onnxruntime": {
        "ours": {},
        "no spinning": {"session_config": {"session.intra_op.allow_spinning": "0"}},
        "spinning as it likes": {"session_config": {"session.intra_op.spin_duration_us": "-1"}},
        "the same, stopped after a run": {
            "session_config": {"session.intra_op.spin_duration_us": "-1", "session.force_spinning_stop": "1"}
        },
        **{
            f"spinning {us} µs": {"session_config": {"session.intra_op.spin_duration_us": str(us)}}
            for us in (20, 200, 1000)
        },
    },
    "openvino": {
        "ours": {},
        "threads pinned": {"properties": {"ENABLE_CPU_PINNING": True}},
        "throughput": {"performance_hint": "throughput"},
        "arg-max as OpenVINO has it": {"cache": False, "without": ("", "_quicken_arg_max", None)},
        "detector of any batch": {"cache": False, "without": ("_Networks", "_batches", (None,))},
    },
    "ncnn": {
        "sleeping": {},
        "sleeping, fp16": {"precision": "fp16"},
        "spinning": {"environment": {"OMP_WAIT_POLICY": "ACTIVE"}},
        "spinning 3000 turns": {"environment": {"GOMP_SPINCOUNT": "3000"}},
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backend", choices=sorted(SETTINGS))
    parser.add_argument("--detector", required=True)
    parser.add_argument("--pose", required=True)
    parser.add_argument("--people", type=int, default=3)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rest", type=float, default=0, help="pause after each frame, in lengths of the frame")
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.setting is not None:
        serve(args)
        return
    workers = {}
    for name, options in SETTINGS[args.backend].items():
        environment = {**os.environ, **options.get("environment", {})}
        command = [sys.executable, *sys.argv, "--setting", name]
        workers[name] = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    for worker in workers.values():
        worker.stdout.readline()
    rng = np.random.default_rng(0)
    taken = {name: [] for name in workers}
    for _ in range(args.frames):
        for name in rng.permutation(list(workers)):
            workers[name].stdin.write("\n")
            workers[name].stdin.flush()
            taken[name].append(json.loads(workers[name].stdout.readline()))
            time.sleep(args.rest * taken[name][-1][0])
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"{args.backend}, {args.threads} threads, {args.people} people, {load}")
    for name, pairs in taken.items():
        wall, cpu = np.array(pairs).T * 1e3
        middle, late = np.quantile(wall, (0.5, 0.9))
        print(f"  {name:32s} {middle:7.1f} ms (p90 {late:7.1f}), processor {np.median(cpu):7.1f} ms")


def serve(args: argparse.Namespace) -> None:
    from rtmpose_infer.backends import BackendConfig, load_backend
    from rtmpose_infer.model_spec import load_model_file

    options = dict(SETTINGS[args.backend][args.setting])
    options.pop("environment", None)
    if "without" in options:  # a step of our adapter: of which class, its name, and what to answer in its place
        from rtmpose_infer.backends import openvino as adapter

        owner, name, answer = options.pop("without")
        setattr(getattr(adapter, owner) if owner else adapter, name, lambda _: answer)
    config = BackendConfig(device="cpu", threads=args.threads, options=options)
    calls = []
    for task, path, count in (("detection", args.detector, 1), ("pose", args.pose, args.people)):
        model = load_model_file(Path(path), task=task)
        backend = load_backend(model, backend=args.backend, config=config)
        calls += feeds_of(backend, model.spec.input_size_wh, count)
    for _ in range(5):
        for run, feeds in calls:
            run(feeds)
    print("ready", flush=True)
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        for run, feeds in calls:
            run(feeds)
        print(json.dumps([time.perf_counter() - start, time.process_time() - cpu]), flush=True)


def feeds_of(backend, size_wh, count):
    """Return the calls that ``count`` pictures take: one batch, or one by one where the batch is fixed."""
    spec = backend.inputs[0]
    width, height = size_wh
    nhwc = spec.dtype == np.uint8
    batch = spec.shape[0] or count
    array = np.random.default_rng(0).integers(0, 255, (batch, height, width, 3) if nhwc else (batch, 3, height, width))
    feeds = {spec.name: array.astype(spec.dtype) if nhwc else (array / 64 - 2).astype(spec.dtype)}
    return [(backend.run, feeds)] * (count // batch)


if __name__ == "__main__":
    main()
