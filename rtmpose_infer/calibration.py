"""From a network's raw keypoint scores to probabilities that a service can threshold.

A SimCC score ranks joints of one network, but 0.6 of one network is not 0.6 of another, nor is it a chance of 60 %. A
calibration is a logistic curve for each joint, fitted once on held-out pictures (see ``evaluation.calibration``) and
carried in the model's metadata. The event it predicts: the joint lies so near its true place that its own term of OKS
is at least 0.5. The raw score stays as it is, beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rtmpose_infer.errors import ModelError

__all__ = ["CORRECT_OKS", "Calibration"]

CORRECT_OKS = 0.5
_METHOD = "logistic"


@dataclass(frozen=True, eq=False)
class Calibration:
    """A logistic curve for each of K joints: probability = 1 / (1 + exp(−(slope · score + offset))).

    Attributes:
        slopes: (K,) float64, not negative: a higher score is never a lower probability.
        offsets: (K,) float64.
    """

    slopes: npt.NDArray[np.float64]
    offsets: npt.NDArray[np.float64]

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any], *, num_keypoints: int) -> Calibration:
        """Return the calibration that a model's metadata holds.

        Args:
            data: What ``as_mapping`` returned.
            num_keypoints: The network's joints, K.

        Raises:
            ModelError: It is of an unknown method, malformed, or for another number of joints.
        """
        if data.get("method") != _METHOD:
            raise ModelError(f"unknown calibration {data.get('method')!r}; known is {_METHOD!r}.")
        curves = []
        for name in ("slopes", "offsets"):
            try:
                curve = np.asarray(data.get(name), np.float64)
            except (TypeError, ValueError) as error:
                raise ModelError(f"the calibration's {name} are no numbers: {error}.") from error
            if curve.shape != (num_keypoints,) or not np.isfinite(curve).all():
                raise ModelError(
                    f"the calibration's {name} must be {num_keypoints} finite numbers, one for each joint, "
                    f"got shape {curve.shape}."
                )
            curves.append(curve)
        if (curves[0] < 0).any():
            raise ModelError("the calibration's slopes must not be negative.")
        return cls(*curves)

    def as_mapping(self) -> dict[str, Any]:
        """Return plain values for the model's metadata."""
        return {
            "method": _METHOD,
            "correct_oks": CORRECT_OKS,
            "slopes": [round(float(v), 4) for v in self.slopes],
            "offsets": [round(float(v), 4) for v in self.offsets],
        }

    def probabilities(self, scores: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """Return the probability of each joint to be right; 0 for one that was not found.

        Args:
            scores: (N, K) raw scores.

        >>> curve = Calibration(np.array([4.0]), np.array([-2.0]))
        >>> curve.probabilities(np.array([[0.5], [0.0]])).tolist()
        [[0.5], [0.0]]
        """
        margin = np.clip(scores * self.slopes + self.offsets, -60, 60)
        return np.where(scores > 0, 1 / (1 + np.exp(-margin)), 0).astype(np.float32)
