"""Was the machine quiet while it measured: other processes, a hypervisor that takes the processor away, the clock.

On Linux the kernel's own accounts answer. Everywhere, a loop of fixed work is timed between the rounds: on a machine
left alone it always takes as long.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["Noise", "NoiseMeter"]

_LOOP_STEPS = 60_000
_LOOP_REPEATS = 5
_MOST_FOREIGN = 0.05
_MOST_STOLEN = 0.02
_MOST_DRIFT = 1.10


@dataclass(frozen=True)
class Noise:
    """What disturbed a measurement.

    Attributes:
        foreign_share: Share of the machine's processor time that other processes took; None where unknown.
        stolen_share: Share that the hypervisor gave to other machines; None where unknown.
        clock_drift: Longest over shortest time of the same work, between the rounds.
        throttlings: How often the processor slowed down because of heat; None where unknown.
    """

    foreign_share: float | None
    stolen_share: float | None
    clock_drift: float
    throttlings: int | None

    def warnings(self) -> list[str]:
        """Return what a reader must know before trusting the figures; empty on a quiet machine."""
        found = []
        if self.foreign_share is not None and self.foreign_share > _MOST_FOREIGN:
            found.append(
                f"Other processes used {self.foreign_share:.0%} of the processors during the measurement: trust the "
                "ratios, not the times."
            )
        if self.stolen_share is not None and self.stolen_share > _MOST_STOLEN:
            found.append(
                f"The hypervisor took away {self.stolen_share:.0%} of the processor time: trust the ratios, not the "
                "times."
            )
        if self.throttlings:
            found.append(f"The processor slowed down {self.throttlings} times because of heat.")
        if self.clock_drift > _MOST_DRIFT:
            found.append(
                f"The same work took {self.clock_drift - 1:.0%} longer at its slowest than at its fastest: the clock "
                "changed, or other load interfered."
            )
        return found


class NoiseMeter:
    """Watches the machine from its making to ``noise``.

    Args:
        proc_stat: Where Linux keeps account of its processors.
        devices: Where Linux shows them.
    """

    def __init__(
        self, *, proc_stat: Path = Path("/proc/stat"), devices: Path = Path("/sys/devices/system/cpu")
    ) -> None:
        self._proc_stat = proc_stat
        self._devices = devices
        self._loops: list[float] = []
        self._before = self._account()
        self._throttled = self._throttlings()
        self._own_s = 0.0
        self._parent_s = time.process_time()

    def check_clock(self) -> None:
        """Time the fixed work once more; call it while nothing else of this program runs."""
        # The shortest of a few: a single interruption is no change of the clock.
        self._loops.append(min(_fixed_work() for _ in range(_LOOP_REPEATS)))

    def add_own(self, cpu_s: float) -> None:
        """Take note of processor seconds that the measured processes used themselves."""
        self._own_s += cpu_s

    def noise(self) -> Noise:
        """Return what happened since the meter was made."""
        foreign = stolen = None
        after = self._account()
        if self._before is not None and after is not None:
            busy, idle, steal = (b - a for a, b in zip(self._before, after, strict=True))
            total = busy + idle + steal
            if total > 0:
                own = self._own_s + time.process_time() - self._parent_s
                foreign = max(0.0, busy - own) / total
                stolen = steal / total
        throttled = self._throttlings()
        return Noise(
            foreign_share=foreign,
            stolen_share=stolen,
            clock_drift=float(np.max(self._loops) / np.min(self._loops)) if self._loops else 1.0,
            throttlings=None if throttled is None or self._throttled is None else throttled - self._throttled,
        )

    def _account(self) -> tuple[float, float, float] | None:
        """Return the seconds all processors were busy, idle and stolen since the machine started."""
        if sys.platform == "win32":
            return None
        try:
            fields = self._proc_stat.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
            user, nice, system, idle, waiting, irq, soft, steal = (int(f) / os.sysconf("SC_CLK_TCK") for f in fields)
        except (OSError, ValueError):
            return None
        return user + nice + system + irq + soft, idle + waiting, steal

    def _throttlings(self) -> int | None:
        counters = list(self._devices.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
        try:
            return sum(int(path.read_text(encoding="ascii")) for path in counters) if counters else None
        except (OSError, ValueError):
            return None


def _fixed_work() -> float:
    start = time.perf_counter()
    value = 1
    for _ in range(_LOOP_STEPS):
        value = value * 1103515245 + 12345 & 0x7FFFFFFF
    return time.perf_counter() - start
