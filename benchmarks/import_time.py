"""How long `import rtmpose_infer` takes beyond numpy and OpenCV, which it needs anyway.

    python benchmarks/import_time.py [--runs 31]

Fresh interpreters take turns: one imports numpy and cv2, the next these and the package. The difference of two
neighbours is what the package adds, and noise that lasts longer than one start hits both alike. The aim is less than
0.15 s. What the importing process reads itself is printed too, by the wall and in processor time; the last is the one
to trust on a busy machine. Bytecode is compiled beforehand, as an installation does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_BASE = "import numpy, cv2, sys, time\n"
_PACKAGE = """
wall, processor = time.perf_counter(), time.process_time()
import rtmpose_infer
print(time.perf_counter() - wall, time.process_time() - processor)
"""


def start_python(code: str, bytecode: str) -> tuple[float, list[float]]:
    """Return the seconds that a fresh interpreter takes for the code, and the numbers that it prints."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = bytecode
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return time.perf_counter() - start, [float(number) for number in done.stdout.split()]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=31)
    runs = parser.parse_args().runs
    base, added, wall, processor = [], [], [], []
    with tempfile.TemporaryDirectory() as bytecode:
        for code in (_BASE, _BASE + _PACKAGE):  # compiles, and warms the disk's cache
            start_python(code, bytecode)
        for _ in range(runs):
            without, _ = start_python(_BASE, bytecode)
            with_package, numbers = start_python(_BASE + _PACKAGE, bytecode)
            base.append(without)
            added.append(with_package - without)
            wall.append(numbers[0])
            processor.append(numbers[1])
    for what, seconds in (
        ("python, numpy and cv2", base),
        ("rtmpose_infer beyond them", added),
        ("the same, read by the importing process", wall),
        ("the same, its processor time", processor),
    ):
        low, middle = statistics.quantiles(seconds, n=10)[0], statistics.median(seconds)
        print(f"{what:<42} median {middle:.3f} s, quickest tenth {low:.3f} s")


if __name__ == "__main__":
    main()
