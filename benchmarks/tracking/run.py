"""Run every tracker on every scene, and print who kept whom apart: ``python benchmarks/tracking/run.py --help``.

What costs time and is the same for all trackers (the scenes, what the observer sees in them) and what cannot change as long
as the laboratory does not (the peers' results) is kept in ``--cache``; only our own tracker always runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes share the machine already
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import contestants as lab
import numpy as np
import scripted
import world

from rtmpose_infer.evaluation.tracking import identity_report

HERE = Path(__file__).resolve().parent

OURS, CPP = "ours", "mmdeploy-cpp"
CONTESTANTS: dict[str, tuple[str, Callable[..., lab.Step]]] = {
    OURS: ("rtmpose_infer", lab.ours),
    "rtmlib": ("rtmlib", lab.rtmlib),
    "mmdeploy": ("MMDeploy's algorithm", lab.mmdeploy_algorithm),
    CPP: ("MMDeploy C++", lab.mmdeploy_cpp),
    "bytetrack": ("ByteTrack", partial(lab.box_tracker, name="ByteTrackTracker")),
    "ocsort": ("OC-SORT", partial(lab.box_tracker, name="OCSORTTracker")),
    "botsort": ("BoT-SORT", partial(lab.box_tracker, name="BoTSORTTracker")),
    "cbiou": ("C-BIoU", partial(lab.box_tracker, name="CBIoUTracker")),
}
NOISES = {"none": world.NONE, "moderate": world.MODERATE, "heavy": world.HEAVY}
VARIANTS = ("plain", "dropped", "third", "cuts")
PACKAGES = ("rtmlib", "trackers", "motrics", "numpy")
HEAD = "IDF1 | HOTA | MOTA | switches | fragm. | reused ids | IDF1 by box | detector calls | poses"
# What --readme publishes: noise, variant, detector intervals, contestants. What is lost when nothing is hard needs no peer.
PUBLISHED = (("moderate", "plain", ["5", "auto"], list(CONTESTANTS)), ("none", "plain", ["1"], [OURS]))
TITLES = {
    "plain": "",
    "dropped": ", a fifth of the frames dropped at random",
    "third": ", every third frame only (10 a second)",
    "cuts": ", the camera cutting every 150 frames",
}


@dataclass(frozen=True)
class Job:
    """One scene as one observer sees it, and everybody who is to be tried on it."""

    scene: str
    noise: str
    variant: str
    seed: int
    runs: tuple[tuple[str, int | str], ...]  # contestant, detector interval
    shared: Path
    cache: Path
    mmdeploy: str | None = None  # interpreter of the environment with mmdeploy-runtime
    mmdeploy_version: str | None = None
    scripted: bool = False  # the scripted pose network answers for the observer


def play(job: Job) -> list[dict[str, Any]]:
    """Run the contestants on one scene."""
    about = {"sequence": job.scene, "noise": job.noise, "variant": job.variant, "seed": job.seed}
    where = f"{job.scene}-{job.noise}-{job.variant}-{job.seed}"
    sights: world.Sights | None = None
    rows = []
    for contestant, interval in job.runs:
        path = job.cache / f"{where}-{contestant}-{interval}-{_fingerprint_of(job, contestant)}.json"
        if contestant != OURS and path.exists():
            rows.append(json.loads(path.read_text(encoding="utf-8")))
            continue
        if sights is None:
            sights = _sights(job, where)
            truth = sights.truth()
        observer = world.Observer(sights, poses=scripted.answers(sights) if job.scripted else None)
        more = {"python": job.mmdeploy} if contestant == CPP else {}
        step = CONTESTANTS[contestant][1](observer, det_interval=interval, **more)
        tracked = [step(frame) for frame in range(len(sights.scene))]
        row = {
            "contestant": contestant,
            **about,
            "det_interval": interval,
            "frames": len(truth),
            "detector_calls": observer.detector_calls,
            "poses": observer.poses_estimated,
            "joints": identity_report(truth, tracked, sigmas=world.SKELETON.oks_sigmas).as_dict(),
            "boxes": identity_report(truth, tracked).as_dict(),
        }
        if contestant != OURS:
            path.write_text(json.dumps(row), encoding="utf-8")
        rows.append(row)
    return rows


def _sights(job: Job, where: str) -> world.Sights:
    path = job.cache / f"{where}-{_fingerprint(job, 'world.py')}.pickle"
    if path.exists():
        return pickle.loads(path.read_bytes())
    (scene,) = world.load_scenes(job.shared, names=[job.scene], seed=job.seed)
    if job.variant == "dropped":
        scene = world.with_dropped_frames(scene, share=0.2, seed=job.seed)
    elif job.variant == "third":
        scene = world.at_rate(scene, every=3)
    elif job.variant == "cuts":
        scene = world.with_cuts(scene, every=150)
    sights = world.Sights(scene, NOISES[job.noise], seed=job.seed)
    path.write_bytes(pickle.dumps(sights))
    return sights


def _fingerprint_of(job: Job, contestant: str) -> str:
    if contestant == CPP:
        return f"{_fingerprint(job, 'contestants.py', 'scripted.py')}-{job.mmdeploy_version}"
    if job.scripted:
        return f"{_fingerprint(job, 'contestants.py', 'scripted.py')}-scripted"
    return _fingerprint(job, "contestants.py")


def _fingerprint(job: Job, *more: str) -> str:
    """Return what the cached results depend on: the laboratory's own files, the truth, and the peers' versions."""
    content = b"".join((HERE / name).read_bytes() for name in ("world.py", *more))
    content += (_truth_folder(job.shared) / f"{job.scene}.txt").read_bytes() + _versions().encode()
    return hashlib.sha256(content).hexdigest()[:12]


def together(rows: Sequence[dict[str, Any]], kind: str) -> dict[str, float]:
    """Return one tracker's figures over all scenes: counts are added, ratios are weighted by the people to be found."""
    reports = [row[kind] for row in rows]
    weight = np.array([r["truth"] for r in reports], float)
    out = {name: float(np.average([r[name] for r in reports], weights=weight)) for name in ("idf1", "hota", "mota")}
    return out | {name: int(sum(r[name] for r in reports)) for name in ("id_switches", "fragmentations", "reused_ids")}


