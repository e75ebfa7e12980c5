"""From SimCC vectors to keypoints.

SimCC (arXiv 2107.03332) scores each keypoint along x and along y in bins finer than a pixel. The place is the arg-max
of either axis. No sub-pixel refinement follows: half-pixel bins are already finer than what the labels can tell.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["decode_simcc", "mask_unfound"]

Floats = npt.NDArray[np.float32]


def decode_simcc(simcc_x: Floats, simcc_y: Floats, *, split_ratio: float = 2.0) -> tuple[Floats, Floats]:
    """Return keypoints (N, K, 2) float32 in input pixels and their scores (N, K) float32.

    The score is the lower of both axes' maxima, as in MMPose. A joint of score ≤ 0 was not found; its coordinates
    are NaN.

    Args:
        simcc_x: (N, K, W·split_ratio) float32.
        simcc_y: (N, K, H·split_ratio) float32.
        split_ratio: Bins per input pixel.

    >>> x, y = np.zeros((1, 1, 8), np.float32), np.zeros((1, 1, 6), np.float32)
    >>> x[..., 5], y[..., 4] = 0.9, 0.7
    >>> keypoints, scores = decode_simcc(x, y)
    >>> keypoints.tolist(), scores.tolist() == [[np.float32(0.7)]]
    ([[[2.5, 2.0]]], True)
    """
    at_x, at_y = simcc_x.argmax(axis=2), simcc_y.argmax(axis=2)
    keypoints = np.stack([at_x, at_y], axis=2).astype(np.float32)
    keypoints /= np.float32(split_ratio)
    best_x = np.take_along_axis(simcc_x, at_x[..., None], axis=2)[..., 0]
    best_y = np.take_along_axis(simcc_y, at_y[..., None], axis=2)[..., 0]
    scores = np.minimum(best_x, best_y).astype(np.float32, copy=False)
    return mask_unfound(keypoints, scores), scores


def mask_unfound(keypoints: Floats, scores: Floats) -> Floats:
    """Return the keypoints with NaN where the score is ≤ 0 (or NaN); changes ``keypoints`` in place when it must."""
    unfound = ~(scores > 0)
    if unfound.any():
        keypoints[unfound] = np.nan
    return keypoints
