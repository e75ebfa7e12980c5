"""``rtmpose demo``: the main job on a film that needs no download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rtmpose_infer.cli._errors import reported_errors, wrong_usage
from rtmpose_infer.cli._options import Backend, Detector, Device, Pose
from rtmpose_infer.cli._outputs import TrackOptions
from rtmpose_infer.cli.track import run_track
from rtmpose_infer.pose_tracker import DEFAULT_DETECTOR, DEFAULT_POSE

__all__ = ["demo"]


def demo(  # one parameter an option
    output: Annotated[Path, typer.Option("-o", "--output", help="Annotated video.")] = Path("demo.mp4"),
    json: Annotated[Path | None, typer.Option("--json", help="Results as JSON; by default beside the video.")] = None,
    detector: Detector = DEFAULT_DETECTOR,
    pose: Pose = DEFAULT_POSE,
    backend: Backend = "auto",
    device: Device = "auto",
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="Length of the film.")] = 10.0,
) -> None:
    """Track two people who cross, in a film made from scikit-image's photographs; needs no camera and no download."""
    from rtmpose_infer.demo_scene import DemoScene  # needs the demo extra

    with reported_errors(), wrong_usage():
        options = TrackOptions(
            output=output,
            json=json or output.with_suffix(".json"),
            detector=detector,
            pose=pose,
            backend=backend,
            device=device,
        )
        run_track([DemoScene(duration_s=seconds)], options)
