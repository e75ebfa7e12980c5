"""The README is true: its code runs, its commands and options exist, its links lead somewhere."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_code_runs_on_a_film_and_finds_somebody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnxruntime", "av", "skimage"):
        pytest.importorskip(package, reason=f"the README's code is run on the demo scene and needs {package}")
    from rtmpose_infer.demo_scene import DemoScene
    from rtmpose_infer.video import VideoWriter

    monkeypatch.chdir(tmp_path)
    with VideoWriter("people.mp4", frame_rate=30) as writer:
        for frame in islice(DemoScene(duration_s=2), 10):
            writer.write(frame.image, frame.timestamp_s)
    (code,) = blocks("python")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert "(1, 17, 2)" in printed.getvalue()


def test_the_python_code_passes_a_strict_type_check_with_the_frames_that_opencv_declares(tmp_path: Path) -> None:
    (code,) = blocks("python")
    assert strictly_checked(code, tmp_path) == []


def test_a_type_check_knows_the_options_that_a_tracker_hands_on(tmp_path: Path) -> None:
    code = """
from rtmpose_infer import PoseTracker
from rtmpose_infer.offline import OfflineTracker

PoseTracker(pose="rtmpose-m", backend="openvino", threads=2, det_interval="auto")
OfflineTracker(pose="rtmpose-m", threads=2)
PoseTracker(detecter="rtmdet-nano")
OfflineTracker(threads="two")
"""
    found = strictly_checked(code, tmp_path)
    assert len(found) == 2
    assert '"detecter"' in found[0]
    assert '"threads"' in found[1]


def strictly_checked(code: str, folder: Path) -> list[str]:
    """Return the errors that mypy finds in a program of somebody who uses the package."""
    pytest.importorskip("mypy", reason="the types are checked by mypy, of the dev extra")
    program = folder / "program.py"
    program.write_text(code, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", os.devnull, "--no-error-summary", program.name],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not ran.stderr
    return [line for line in ran.stdout.splitlines() if ": error: " in line]


def test_every_extra_that_is_named_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = set(re.findall(r"rtmpose-infer\[([\w-]+)\]", README)) | set(re.findall(r"'\.\[([\w-]+)\]'", README))
    assert named
    assert named <= set(project["optional-dependencies"])


def test_every_command_that_is_named_exists() -> None:
    typer = pytest.importorskip("typer", reason="the commands need the cli extra")
    from rtmpose_infer.cli.app import app

    group = typer.main.get_command(app)
    named = set(re.findall(r"`rtmpose ([a-z]+)", README))
    assert named
    assert named <= set(group.commands)  # type: ignore[attr-defined]


def test_every_link_to_a_file_leads_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link.split("#")[0]).exists()] == []


def test_the_marked_commands_are_there_for_continuous_integration() -> None:
    for name in ("demo", "test"):
        marked = re.search(rf"<!-- {name}-command -->\n```bash\n(.+)\n```\n<!-- /{name}-command -->", README)
        assert marked is not None
        assert marked[1].startswith("pip install -e ")
