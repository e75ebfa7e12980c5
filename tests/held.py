"""A frame that stays in a pipeline for as long as a test wants."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rtmpose_infer import PosePipeline, Poses, PoseTracker
from rtmpose_infer.stages import StageClock

if TYPE_CHECKING:
    import numpy as np

PATIENCE_S = 60


class _HoldingClock(StageClock):
    """Holds a frame at the end of its first stage, until it is told to let it go on."""

    def __init__(self) -> None:
        super().__init__()
        self.holds, self.go_on = threading.Event(), threading.Event()

    def lap(self, stage: str) -> None:
        self.holds.set()
        assert self.go_on.wait(PATIENCE_S)
        super().lap(stage)


@contextmanager
def another_frame_under_way(pipeline: PosePipeline, frame: np.ndarray) -> Iterator[Future[Poses]]:
    """Keep a frame of another tracker in the pipeline meanwhile; give what comes of it."""
    clock = _HoldingClock()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(PoseTracker(pipeline), frame, clock=clock)
        try:
            assert clock.holds.wait(PATIENCE_S)
            yield other
        finally:
            clock.go_on.set()
        other.result(PATIENCE_S)
