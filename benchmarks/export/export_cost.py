"""What an export takes: time and memory of RTMPose-m (or another size) from a checkpoint, in a process of its own.

    python benchmarks/export/export_cost.py [--family rtmpose] [--size m] [--threads 2]

The checkpoint has untrained weights, which cost the same. Given are the wall time, the processor time (which neighbours
on a busy machine change less) and the largest resident memory of the whole process, imports included. The aims are 60
seconds on two cores and 4 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from rtmpose_infer.export.networks.rtmdet import RTMDet
from rtmpose_infer.export.networks.rtmpose import RTMPose

FACTORS = {"t": (0.167, 0.375), "s": (0.33, 0.5), "m": (0.67, 0.75), "l": (1.0, 1.0), "x": (1.33, 1.25)}
SCRIPT = "import sys; from rtmpose_infer.export import export; export(sys.argv[1], sys.argv[2])"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=("rtmpose", "rtmdet"), default="rtmpose")
    parser.add_argument("--size", choices=FACTORS, default="m")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    deepen, widen = FACTORS[arguments.size]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, output = Path(folder) / "network.pth", Path(folder) / "network.onnx"
        if arguments.family == "rtmpose":
            network: torch.nn.Module = RTMPose(deepen, widen, 17, (192, 256))
        else:
            network = RTMDet(deepen, widen, 1, exp_on_reg=arguments.size in "mlx")
        torch.save({"state_dict": network.state_dict(), "meta": {}}, checkpoint)
        environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", SCRIPT, checkpoint, output], check=True, env=environment)
        wall = time.perf_counter() - start
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        record = {
            "network": f"{arguments.family}-{arguments.size}",
            "threads": arguments.threads,
            "load_average": round(os.getloadavg()[0], 1),
            "wall_s": round(wall, 1),
            "processor_s": round(used.ru_utime + used.ru_stime, 1),
            "peak_memory_gb": round(used.ru_maxrss / 2**20, 2),
            "file_mb": round(output.stat().st_size / 1e6, 1),
        }
    print(json.dumps(record))
    return int(record["peak_memory_gb"] > 4 or record["processor_s"] > 60 * arguments.threads)


if __name__ == "__main__":
    sys.exit(main())
