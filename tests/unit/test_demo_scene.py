"""The demo film: the same on every run, with two people who are whole before and after they cross."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from rtmpose_infer.errors import BackendUnavailableError, InputError


@pytest.fixture(scope="module")
def frames():
    pytest.importorskip("skimage", reason="needs the demo extra")
    from rtmpose_infer.demo_scene import DemoScene

    return list(DemoScene(duration_s=2))


def test_frames_are_numbered_timed_and_of_one_size(frames):
    assert [f.index for f in frames] == list(range(60))
    assert frames[30].timestamp_s == pytest.approx(1.0)
    assert {f.image.shape for f in frames} == {(720, 1280, 3)}
    assert all(f.image.dtype == np.uint8 for f in frames)


def test_two_people_stand_apart_first_and_have_changed_sides_at_the_end(frames):
    def columns_of_orange(image):
        blue, green, red = np.moveaxis(image.astype(int), 2, 0)
        return np.flatnonzero(((red - blue > 90) & (red - green > 50)).sum(axis=0) > 40)

    def columns_of_black(image):
        return np.flatnonzero((image[300:].max(axis=2) < 40).sum(axis=0) > 150)

    early, late = frames[17].image, frames[46].image
    assert columns_of_orange(early).mean() < 400 < 880 < columns_of_black(early).max()
    assert columns_of_black(late).min() < 400 < 880 < columns_of_orange(late).mean()


def test_every_run_gives_the_same_frames(frames):
    from rtmpose_infer.demo_scene import DemoScene

    again = next(iter(DemoScene(duration_s=2)))
    np.testing.assert_array_equal(again.image, frames[0].image)


def test_frames_do_not_share_memory(frames):
    assert not np.shares_memory(frames[0].image, frames[1].image)


@pytest.mark.parametrize("duration_s", [0, -1, math.nan, math.inf, "10", None])
def test_a_length_that_no_film_can_have_is_refused(duration_s):
    from rtmpose_infer.demo_scene import DemoScene

    with pytest.raises(InputError, match="duration_s"):
        DemoScene(duration_s=duration_s)


def test_missing_scikit_image_names_the_extra(monkeypatch):
    from rtmpose_infer.demo_scene import DemoScene

    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(BackendUnavailableError, match=r"rtmpose-infer\[demo\]"):
        DemoScene()
