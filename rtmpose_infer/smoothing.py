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
- joints that hardly tremble are hardly smoothed: the noise of a person's joints is estimated as the frames go by, and
  where it is small the cutoffs rise, so that a filter set for a restless network does not pull a steady one's joints away
  from where they are. Noise is told from motion, however fast, by the joint's second difference: in noise its direction
  turns round from frame to frame;
- a joint is not held further back than its noise explains: what lies beyond is motion, which a low-pass would trail. Until
  the noise is known it is held back by hardly anything;
- the longer the step, the less is known of where a moving joint went in between, and the less it is held back: at 10
  frames a second a filter for 30 would pull moving joints further away than their noise puts them;
- a joint that was not seen for a while starts afresh where it reappears.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rtmpose_infer.options import check_option, is_number

__all__ = ["NoSmoother", "OneEuroConfig", "OneEuroSmoother", "Smoother", "SmoothingState"]

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

_NOISE_MEMORY_S = 1.0
_MOST_FREEDOM = 3.0  # by which the cutoffs rise at most (its square and fourth power, see ``OneEuroConfig.noise``)
_FEWEST_JOINTS = 3  # that tell a person's noise, where a person has so many
# A joint is shown at most so many standard deviations of its noise from where it was seen, and less far where that noise is
# below so many times ``OneEuroConfig.noise``: what trembles little needs little smoothing.
_REACH, _FULL_REACH_NOISE = 2.5, 1.63
_FARTHEST_AT_FIRST = 0.003  # nor so many body sizes while the noise is unknown
_FARTHEST = 0.045  # nor so many body sizes: however much joints tremble, who walks must not be left behind
# Where a joint goes is foreseen for so many seconds; its speed counts as motion beyond so many deviations a step.
_FORESEEN_S, _SPEED_OF_NOISE = 0.1, 2.0
# Two bends (second differences) in a row of white noise tend to point apart: minus their scalar product is 8 times the
# variance on an axis, on average. Joints that really turn bend the same way twice, which makes it less. Single joints are
# cut at so many times the median size of the product; that leaves 7 of the 8 (17 joints, simulated).
_MOST_OF_MEDIAN = 4.0
_MEAN_OF_PRODUCTS = 7.0


