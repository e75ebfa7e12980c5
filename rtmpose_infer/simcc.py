"""From SimCC vectors to keypoints.

SimCC (arXiv 2107.03332) scores each keypoint along x and along y in bins finer than a pixel. The place is the arg-max
of either axis. No sub-pixel refinement follows: half-pixel bins are already finer than what the labels can tell.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["average_mirrored", "decode_simcc", "mask_unfound", "mirrored_back", "peak_prominence"]

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
    return mask_unfound(keypoints, scores)


def average_mirrored(
    simcc_x: Floats, simcc_y: Floats, *, flip_index: Sequence[int], input_width: int, split_ratio: float = 2.0
) -> tuple[Floats, Floats]:
    """Return the mean SimCC vectors of N crops and of the same crops mirrored, (N, K, …) each.

    Args:
        simcc_x: (2N, K, W·split_ratio) float32, first the crops, then the mirrored ones.
        simcc_y: (2N, K, H·split_ratio) float32.
        flip_index: See ``mirrored_back``.
        input_width: W in pixels.
        split_ratio: Bins per input pixel.

    >>> x, y = np.zeros((2, 1, 8), np.float32), np.zeros((2, 1, 8), np.float32)
    >>> x[0, 0, 5], x[1, 0, 1] = 1, 0.5  # pixel 2.5 of a crop of four pixels is pixel 0.5 of the mirrored one
    >>> average_mirrored(x, y, flip_index=[0], input_width=4)[0][0, 0, 5].item()
    0.75
    """
    count = len(simcc_x) // 2
    means = mirrored_back(
        simcc_x[count:], simcc_y[count:], flip_index=flip_index, input_width=input_width, split_ratio=split_ratio
    )
    for mean, plain in zip(means, (simcc_x, simcc_y), strict=True):
        np.add(mean, plain[:count], out=mean)
        np.multiply(mean, np.float32(0.5), out=mean)
    return means


def mirrored_back(
    simcc_x: Floats, simcc_y: Floats, *, flip_index: Sequence[int], input_width: int, split_ratio: float = 2.0
) -> tuple[Floats, Floats]:
    """Return the SimCC vectors of mirrored crops as if the crops had not been mirrored, (N, K, …) each.

    A pixel p of the mirrored crop is W − 1 − p of the crop, so that bin k becomes bin (W − 1)·split_ratio − k; that moves
    the vector by split_ratio − 1 bins beside turning it round.

    Args:
        simcc_x: (N, K, W·split_ratio) float32.
        simcc_y: (N, K, H·split_ratio) float32.
        flip_index: K indices; entry i is the keypoint that i becomes in a mirrored picture.
        input_width: W in pixels.
        split_ratio: Bins per input pixel.

    >>> x, y = np.zeros((1, 1, 8), np.float32), np.zeros((1, 1, 8), np.float32)
    >>> x[0, 0, 1] = 1
    >>> mirrored_back(x, y, flip_index=[0], input_width=4)[0].argmax().item()
    5
    """
    last = round((input_width - 1) * split_ratio)
    x = simcc_x.take(flip_index, axis=1)
    turned = np.empty_like(x)  # slices: picking the bins one by one takes three times as long
    turned[..., : last + 1] = x[..., last::-1]
    turned[..., last + 1 :] = x[..., :1]
    return turned, simcc_y.take(flip_index, axis=1)


def mask_unfound(keypoints: Floats, scores: Floats) -> tuple[Floats, Floats]:
    """Return keypoints and scores in which joints that were not found are NaN; changes both in place when it must.

    Not found is what has a score of 0 or less, and what has none that is finite (half precision overflows); that one
    becomes 0.
    """
    unfound = ~((scores > 0) & (scores < np.inf))
    if unfound.any():
        keypoints[unfound] = np.nan
        scores[~np.isfinite(scores)] = 0
    return keypoints, scores


def peak_prominence(vectors: Floats) -> Floats:
    """Return (…) float32: how clear the peak of each SimCC vector is, 0 or more.

    That is (peak − highest bin outside the peak's hill) / (peak − median). The hill reaches a sixteenth of the axis to
    either side of the peak.

    Args:
        vectors: (…, bins) float32.

    >>> peak_prominence(np.float32([[0, 0, 0, 1, 0, 0.5], [0, 0, 0, 1, 0, 1]])).tolist()
    [0.5, 0.0]
    """
    bins = vectors.shape[-1]
    at = vectors.argmax(axis=-1)[..., None]
    peak = vectors.max(axis=-1)
    outside = np.abs(np.arange(bins) - at) > bins / 16
    rest = np.where(outside, vectors, -np.inf).max(axis=-1)
    height = peak - np.median(vectors, axis=-1)
    return np.asarray((peak - rest) / np.maximum(height, 1e-12), np.float32)
