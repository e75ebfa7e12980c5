"""The default One-Euro filter on real motion: how much jitter it removes, and how far moving joints lag behind.

    python benchmarks/smoothing.py [--shared ../shared] [--noise 2] [--sequences 400]

Penn Action's joints (13, visible ones) move as people move; white noise of ``--noise`` px stands for a network's jitter,
30 frames a second. Jitter is the RMS of acceleration. The aims: it falls by at least 60 %, moving joints lag less than 1.5
frames, and the position error is not above the raw one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from rtmpose_infer.evaluation.tracking import motion_report
from rtmpose_infer.smoothing import OneEuroSmoother, SmoothingState

SHARED = Path(__file__).resolve().parents[2] / "shared"


def smoothed(noisy: np.ndarray, visible: np.ndarray, size_px: float) -> np.ndarray:
    """Return (T, K, 2) joints of one sequence, filtered frame by frame."""
    smoother, state = OneEuroSmoother(), SmoothingState.fresh(1, noisy.shape[1])
    scales = np.array([size_px], np.float32)
    out = np.empty_like(noisy)
    for frame, (points, seen) in enumerate(zip(noisy, visible, strict=True)):
        result, state = smoother.update(state, points[None], seen[None], scales_px=scales, dt_s=1 / 30)
        out[frame] = result[0]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--noise", type=float, default=2.0)
    parser.add_argument("--sequences", type=int, default=400, help="spread evenly over all")
    options = parser.parse_args()
    data = np.load(options.shared / "data" / "tracking" / "penn_action.npz")
    joints, shown, offsets = data["xy_x8"].astype(np.float32) / 8, data["visible"].astype(bool), data["offsets"]
    rng = np.random.default_rng(0)
    rows = []
    for i in np.linspace(0, len(offsets) - 2, options.sequences).astype(int):
        truth, visible = joints[offsets[i] : offsets[i + 1]], shown[offsets[i] : offsets[i + 1]]
        if len(truth) < 20 or not visible.any():
            continue
        known = np.where(visible[..., None], truth, np.nan)
        extent = np.nanmax(known, axis=(0, 1)) - np.nanmin(known, axis=(0, 1))
        size = float(np.sqrt(max(np.prod(extent), 1)))
        noisy = (truth + rng.normal(0, options.noise, truth.shape)).astype(np.float32)
        estimate = np.where(visible[..., None], smoothed(noisy, visible, size), np.nan)
        raw = motion_report(known, np.where(visible[..., None], noisy, np.nan), sizes_px=np.array(size))
        ours = motion_report(known, estimate, sizes_px=np.array(size))
        rows.append([raw.jitter_px, ours.jitter_px, raw.error_px, ours.error_px, ours.lag_frames])
    raw_jitter, jitter, raw_error, error, lag = np.nanmean(np.array(rows), axis=0)
    print(f"{len(rows)} sequences, {options.noise:g} px of noise")
    print(f"jitter     {raw_jitter:.2f} -> {jitter:.2f} px per frame squared, {1 - jitter / raw_jitter:.0%} less")
    print(f"error      {raw_error:.2f} -> {error:.2f} px")
    print(f"lag        {lag:.2f} frames, moving joints")


if __name__ == "__main__":
    main()
