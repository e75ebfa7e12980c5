"""The whole benchmark with real processes, and its page in a real browser."""

from __future__ import annotations

import os
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from rtmpose_infer.benchmark import BenchmarkConfig, render_html, run_benchmark

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
from tests.tiny_onnx import light_detector, light_pose, write
from tests.unit.test_benchmark_page import make_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    return BenchmarkConfig(
        backends=("onnxruntime:cpu", "onnxruntime:xnnpack"),
        detector=str(write(folder / "detector.onnx", light_detector())),
        pose=str(write(folder / "pose.onnx", light_pose(decoded=True))),
        persons=(1, 3),
        frames=8,
        rounds=2,
        starts=2,
        warmup=1,
        threads=1,
        frame_size_wh=(320, 240),
    )


def test_backends_are_measured_in_their_own_processes_and_an_absent_one_is_reported(tiny):
    report = run_benchmark(tiny)
    fine, absent = report.contestants
    assert fine.failure == ""
    assert [scenario.people for scenario in fine.scenarios] == [1.0, 3.0]
    assert all(scenario.overhead.median > 0 for scenario in fine.scenarios)
    assert fine.difference.keypoints > 0
    assert fine.difference.max_px == 0.0
    assert fine.cold is not None
    assert fine.warm is not None
    if absent.failure:  # most builds have no XNNPACK
        assert "XnnpackExecutionProvider" in absent.failure


def test_every_installed_backend_is_measured_on_real_networks(shared, tmp_path):
    pytest.importorskip("openvino")
    report = run_benchmark(
        BenchmarkConfig(
            backends=("onnxruntime:cpu", "openvino:cpu"),
            detector=str(shared / "models" / "rtmdet_nano_person_320.onnx"),
            pose=str(shared / "models" / "tinypose_coco17_256x192_simcc.onnx"),
            persons=(2,),
            frames=6,
            rounds=2,
            starts=2,
            warmup=1,
            threads=1,
        )
    )
    assert report.ok, [contestant.failure for contestant in report.contestants]
    for contestant in report.contestants:
        assert contestant.scenarios[0].people == 2.0
        assert contestant.difference.keypoints > 20
        assert contestant.difference.max_px < 0.5
        assert contestant.difference.boxes_missing == 0
        assert contestant.difference.max_box_px < 0.5
    assert len(report.comparisons) == 1


@pytest.fixture(scope="module")
def browser():
    for name in BROWSERS:
        path = shutil.which(name)
        if path is not None:
            return path
    pytest.skip(f"no browser here: none of {', '.join(BROWSERS)}")
    return None


@pytest.fixture
def shot(browser, tmp_path):
    def shot(page, *, dark=False, width=1240, height=3000):
        """Return what the browser paints, (height, width, 3) BGR."""
        (tmp_path / "report.html").write_text(page, encoding="utf-8")
        picture = tmp_path / "shot.png"
        command = [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--hide-scrollbars",
            "--force-device-scale-factor=1",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},{height}",
            f"--screenshot={picture}",
            *(["--blink-settings=preferredColorScheme=0"] if dark else []),
            (tmp_path / "report.html").as_uri(),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=120, env={**os.environ, "HOME": str(tmp_path)})
        return cv2.imread(str(picture))

    return shot


def count(picture, colour_rgb):
    """How many pixels have this colour, up to rounding."""
    apart = np.abs(picture[..., ::-1].astype(int) - colour_rgb).max(axis=2)
    return int(np.count_nonzero(apart <= 2))


def test_a_browser_paints_the_charts_in_light_and_in_dark(shot):
    page = render_html(make_report())
    light, dark = shot(page), shot(page, dark=True)
    assert light.shape == dark.shape == (3000, 1240, 3)
    ground = light[2:20, 2:20].mean(), dark[2:20, 2:20].mean()
    assert ground[0] > 230
    assert ground[1] < 40
    # the first two series' colours of each set, in bars, curves and legends
    for picture, colours in (
        (light, [(0x2A, 0x78, 0xD6), (0xEB, 0x68, 0x34)]),
        (dark, [(0x4B, 0x95, 0xE8), (0xE8, 0x74, 0x3F)]),
    ):
        for colour in colours:
            assert count(picture, colour) > 3000
    # text stands out from the ground in both
    assert count(light, (0x1C, 0x1C, 0x1A)) > 500
    assert count(dark, (0xF0, 0xEF, 0xEA)) > 500


def test_on_a_narrow_screen_nothing_is_wider_than_the_screen(shot):
    picture = shot(render_html(make_report()), width=520, height=4000)
    # the page's margin stays free on the right: no table or chart runs over it
    margin = picture[:, -6:].reshape(-1, 3).astype(int)
    assert np.abs(margin - picture[2, 2]).max() <= 2