@dataclass(frozen=True, eq=False)
class SmoothingState:
    """What a smoother remembers of N people's K joints.

    Attributes:
        position: (N, K, 2) float32, the estimate in frame pixels.
        velocity: (N, K, 2) float32, pixels per second.
        unseen_s: (N, K) float32, seconds since the joint was last observed; infinite when it never was.
        observed: (N, K, 2) float32, where the joint was last observed.
        observed_velocity: (N, K, 2) float32, pixels per second between the last two frames; NaN unless seen in both.
        bend: (N, K, 2) float32, pixels by which the joint left the line through its two places before, as if all steps
            were as long as the mean one; NaN unless seen in all three frames.
        step_s: (N,) float32, seconds that the last frame took; infinite when there was none.
        noise: (N,) float32, variance of the joints' noise on each axis, square pixels; NaN while unknown.
        noise_frames: (N,) float32, how many frames that was learned from.
    """

    position: Floats
    velocity: Floats
    unseen_s: Floats
    observed: Floats
    observed_velocity: Floats
    bend: Floats
    step_s: Floats
    noise: Floats
    noise_frames: Floats

    @classmethod
    def fresh(cls, count: int, num_keypoints: int) -> SmoothingState:
        """Return the state of ``count`` people of whom nothing was seen yet."""
        shape = (count, num_keypoints)
        zeros = np.zeros((*shape, 2), np.float32)
        unknown = np.full((*shape, 2), np.nan, np.float32)
        return cls(
            position=zeros,
            velocity=zeros,
            unseen_s=np.full(shape, np.inf, np.float32),
            observed=zeros,
            observed_velocity=unknown,
            bend=unknown,
            step_s=np.full(count, np.inf, np.float32),
            noise=np.full(count, np.nan, np.float32),
            noise_frames=np.zeros(count, np.float32),
        )

    def __len__(self) -> int:
        return len(self.position)

    def __getitem__(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> SmoothingState:
        """Return the chosen people's state."""
        return SmoothingState(**{name: value[rows] for name, value in vars(self).items()})

    def joined(self, other: SmoothingState) -> SmoothingState:
        """Return this state followed by another one."""
        theirs = vars(other)
        return SmoothingState(**{name: np.concatenate([value, theirs[name]]) for name, value in vars(self).items()})

    def scaled(self, factors_xy: Floats) -> SmoothingState:
        """Return the state in a frame whose pixels are (2,) ``factors_xy`` as many."""
        return SmoothingState(
            position=self.position * factors_xy,
            velocity=self.velocity * factors_xy,
            unseen_s=self.unseen_s,
            observed=self.observed * factors_xy,
            observed_velocity=self.observed_velocity * factors_xy,
            bend=self.bend * factors_xy,
            step_s=self.step_s,
            noise=self.noise * factors_xy.prod(),
            noise_frames=self.noise_frames,
        )


class Smoother(Protocol):
    """The seam between the tracker and a filter over joints."""

    def update(
        self,
        state: SmoothingState,
        keypoints: Floats,
        valid: Bools,
        *,
        scales_px: Floats,
        dt_s: float,
        sure: Bools | None = None,
    ) -> tuple[Floats, SmoothingState]:
        """Return the (N, K, 2) smoothed joints and the next state; see ``OneEuroSmoother.update`` for the arguments."""
        ...


@dataclass(frozen=True, kw_only=True)
class OneEuroConfig:
    """How strongly joints are smoothed.

    The defaults were chosen on Penn Action trajectories (persons 140 px in size at the median, 30 frames a second) with
    white noise added, so that smoothed joints are no further from the truth than raw ones. With 2 px of noise the RMS of
    their acceleration is 43 % of the raw joints' (error 2.52 for 2.83 px), with 1 px 68 % (1.32 for 1.42), with 0.5 px 88 %
    (0.70 for 0.71). Moving joints lag by 0.25, 0.07 and 0.03 frames more than raw ones. The setting ``beta=8, trend=1`` is
    for fast motion: half the jitter at 2 px, and 0.1 frames of lag. ``benchmarks/smoothing.py`` measures the trade-off.

    Attributes:
        min_cutoff_hz: Cutoff frequency for a joint at rest; lower is steadier.
        beta: Hertz of cutoff added per body size per second of speed; higher follows fast joints more closely.
        derivative_cutoff_hz: Cutoff frequency of the velocity estimate.
        trend: Share of the velocity by which the estimate moves on by itself, 0 (classic One-Euro) to 1.
        noise: Standard deviation of the joints' noise, in body sizes, down to which the two cutoffs above hold. Joints n
            times as steady are smoothed less: ``min_cutoff_hz`` counts n² and ``beta`` n⁴ times, n up to 3. No joint is
            held back by more than 2.5 standard deviations of its noise, or 4.5 % of the body (0.3 % until the noise is
            known: three joints seen in four frames in a row), and moving ones by less at few frames a second.
            With 0 the noise does not matter, in either way.
        reset_after_s: A joint unseen for longer starts afresh where it reappears.

    Raises:
        InputError: A setting is no number or out of range.
    """

    min_cutoff_hz: float = 1.5
    beta: float = 2.4
    derivative_cutoff_hz: float = 4.0
    trend: float = 0.65
    noise: float = 0.0095
    reset_after_s: float = 0.2

    def __post_init__(self) -> None:
        rules: dict[str, tuple[Callable[[float], bool], str]] = {
            "min_cutoff_hz": (lambda value: value > 0, "a positive number of hertz"),
            "beta": (lambda value: value >= 0, "0 or more"),
            "derivative_cutoff_hz": (lambda value: value > 0, "a positive number of hertz"),
            "trend": (lambda value: 0 <= value <= 1, "between 0 and 1"),
            "noise": (lambda value: value >= 0, "0 or more body sizes"),
            "reset_after_s": (lambda value: value >= 0, "0 or more seconds"),
        }
        for name, (fits, expected) in rules.items():
            value = getattr(self, name)
            check_option(f"OneEuroConfig.{name}", value, expected, fine=is_number(value) and fits(value))


class OneEuroSmoother:
    """One-Euro filter with real time steps and speed in body sizes; see the module for what differs from the paper.

    Source: Casiez, Roussel, Vogel, "1 € Filter: A Simple Speed-based Low-pass Filter for Noisy Input in Interactive
    Systems", CHI 2012; trend as in Holt, "Forecasting seasonals and trends by exponentially weighted moving averages",
    1957.
    """

    def __init__(self, config: OneEuroConfig | None = None) -> None:
        self.config = config or OneEuroConfig()

    def update(
        self,
        state: SmoothingState,
        keypoints: Floats,
        valid: Bools,
        *,
        scales_px: Floats,
        dt_s: float,
        sure: Bools | None = None,
    ) -> tuple[Floats, SmoothingState]:
        """Return the smoothed joints and the next state; neither argument is changed.

        Args:
            state: N people.
            keypoints: (N, K, 2) float32 frame pixels; what is not valid is not looked at.
            valid: (N, K) bool.
            scales_px: (N,) float32 body size of each person in pixels, the unit of speed.
            dt_s: Seconds since the last call, positive.
            sure: (N, K) bool, the joints that tell how much a person trembles; None: all valid ones. Those that the
                network guesses behind somebody jump about, and would have the others held back too far.

        Returns:
            (N, K, 2) float32 frame pixels, with the input's own value where not valid; and the state to pass next time.
        """
        config = self.config
        sizes = np.maximum(scales_px, np.float32(1e-3))
        shown = valid[..., None]
        elapsed = state.unseen_s + np.float32(dt_s)
        known = valid & (elapsed <= np.float32(max(config.reset_after_s, 1.5 * dt_s)))
        step = np.where(known, elapsed, np.float32(dt_s))
        observed = np.where(shown, keypoints, state.position)

        measured_velocity = (observed - state.position) / step[..., None]
        velocity_gain = _gain(np.float32(config.derivative_cutoff_hz), step)[..., None]
        velocity = state.velocity + velocity_gain * (measured_velocity - state.velocity)
        speed = np.sqrt(velocity[..., 0] ** 2 + velocity[..., 1] ** 2) / sizes[:, None]
        seen_twice = (valid & (state.unseen_s == 0))[..., None]
        raw_velocity = np.where(seen_twice, (observed - state.observed) / np.float32(dt_s), np.float32(np.nan))
        # Steps of different length: their harmonic mean, with which noise bends on average as much as with equal ones.
        mean_step = np.float32(2 * dt_s) / (1 + np.float32(dt_s) / state.step_s)
        bend = (raw_velocity - state.observed_velocity) * mean_step[:, None, None]
        told = bend if sure is None else np.where(sure[..., None], bend, np.float32(np.nan))
        noise, noise_frames = _noise(state.noise, state.noise_frames, told, state.bend, mean_step)
        deviation = np.sqrt(np.maximum(noise, np.float32(1e-9)))
        steadiness = config.noise * sizes / deviation
        freedom = np.fmin(np.fmax(steadiness, 1), _MOST_FREEDOM)[:, None].astype(np.float32)
        gain = _gain(config.min_cutoff_hz * freedom**2 + config.beta * freedom**4 * speed, step)[..., None]
        predicted = state.position + config.trend * step[..., None] * state.velocity
        held_back = (1 - gain) * (predicted - observed)
        if config.noise:
            farthest = _REACH * deviation / np.fmax(_FULL_REACH_NOISE * steadiness, 1)
            farthest = np.minimum(farthest, _FARTHEST * sizes)
            farthest = np.where(np.isnan(noise), _FARTHEST_AT_FIRST * sizes, farthest * min(_FORESEEN_S / dt_s, 1))
            # As in Kalman's filter: the share of what was not foreseen that is noise and not motion.
            trembling = (deviation / sizes)[:, None]  # NaN while unknown: all of it
            moved = np.maximum(speed * np.float32(dt_s) - _SPEED_OF_NOISE * trembling, 0)
            unforeseen = moved * np.float32((dt_s / _FORESEEN_S) ** 2) / trembling
            held_back /= np.fmax(1 + np.minimum(unforeseen, 1e6) ** 2, 1)[..., None]
            distance = np.sqrt(held_back[..., 0] ** 2 + held_back[..., 1] ** 2)
            held_back *= np.minimum(farthest[:, None] / np.maximum(distance, 1e-6), 1)[..., None]
        filtered = observed + held_back

        continued = known[..., None]
        position = np.where(continued, filtered, observed)
        next_state = SmoothingState(
            position=position,
            velocity=np.where(continued, velocity, np.where(shown, 0, state.velocity)),
            unseen_s=np.where(valid, np.float32(0), elapsed),
            observed=np.where(shown, keypoints, state.observed),
            observed_velocity=raw_velocity,
            bend=bend,
            step_s=np.full(len(state), dt_s, np.float32),
            noise=noise,
            noise_frames=noise_frames,
        )
        return np.where(shown, position, keypoints), next_state


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
        sure: Bools | None = None,  # noqa: ARG002
    ) -> tuple[Floats, SmoothingState]:
        """Return the joints and the state as they came."""
        return keypoints, state


