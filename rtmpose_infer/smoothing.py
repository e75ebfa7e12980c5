"""Steady joints without lag: a One-Euro filter over the joints of many people, with time passed in.

A smoother is a pure function of its state: ``update`` takes the state of N people and returns the smoothed joints with
the next state, and the caller decides when that becomes the present. A frame that fails half-way therefore leaves no
trace. ``NoSmoother`` is the no-op of the same seam.

What differs from the filter of Casiez, Roussel and Vogel (CHI 2012):

- the step is the real time between two frames, never "one frame";
- speed is the length of the joint's velocity in body sizes per second, so a person far away and one nearby, and a step
  along an axis and one along a diagonal, are smoothed alike;
- the estimate moves on with a share of its own velocity before it is corrected (``trend``, as in Holt's linear
  smoothing). A plain low-pass trails a moving joint; with the trend the same jitter costs a third of the lag;
- a joint that was not seen for a while starts afresh where it reappears.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rtmpose_infer.errors import InputError

__all__ = ["NoSmoother", "OneEuroConfig", "OneEuroSmoother", "Smoother", "SmoothingState"]

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class SmoothingState:
    """What a smoother remembers of N people's K joints.

    Attributes:
        position: (N, K, 2) float32, the estimate in frame pixels.
        velocity: (N, K, 2) float32, pixels per second.
        unseen_s: (N, K) float32, seconds since the joint was last observed; infinite when it never was.
    """

    position: Floats
    velocity: Floats
    unseen_s: Floats

    @classmethod
    def fresh(cls, count: int, num_keypoints: int) -> SmoothingState:
        """Return the state of ``count`` people of whom nothing was seen yet."""
        shape = (count, num_keypoints)
        zeros = np.zeros((*shape, 2), np.float32)
        return cls(zeros, zeros.copy(), np.full(shape, np.inf, np.float32))

    def __len__(self) -> int:
        return len(self.position)

    def __getitem__(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> SmoothingState:
        """Return the chosen people's state."""
        return SmoothingState(self.position[rows], self.velocity[rows], self.unseen_s[rows])

    def joined(self, other: SmoothingState) -> SmoothingState:
        """Return this state followed by another one."""
        return SmoothingState(
            np.concatenate([self.position, other.position]),
            np.concatenate([self.velocity, other.velocity]),
            np.concatenate([self.unseen_s, other.unseen_s]),
        )

    def scaled(self, factors_xy: Floats) -> SmoothingState:
        """Return the state in a frame whose pixels are (2,) ``factors_xy`` as many."""
        return SmoothingState(self.position * factors_xy, self.velocity * factors_xy, self.unseen_s)


class Smoother(Protocol):
    """The seam between the tracker and a filter over joints."""

    def update(
        self, state: SmoothingState, keypoints: Floats, valid: Bools, *, scales_px: Floats, dt_s: float
    ) -> tuple[Floats, SmoothingState]:
        """Return the (N, K, 2) smoothed joints and the next state; neither argument is changed."""
        ...


@dataclass(frozen=True, kw_only=True)
class OneEuroConfig:
    """How strongly joints are smoothed.

    The defaults were chosen on Penn Action trajectories (persons 140 px in size at the median, 30 frames a second) with
    2 px white noise added: the RMS of acceleration falls by 62 %, moving joints lag by 0.27 frames, and the joints are
    nearer to the truth than the raw ones on the whole, the moving ones by 0.35 px further away. ``beta=10, trend=1`` is
    the setting for fast motion: 51 % less jitter at half the lag. ``beta=14`` is the one for good networks: 45 % less
    jitter, half the lag, and no further from the truth than the raw joints from 1 px of noise on, the moving ones from
    2 px on. Below 1 px of noise no filter of this kind improves the places.
    ``benchmarks/smoothing.py`` measures the trade-off.

    Attributes:
        min_cutoff_hz: Cutoff frequency for a joint at rest; lower is steadier.
        beta: Hertz of cutoff added per body size per second of speed; higher follows fast joints more closely.
        derivative_cutoff_hz: Cutoff frequency of the velocity estimate.
        trend: Share of the velocity by which the estimate moves on by itself, 0 (classic One-Euro) to 1.
        reset_after_s: A joint unseen for longer starts afresh where it reappears.
    """

    min_cutoff_hz: float = 2.0
    beta: float = 4.0
    derivative_cutoff_hz: float = 4.0
    trend: float = 0.7
    reset_after_s: float = 0.2

    def __post_init__(self) -> None:
        rules = {
            "min_cutoff_hz": (self.min_cutoff_hz > 0, "a positive number of hertz"),
            "beta": (self.beta >= 0, "0 or more"),
            "derivative_cutoff_hz": (self.derivative_cutoff_hz > 0, "a positive number of hertz"),
            "trend": (0 <= self.trend <= 1, "between 0 and 1"),
            "reset_after_s": (self.reset_after_s >= 0, "0 or more seconds"),
        }
        for name, (fine, expected) in rules.items():
            value = getattr(self, name)
            if not (fine and math.isfinite(value)):
                raise InputError(f"OneEuroConfig.{name} must be {expected}, got {value!r}.")


