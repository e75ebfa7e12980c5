"""What the video around the tracker costs: `rtmpose track` with H.264 output against tracking alone.

    python benchmarks/track_command.py --video street.mp4 [--detector ...] [--pose ...] [--rounds 5]
    python benchmarks/track_command.py --demo

Tracking alone takes frames that are decoded already; the other run decodes, tracks, draws, encodes and writes JSON, as
the command does. Both take turns on the same networks, so a busy machine slows both down. Prints the ratio of their
throughputs (goal: at least 0.85 at 720p on two cores) and the processor time a frame of each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from rtmpose_infer.cli._outputs import TrackOptions, open_outputs
from rtmpose_infer.cli._streams import Stream, run_streams
from rtmpose_infer.cli.track import _poses_tracked
from rtmpose_infer.demo_scene import DemoScene
from rtmpose_infer.pose_tracker import DEFAULT_DETECTOR, DEFAULT_POSE, PosePipeline, PoseTracker
from rtmpose_infer.tracker import TrackerConfig
from rtmpose_infer.video import Frame, FrameSource, VideoWriter, open_source


class Shortened(FrameSource):
    """The first frames of a source."""

    def __init__(self, path: Path, frames: int) -> None:
        self._source = open_source(path)
        self._frames = frames
        self.name, self.frame_rate, self.frame_count = path.name, self._source.frame_rate, frames

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._source:
            if frame.index >= self._frames:
                return
            yield frame

    def close(self) -> None:
        """Close the source."""
        self._source.close()


def track_alone(pipeline: PosePipeline, frames: list[Frame], config: TrackerConfig) -> None:
    with PoseTracker(pipeline, config=config) as tracker:
        for frame in frames:
            tracker(frame.image, timestamp_s=frame.timestamp_s)


def track_as_the_command(pipeline: PosePipeline, video: Path, frames: int, config: TrackerConfig, folder: Path) -> None:
    source = Shortened(video, frames)
    options = TrackOptions(output=folder / "o.mp4", json=folder / "o.json")
    outputs = open_outputs([source], options, inputs=[])
    pipeline.leave(0)
    report = run_streams([Stream(source, outputs[0])], partial(_poses_tracked, pipeline, config))
    if report.failure is not None:
        raise report.failure


def timed(run: partial[None]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path)
    parser.add_argument("--demo", action="store_true", help="make a film of the demo scene and use that")
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--detector", default=DEFAULT_DETECTOR)
    parser.add_argument("--pose", default=DEFAULT_POSE)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if (arguments.video is None) == (not arguments.demo):
        parser.error("give either --video or --demo")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = arguments.video
        if arguments.demo:
            video = folder / "demo.mp4"
            with VideoWriter(video, frame_rate=30) as writer:
                for frame in DemoScene(duration_s=arguments.frames / 30):
                    writer.write(frame.image, frame.timestamp_s)
        with Shortened(video, arguments.frames) as source:
            frames = list(source)
        config = TrackerConfig()
        with PosePipeline(
            detector=arguments.detector, pose=arguments.pose, backend=arguments.backend, threads=arguments.threads
        ) as pipeline:
            alone = partial(track_alone, pipeline, frames, config)
            command = partial(track_as_the_command, pipeline, video, len(frames), config, folder)
            command()
            rounds = [(timed(alone), timed(command)) for _ in range(arguments.rounds)]
            backends = {task: f"{info.runtime} {info.version}" for task, info in pipeline.describe().items()}
    ratios = [a[0] / c[0] for a, c in rounds]
    count = len(frames)
    report = {
        "frames": count,
        "frame_size_wh": [frames[0].image.shape[1], frames[0].image.shape[0]],
        "backends": backends,
        "throughput_ratio": {
            "median": round(statistics.median(ratios), 3),
            "of_all": [round(ratio, 3) for ratio in ratios],
        },
        "alone_ms_per_frame": {
            "wall": round(min(a[0] for a, _ in rounds) / count * 1e3, 2),
            "cpu": round(min(a[1] for a, _ in rounds) / count * 1e3, 2),
        },
        "command_ms_per_frame": {
            "wall": round(min(c[0] for _, c in rounds) / count * 1e3, 2),
            "cpu": round(min(c[1] for _, c in rounds) / count * 1e3, 2),
        },
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
