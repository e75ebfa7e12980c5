"""Run every tracker on every scene, and print who kept whom apart: ``python benchmarks/tracking/run.py --help``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
import contestants as lab
import world

from rtmpose_infer.evaluation.tracking import PeopleFrame, identity_report

HERE = Path(__file__).resolve().parent
TRACKERS: dict[str, Callable[..., lab.Step]] = {
    "rtmpose_infer": lab.ours,
    "rtmlib": lab.rtmlib,
    "MMDeploy (algorithm)": lab.mmdeploy_algorithm,
    "ByteTrack": partial(lab.box_tracker, name="ByteTrackTracker"),
    "OC-SORT": partial(lab.box_tracker, name="OCSORTTracker"),
}
NOISES = {"none": world.NONE, "moderate": world.MODERATE, "heavy": world.HEAVY}
HIDDEN = 0.2  # who is covered more than to this share need not be found


def truth_frames(scene: world.Scene, noise: world.Noise) -> list[PeopleFrame]:
    """Return the truth to compare with: joints that can be seen, and people who can."""
    out = []
    for frame in scene.frames:
        covered = (frame.coverer >= 0) & noise.occlusion
        keypoints = np.where(covered[..., None], np.nan, frame.keypoints)
        hidden = (frame.visible < HIDDEN) & noise.occlusion | covered.all(axis=1)
        out.append(PeopleFrame(frame.ids, frame.bboxes, keypoints, hidden))
    return out


def play(job: tuple[str, str, str, int | str, int, Path, str]) -> dict[str, object]:
    """Run one tracker on one scene."""
    tracker_name, scene_name, noise_name, interval, seed, shared, variant = job
    noise = NOISES[noise_name]
    scene = world.load_scenes(shared, names=[scene_name], seed=seed)[0]
    if variant == "dropped":
        scene = world.with_dropped_frames(scene, share=0.2, seed=seed)
    elif variant == "third":
        scene = world.at_rate(scene, every=3)
    elif variant == "cuts":
        scene = world.with_cuts(scene, every=150)
    observer = world.Observer(scene, noise, seed=seed)
    step = TRACKERS[tracker_name](observer, det_interval=interval)
    started = time.perf_counter()
    tracked = [step(frame) for frame in range(len(scene))]
    seconds = time.perf_counter() - started
    truth = truth_frames(scene, noise)
    joints = identity_report(truth, tracked, sigmas=world.SKELETON.oks_sigmas)
    boxes = identity_report(truth, tracked)
    return {
        "tracker": tracker_name,
        "scene": scene.name,
        "noise": noise_name,
        "det_interval": interval,
        "seed": seed,
        "variant": variant,
        "detector_calls": observer.detector_calls,
        "poses": observer.poses_estimated,
        "seconds": seconds,
        "joints": joints.as_dict(),
        "boxes": boxes.as_dict(),
    }


def together(rows: list[dict[str, object]], kind: str) -> dict[str, float]:
    """Return one tracker's figures over all scenes: counts are added, ratios are weighted by the people to be found."""
    reports = [row[kind] for row in rows]
    weight = np.array([r["truth"] for r in reports], float)
    out = {name: float(np.average([r[name] for r in reports], weights=weight)) for name in ("idf1", "hota", "mota")}
    out |= {
        name: int(sum(r[name] for r in reports)) for name in ("id_switches", "fragmentations", "misses", "false_alarms")
    }
    return out


def main() -> None:
    """Parse the command line, run, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=HERE.parents[2] / "shared", help="folder of development data")
    parser.add_argument("--trackers", nargs="+", default=list(TRACKERS), choices=list(TRACKERS))
    parser.add_argument("--scenes", nargs="+", default=None)
    parser.add_argument("--noise", nargs="+", default=["moderate"], choices=list(NOISES))
    parser.add_argument("--interval", nargs="+", default=["5"])
    parser.add_argument("--variant", nargs="+", default=["plain"], choices=["plain", "dropped", "third", "cuts"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, default=None, help="write every single result here")
    parser.add_argument("--per-scene", action="store_true")
    options = parser.parse_args()
    folder = options.shared / "data" / "tracking" / "mot_gt"
    scenes = options.scenes or sorted(path.stem for path in folder.glob("*.txt"))
    intervals = [i if i == "auto" else int(i) for i in options.interval]
    jobs = [
        (tracker, scene, noise, interval, seed, options.shared, variant)
        for noise in options.noise
        for variant in options.variant
        for interval in intervals
        for tracker in options.trackers
        if interval != "auto" or tracker == "rtmpose_infer"
        for scene in scenes
        for seed in range(options.seeds)
    ]
    with ProcessPoolExecutor(options.jobs) as pool:
        results = list(pool.map(play, jobs))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(
        "| noise | variant | interval | tracker | IDF1 | HOTA | MOTA | switches | fragm. | IDF1 by box | detector calls | poses |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for noise, variant, interval, tracker in dict.fromkeys((j[2], j[6], j[3], j[0]) for j in jobs):
        rows = [
            r
            for r in results
            if (r["noise"], r["variant"], r["det_interval"], r["tracker"]) == (noise, variant, interval, tracker)
        ]
        show(rows, tracker, f"{noise} | {variant} | {interval}")
        if options.per_scene:
            for name in dict.fromkeys(r["scene"] for r in rows):
                show([r for r in rows if r["scene"] == name], f"· {name}", f"{noise} | {variant} | {interval}")
    versions = {name: metadata.version(name) for name in ("rtmlib", "trackers", "motrics", "numpy") if _installed(name)}
    print(", ".join(f"{name} {version}" for name, version in versions.items()))


def show(rows: list[dict[str, object]], name: str, where: str) -> None:
    joints, boxes = together(rows, "joints"), together(rows, "boxes")
    print(
        f"| {where} | {name} | {100 * joints['idf1']:.1f} | {100 * joints['hota']:.1f} | {100 * joints['mota']:.1f} | "
        f"{joints['id_switches']} | {joints['fragmentations']} | {100 * boxes['idf1']:.1f} | "
        f"{sum(r['detector_calls'] for r in rows)} | {sum(r['poses'] for r in rows)} |"
    )


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main()