def line(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """Return one line of the table."""
    joints, boxes = together(rows, "joints"), together(rows, "boxes")
    poses = [r["poses"] for r in rows]
    return (
        f"| {name} | {100 * joints['idf1']:.1f} | {100 * joints['hota']:.1f} | {100 * joints['mota']:.1f} | "
        f"{joints['id_switches']} | {joints['fragmentations']} | {joints['reused_ids']} | {100 * boxes['idf1']:.1f} | "
        f"{sum(r['detector_calls'] for r in rows)} | {'–' if None in poses else sum(poses)} |"
    )


def table(results: Sequence[dict[str, Any]], *, per_sequence: bool = False) -> str:
    """Return a table for one setting of the observer."""
    lines = [f"| tracker | interval | {HEAD} |", "|---|---|" + "---|" * (HEAD.count("|") + 1)]
    for interval, contestant in dict.fromkeys((r["det_interval"], r["contestant"]) for r in results):
        rows = [r for r in results if (r["det_interval"], r["contestant"]) == (interval, contestant)]
        lines.append(line(f"{CONTESTANTS[contestant][0]} | {interval}", rows))
        if per_sequence:
            for name in dict.fromkeys(r["sequence"] for r in rows):
                lines.append(line(f"· {name} | {interval}", [r for r in rows if r["sequence"] == name]))
    return "\n".join(lines)


def run(options: argparse.Namespace, noise: str, variant: str, intervals: Sequence[str]) -> list[dict[str, Any]]:
    """Return the results of every contestant on every sequence, in the order of the table."""
    parsed = [i if i == "auto" else int(i) for i in intervals]
    contestants = [c for c in options.contestants if c != CPP or options.mmdeploy]
    runs = tuple((c, i) for i in parsed for c in contestants if i != "auto" or c == OURS)
    folder = _truth_folder(options.shared)
    names = options.sequences or [path.stem for path in folder.glob("*.txt")]
    longest_first = sorted(names, key=lambda name: -(folder / f"{name}.txt").stat().st_size)
    jobs = [
        Job(
            name,
            noise,
            variant,
            seed,
            runs,
            options.shared,
            options.cache,
            options.mmdeploy,
            options.mmdeploy_version,
            options.scripted,
        )
        for name in longest_first
        for seed in options.seed
    ]
    with ProcessPoolExecutor(options.jobs) as pool:
        results = [row for rows in pool.map(play, jobs) for row in rows]
    order = {run: place for place, run in enumerate(runs)}
    return sorted(results, key=lambda r: (order[r["contestant"], r["det_interval"]], r["sequence"], r["seed"]))


def write_readme(options: argparse.Namespace) -> None:
    """Put the published tables between the marks of the README beside this file."""
    path = HERE / "README.md"
    before, _, rest = path.read_text(encoding="utf-8").partition("<!-- results: run.py --readme -->")
    _, _, after = rest.partition("<!-- end of results -->")
    sections = []
    for noise, variant, intervals, options.contestants in PUBLISHED:
        results = run(options, noise, variant, intervals)
        amount = {"none": "No"}.get(noise, noise.capitalize())
        sections.append(f"**{amount} noise{TITLES[variant]}**\n\n{table(results)}")
    body = "\n\n".join(sections) + f"\n\nSeeds {', '.join(map(str, options.seed))}; {_all_versions(options)}."
    path.write_text(
        f"{before}<!-- results: run.py --readme -->\n\n{body}\n\n<!-- end of results -->{after}", encoding="utf-8"
    )


def main() -> None:
    """Parse the command line, run, and print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=HERE.parents[2] / "shared", help="folder of development data")
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--mmdeploy", help=f"interpreter of the environment with {scripted.RUNTIME}, for {CPP}")
    parser.add_argument("--sequences", nargs="+", default=None, help="names as in data/tracking/mot_gt; default: all")
    parser.add_argument("--noise", nargs="+", default=["moderate"], choices=list(NOISES))
    parser.add_argument("--interval", nargs="+", default=["5"], help="frames between two detections, or auto")
    parser.add_argument("--variant", nargs="+", default=["plain"], choices=VARIANTS)
    parser.add_argument("--seed", type=int, nargs="+", default=[0], help="one or more runs of bad luck")
    parser.add_argument(
        "--scripted",
        action="store_true",
        help="show all trackers what the scripted networks answer, as MMDeploy's C++ sees it",
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--cache", type=Path, default=HERE.parents[1] / ".benchmarks" / "tracking")
    parser.add_argument("--json", type=Path, default=None, help="write every single result here")
    parser.add_argument("--per-sequence", action="store_true")
    parser.add_argument(
        "--readme", action="store_true", help="run the published settings and rewrite README.md's tables"
    )
    options = parser.parse_args()
    if options.readme and options.scripted:
        parser.error("the published tables are not for --scripted")
    options.cache.mkdir(parents=True, exist_ok=True)
    options.mmdeploy_version = scripted.version(options.mmdeploy) if options.mmdeploy else None
    if not options.mmdeploy and (options.readme or CPP in options.contestants):
        print(f"{CONTESTANTS[CPP][0]} is left out: it needs --mmdeploy ENV/bin/python\n")
    if options.readme:
        write_readme(options)
        return
    everything = []
    for noise in options.noise:
        for variant in options.variant:
            results = run(options, noise, variant, options.interval)
            everything += results
            print(
                f"{noise} noise{TITLES[variant]}\n\n{table(results, per_sequence=options.per_sequence)}\n", flush=True
            )
    print(_all_versions(options))
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")


def _truth_folder(shared: Path) -> Path:
    return shared / "data" / "tracking" / "mot_gt"


def _all_versions(options: argparse.Namespace) -> str:
    return _versions() + (f", {scripted.RUNTIME} {options.mmdeploy_version}" if options.mmdeploy else "")


def _versions() -> str:
    installed = {distribution.name: distribution.version for distribution in metadata.distributions()}
    return ", ".join(f"{name} {installed.get(name, 'absent')}" for name in PACKAGES)


if __name__ == "__main__":
    main()
