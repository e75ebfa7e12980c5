"""Where the time of a frame goes: a clock that the pipeline laps as it finishes its stages.

Measuring must cost nothing when nobody measures, and must not scatter conditions over the hot path. So each stage ends
with one call of ``clock.lap("stage")``; the clock that is there by default does nothing.
"""

from __future__ import annotations

import time

__all__ = ["NO_CLOCK", "StageClock"]


class StageClock:
    """Adds up the seconds between laps under the name of the stage that ended.

    One clock belongs to one thread at a time. ``seconds`` is the running total since ``start`` or the last ``reset``.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def start(self) -> None:
        """Begin timing here; what passed since the last lap belongs to no stage."""
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """End a stage here; the next one begins."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now

    def reset(self) -> dict[str, float]:
        """Return the totals by stage and begin anew."""
        seconds, self.seconds = self.seconds, {}
        return seconds


class _NoClock(StageClock):
    def start(self) -> None:
        pass

    def lap(self, stage: str) -> None:
        pass


NO_CLOCK: StageClock = _NoClock()
