"""How long `import rtmpose_infer` takes beyond numpy and OpenCV, which it needs anyway.

    python benchmarks/import_time.py [--runs 31]

Fresh interpreters take turns: one imports numpy and cv2, the next these and the package. The difference of two
neighbours is what the package adds, and noise that lasts longer than one start hits both alike. The aim is less than
0.15 s. The time that the importing process itself reads is printed too.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_BASE = "import numpy, cv2, sys, time\n"
_PACKAGE = "start = time.perf_counter()\nimport rtmpose_infer\nprint(time.perf_counter() - start)\n"


def start_python(code: str) -> tuple[float, str]:
    """Return the seconds that a fresh interpreter takes for the code, and what it prints."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, done.stdout


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=31)
    runs = parser.parse_args().runs
    for code in (_BASE, _BASE + _PACKAGE):  # compiles the bytecode and warms the disk's cache
        start_python(code)
    base, added, inside = [], [], []
    for _ in range(runs):
        without, _ = start_python(_BASE)
        with_package, printed = start_python(_BASE + _PACKAGE)
        base.append(without)
        added.append(with_package - without)
        inside.append(float(printed))
    for what, seconds in (
        ("python, numpy and cv2", base),
        ("rtmpose_infer beyond them", added),
        ("the same, read by the importing process", inside),
    ):
        low, middle = statistics.quantiles(seconds, n=10)[0], statistics.median(seconds)
        print(f"{what:<42} median {middle:.3f} s, quickest tenth {low:.3f} s")


if __name__ == "__main__":
    main()
