"""A runtime that is missing names its extra in one line, and installing that extra is all that it takes.

For each extra a new virtual environment gets this checkout's wheel with its commands and no runtime. There
`rtmpose track PICTURE --backend NAME` must fail with one line that says what to install; that is installed; and the
same command must work, on the networks in the package, and see what it sees with the other runtimes. `rtmpose doctor
--require NAME` must say the same with its exit code. Needs a package index, and some 200 MB for each extra.

    python benchmarks/fresh_environments.py cpu openvino ncnn
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CHECKOUT = Path(__file__).parents[1]
BACKENDS = {"cpu": "onnxruntime", "openvino": "openvino", "ncnn": "ncnn"}
ADVICE = re.compile(r"pip install '(rtmpose-infer\[[\w,-]+\])'")


@dataclass
class Seen:
    """What a fresh environment showed."""

    said: str
    install_s: float
    packages: list[str]
    people: int
    keypoints: np.ndarray
    scores: np.ndarray


class Environment:
    """A virtual environment of its own, with its own cache."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=True)
        self.folder = folder
        self._programs = folder / ("Scripts" if sys.platform == "win32" else "bin")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment."""
        environment = {"PATH": str(self._programs), "RTMPOSE_INFER_CACHE": str(self.folder / "cache"), "COLUMNS": "200"}
        first, *rest = command
        program = str(self._programs / first)
        return subprocess.run(
            [program, *rest], check=False, env=environment, cwd=self.folder, capture_output=True, text=True
        )

    def install(self, requirement: str) -> None:
        """Install what a user would; give up where that fails."""
        done = self.run("python", "-m", "pip", "install", "--quiet", requirement)
        if done.returncode:
            sys.exit(f"pip install {requirement}: {done.stderr.strip()}")

    def packages(self) -> set[str]:
        """Return what is installed."""
        listed = json.loads(self.run("python", "-m", "pip", "list", "--format", "json").stdout)
        return {f"{package['name']} {package['version']}" for package in listed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extras", nargs="+", choices=sorted(BACKENDS))
    parser.add_argument("--picture", type=Path, help="a picture with people; scikit-image's astronaut by default")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rtmpose-fresh-") as name:
        folder = Path(name)
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(CHECKOUT)],
            check=True,
        )
        (wheel,) = folder.glob("*.whl")
        picture = args.picture or astronaut(folder)
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, {picture.name}")
        first: Seen | None = None
        for extra in args.extras:
            seen = try_extra(extra, wheel, picture.resolve(), folder / extra)
            print(f"\n[{extra}] without: {seen.said}")
            print(f"  installed in {seen.install_s:.0f} s: {', '.join(seen.packages)}")
            print(f"  the same command: {seen.people} people")
            if first is None:
                first = seen
            elif seen.keypoints.shape != first.keypoints.shape:
                sys.exit(f"[{args.extras[0]}] sees {first.people} people")
            else:
                sure = first.scores > 0.3
                apart = np.linalg.norm(seen.keypoints - first.keypoints, axis=-1)[sure]
                print(f"  {sure.sum()} sure joints within {apart.max():.3f} px of those of [{args.extras[0]}]")


def try_extra(extra: str, wheel: Path, picture: Path, folder: Path) -> Seen:
    """Return what a user would see who has not the runtime at first and does as told."""
    backend = BACKENDS[extra]
    here = Environment(folder)
    here.install(f"{wheel}[cli]")
    command = ("rtmpose", "track", str(picture), "--backend", backend, "-o", "out.png", "--json", "out.json")
    examine = ("rtmpose", "doctor", "--require", backend)
    before = here.packages()
    refused = here.run(*command)
    lines = refused.stderr.strip().splitlines()
    advice = ADVICE.search(refused.stderr)
    if refused.returncode != 1 or len(lines) != 1 or advice is None or advice[1] != f"rtmpose-infer[{extra}]":
        sys.exit(f"[{extra}] exit code {refused.returncode}: {refused.stderr}{refused.stdout}")
    if here.run(*examine).returncode != 1:
        sys.exit(f"[{extra}] the doctor finds {backend} where it is not")
    start = time.perf_counter()
    here.install(advice[1].replace("rtmpose-infer", f"{wheel}"))
    install_s = time.perf_counter() - start
    done = here.run(*command)
    if done.returncode:
        sys.exit(f"[{extra}] after the installation, exit code {done.returncode}: {done.stderr}")
    doctor = here.run(*examine)
    if doctor.returncode:
        sys.exit(f"[{extra}] after the installation the doctor says:\n{doctor.stdout}")
    people = json.loads((folder / "out.json").read_text(encoding="utf-8"))["frames"][0]["people"]
    if not people or not (folder / "out.png").stat().st_size:
        sys.exit(f"[{extra}] nobody was found in {picture.name}")
    return Seen(
        said=lines[0],
        install_s=install_s,
        packages=sorted(here.packages() - before),
        people=len(people),
        keypoints=np.array([person["keypoints"] for person in people], np.float64),
        scores=np.array([person["keypoint_scores"] for person in people], np.float64),
    )


def astronaut(folder: Path) -> Path:
    """Write the photograph that every run of this can have."""
    import cv2
    from skimage.data import astronaut as photograph

    path = folder / "astronaut.png"
    cv2.imwrite(str(path), photograph()[..., ::-1])
    return path


if __name__ == "__main__":
    main()