def _noise(before: Floats, frames: Floats, bends: Floats, last_bends: Floats, step_s: Floats) -> tuple[Floats, Floats]:
    """Return (N,) the variance of the joints' noise after a frame, and from how many frames it was learned.

    Args:
        before: (N,) what it was, square pixels; NaN while unknown.
        frames: (N,) from how many frames.
        bends: (N, K, 2) pixels by which each joint left the line through its last two places; NaN where unknown.
        last_bends: (N, K, 2) the same of the frame before.
        step_s: (N,) seconds that the frame took, or the mean step where it took longer or shorter than the one before.
    """
    products = -(bends[..., 0] * last_bends[..., 0] + bends[..., 1] * last_bends[..., 1])
    known = np.isfinite(products)
    count = known.sum(axis=1)
    ranked = np.sort(np.abs(products), axis=1)  # NaN comes last
    most = _MOST_OF_MEDIAN * ranked[np.arange(len(ranked)), (np.maximum(count, 1) - 1) // 2][:, None]
    total = np.where(known, np.minimum(np.maximum(products, -most), most), 0).sum(axis=1)
    enough = count >= min(_FEWEST_JOINTS, products.shape[1])
    frames = frames + enough
    # The plain mean at first: one frame alone says little.
    share = np.maximum(1 - np.exp(-step_s / np.float32(_NOISE_MEMORY_S)), 1 / np.maximum(frames, 1))
    so_far = np.where(np.isnan(before), 0, before)
    noise = so_far + share * (total / (_MEAN_OF_PRODUCTS * np.maximum(count, 1)) - so_far)
    noise = np.maximum(noise, 0)  # else a person who rests after a jump would stay unsmoothed until it is above 0 again
    return np.where(enough, noise, before).astype(np.float32), frames.astype(np.float32)


def _gain(cutoff_hz: Floats | np.float32, step_s: Floats) -> Floats:
    """Return the share of the new value in a first-order low-pass: 1 / (1 + τ/Δt) with τ = 1/(2πf)."""
    angle = 2 * math.pi * cutoff_hz * step_s
    gain: Floats = angle / (1 + angle)
    return gain
