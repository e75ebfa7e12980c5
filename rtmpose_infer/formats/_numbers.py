"""Rounding for files: enough digits for any use, and no more."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["flat_triplets", "rounded", "rounded_or_none", "rounded_or_zero"]

PIXEL_DIGITS = 2
SCORE_DIGITS = 4
TIME_DIGITS = 6


def rounded(values: npt.ArrayLike, digits: int) -> Any:
    """Return nested lists of floats, rounded as decimals (float32 would print as 0.10000000149).

    >>> rounded(np.float32([0.1, 2.345678]), 2)
    [0.1, 2.35]
    """
    return np.round(np.asarray(values, dtype=np.float64), digits).tolist()


def rounded_or_zero(values: npt.ArrayLike, digits: int) -> Any:
    """Return the same with 0 in place of what is not finite, for forms that know no missing number.

    >>> rounded_or_zero(np.float32([1.25, np.nan, np.inf]), 2)
    [1.25, 0.0, 0.0]
    """
    return rounded(np.nan_to_num(np.asarray(values, dtype=np.float64), posinf=0, neginf=0), digits)


def rounded_or_none(values: npt.NDArray[np.float32], digits: int) -> Any:
    """Return the same with None in place of what is not finite, which JSON cannot say.

    >>> rounded_or_none(np.float32([[1, np.nan], [3, 4]]), 1)
    [[1.0, None], [3.0, 4.0]]
    """
    result = rounded(values, digits)
    for index in np.argwhere(~np.isfinite(values)).tolist():
        row = result
        for step in index[:-1]:
            row = row[step]
        row[index[-1]] = None
    return result


def flat_triplets(points: npt.NDArray[np.float32], scores: npt.NDArray[np.float32]) -> list[list[float]]:
    """Return x, y, score, x, y, … of each person: (N, K, 2) and (N, K) to N lists of 3·K; a missing joint is 0, 0, 0.

    That is COCO's and OpenPose's convention.
    """
    missing = ~(np.isfinite(points).all(axis=2) & (scores > 0) & np.isfinite(scores))
    triplets = np.concatenate(
        [
            np.round(np.asarray(points, np.float64), PIXEL_DIGITS),
            np.round(np.asarray(scores, np.float64), SCORE_DIGITS)[..., None],
        ],
        axis=2,
    )
    triplets[missing] = 0.0
    flat: list[list[float]] = triplets.reshape(len(points), 3 * points.shape[1]).tolist()
    return flat