class OneEuroSmoother:
    """One-Euro filter with real time steps and speed in body sizes; see the module for what differs from the paper.

    Source: Casiez, Roussel, Vogel, "1 € Filter: A Simple Speed-based Low-pass Filter for Noisy Input in Interactive
    Systems", CHI 2012; trend as in Holt, "Forecasting seasonals and trends by exponentially weighted moving averages",
    1957.
    """

    def __init__(self, config: OneEuroConfig | None = None) -> None:
        self.config = config or OneEuroConfig()

    def update(
        self, state: SmoothingState, keypoints: Floats, valid: Bools, *, scales_px: Floats, dt_s: float
    ) -> tuple[Floats, SmoothingState]:
        """Return the smoothed joints and the next state; neither argument is changed.

        Args:
            state: N people.
            keypoints: (N, K, 2) float32 frame pixels; what is not valid is not looked at.
            valid: (N, K) bool.
            scales_px: (N,) float32 body size of each person in pixels, the unit of speed.
            dt_s: Seconds since the last call, positive.

        Returns:
            (N, K, 2) float32 with the input's own value where not valid, and the state to pass next time.
        """
        config = self.config
        elapsed = state.unseen_s + np.float32(dt_s)
        known = valid & (elapsed <= np.float32(max(config.reset_after_s, 1.5 * dt_s)))
        step = np.where(known, elapsed, np.float32(dt_s))
        observed = np.where(valid[..., None], keypoints, state.position)

        measured_velocity = (observed - state.position) / step[..., None]
        velocity_gain = _gain(np.float32(config.derivative_cutoff_hz), step)[..., None]
        velocity = state.velocity + velocity_gain * (measured_velocity - state.velocity)
        speed = np.sqrt(velocity[..., 0] ** 2 + velocity[..., 1] ** 2) / np.maximum(scales_px, 1e-3)[:, None]
        gain = _gain(config.min_cutoff_hz + config.beta * speed, step)[..., None]
        predicted = state.position + config.trend * step[..., None] * state.velocity
        filtered = predicted + gain * (observed - predicted)

        continued = known[..., None]
        position = np.where(continued, filtered, observed)
        next_state = SmoothingState(
            position=position,
            velocity=np.where(continued, velocity, np.where(valid[..., None], 0, state.velocity)),
            unseen_s=np.where(valid, np.float32(0), elapsed),
        )
        return np.where(valid[..., None], position, keypoints), next_state


class NoSmoother:
    """Leaves joints as they are."""

    def update(
        self,
        state: SmoothingState,
        keypoints: Floats,
        valid: Bools,  # noqa: ARG002  # the seam's signature
        *,
        scales_px: Floats,  # noqa: ARG002
        dt_s: float,  # noqa: ARG002
    ) -> tuple[Floats, SmoothingState]:
        """Return the joints and the state as they came."""
        return keypoints, state


def _gain(cutoff_hz: Floats | np.float32, step_s: Floats) -> Floats:
    """Return the share of the new value in a first-order low-pass: 1 / (1 + τ/Δt) with τ = 1/(2πf)."""
    angle = 2 * math.pi * cutoff_hz * step_s
    gain: Floats = angle / (1 + angle)
    return gain
