"""The stage clock: time goes to the stage that ended, and nothing is counted by the clock that is there by default."""

from __future__ import annotations

import pytest

from rtmpose_infer import stages
from rtmpose_infer.stages import NO_CLOCK, StageClock


@pytest.fixture
def time_now(monkeypatch):
    """A time that stands still until it is set."""
    now = [0.0]
    monkeypatch.setattr(stages.time, "perf_counter", lambda: now[0])
    return now


def test_a_lap_gives_the_time_since_the_last_one_to_its_stage(time_now):
    clock = StageClock()
    for moment, stage in ((1.0, "crop"), (4.0, "pose"), (4.5, "crop")):
        time_now[0] = moment
        clock.lap(stage)
    assert clock.seconds == {"crop": 1.5, "pose": 3.0}


def test_what_passes_before_a_start_belongs_to_no_stage(time_now):
    clock = StageClock()
    time_now[0] = 10.0
    clock.start()
    time_now[0] = 11.0
    clock.lap("pose")
    assert clock.seconds == {"pose": 1.0}


def test_reset_returns_the_totals_and_begins_anew(time_now):
    clock = StageClock()
    time_now[0] = 2.0
    clock.lap("pose")
    assert clock.reset() == {"pose": 2.0}
    assert clock.seconds == {}


def test_the_default_clock_counts_nothing():
    NO_CLOCK.start()
    NO_CLOCK.lap("pose")
    assert NO_CLOCK.seconds == {}
