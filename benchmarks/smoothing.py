"""The default smoothing on real motion, beside MMDeploy's: how much jitter goes, and what it costs in lag and error.

    python benchmarks/smoothing.py [--shared ../shared] [--noise 0.5 1 2 4] [--sequences 300] [--rate 30]

Penn Action's joints (13, visible ones) move as people move; white noise stands for a network's jitter, 30 frames a second,
with ``--rate`` 15, 10 or 5 of every n-th frame only. Every filter gets the same noisy joints. MMDeploy's default filter
(beta 0.007, cutoffs 1, no time step, each axis by itself) is written again from its description; with ``beta=8`` and
``trend=1`` ours lags as little as it does at 30. Jitter is the RMS of acceleration; lag and "moving" are of joints faster
than 0.6 body sizes a second; "worse" counts the sequences in which a filter is further from the truth than the raw joints.
The truth was clicked by people and trembles too: its own jitter stands in the first row.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from rtmpose_infer.evaluation.tracking import motion_report
from rtmpose_infer.smoothing import OneEuroConfig, OneEuroSmoother, SmoothingState

SHARED = Path(__file__).resolve().parents[2] / "shared"


def smoothed(
    noisy: np.ndarray, visible: np.ndarray, size_px: float, config: OneEuroConfig, step_s: float
) -> np.ndarray:
    """Return (T, K, 2) joints of one sequence, filtered frame by frame."""
    smoother, state = OneEuroSmoother(config), SmoothingState.fresh(1, noisy.shape[1])
    scales = np.array([size_px], np.float32)
    out = np.empty_like(noisy)
    for frame, (points, seen) in enumerate(zip(noisy, visible, strict=True)):
        result, state = smoother.update(state, points[None], seen[None], scales_px=scales, dt_s=step_s)
        out[frame] = result[0]
    return out


def mmdeploy(noisy: np.ndarray, beta: float = 0.007, cutoff: float = 1.0) -> np.ndarray:
    """Return (T, K, 2) joints of one sequence as MMDeploy's default filter gives them."""

    def gain(frequency: np.ndarray | float) -> np.ndarray | float:
        return 1 / (1 + 1 / (2 * np.pi * frequency))

    out = noisy.copy()
    speed = np.zeros_like(noisy[0])
    for frame in range(1, len(noisy)):
        speed = speed + gain(1.0) * (noisy[frame] - out[frame - 1] - speed)
        out[frame] = out[frame - 1] + gain(cutoff + beta * np.abs(speed)) * (noisy[frame] - out[frame - 1])
    return out


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument(
        "--noise", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0], help="standard deviations, pixels"
    )
    parser.add_argument("--rate", type=int, default=30, choices=[30, 15, 10, 5], help="frames a second")
    parser.add_argument("--sequences", type=int, default=300, help="spread evenly over all")
    parser.add_argument(
        "--setting",
        type=float,
        nargs=2,
        action="append",
        metavar=("BETA", "TREND"),
        help="of ours beside the default; may be given again; default: 8 1",
    )
    options = parser.parse_args()
    data = np.load(options.shared / "data" / "tracking" / "penn_action.npz")
    joints, shown, offsets = data["xy_x8"].astype(np.float32) / 8, data["visible"].astype(bool), data["offsets"]
    configs = {"rtmpose_infer": OneEuroConfig(), "noise not estimated": OneEuroConfig(noise=0)}
    for beta, trend in options.setting or [(8.0, 1.0)]:
        configs[f"beta {beta:g}, trend {trend:g}"] = OneEuroConfig(beta=beta, trend=trend)
    print(
        "| noise, px | filter | jitter | error, px | moving, px | lag, frames | worse than raw |\n|---|---|---|---|---|---|---|"
    )
    still = []
    for noise in options.noise:
        rng = np.random.default_rng(0)
        rows: dict[str, list[list[float]]] = {}
        for i in np.linspace(0, len(offsets) - 2, options.sequences).astype(int):
            frames = slice(offsets[i], offsets[i + 1], 30 // options.rate)
            truth, visible = joints[frames], shown[frames]
            if len(truth) < 20 * options.rate / 30 or not visible.any():
                continue
            known = np.where(visible[..., None], truth, np.nan)
            extent = np.nanmax(known, axis=(0, 1)) - np.nanmin(known, axis=(0, 1))
            size = float(np.sqrt(max(np.prod(extent), 1)))
            if noise == options.noise[0]:
                still.append(motion_report(known, known, sizes_px=np.array(size)).jitter_px)
            noisy = (truth + rng.normal(0, noise, truth.shape)).astype(np.float32)
            estimates = {"raw": noisy, "MMDeploy": mmdeploy(noisy)}
            estimates |= {
                name: smoothed(noisy, visible, size, config, 1 / options.rate) for name, config in configs.items()
            }
            for name, estimate in estimates.items():
                shown_estimate = np.where(visible[..., None], estimate, np.nan)
                report = motion_report(known, shown_estimate, sizes_px=np.array(size))
                figures = [report.jitter_px, report.error_px, report.moving_error_px, report.lag_frames]
                rows.setdefault(name, []).append(figures)
        if noise == options.noise[0]:
            print(f"| 0 | truth | {np.nanmean(still):.2f} | 0 | 0 | 0 | |")
        raw = np.array(rows["raw"])
        for name, figures in rows.items():
            jitter, error, moving, lag = np.nanmean(np.array(figures), axis=0)
            worse = int((np.array(figures)[:, 1] > raw[:, 1]).sum()) if name != "raw" else 0
            print(
                f"| {noise:g} | {name} | {jitter:.2f} ({jitter / np.nanmean(raw[:, 0]):.0%}) | {error:.2f} | {moving:.2f} | "
                f"{lag:.2f} | {worse} of {len(figures)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
