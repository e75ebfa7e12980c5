"""``rtmpose track``: people's poses from pictures, videos and live streams to annotated video and result files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console

from rtmpose_infer.cli._display import Display, Window, summarise
from rtmpose_infer.cli._errors import FAILED, INTERRUPTED, reported_errors, wrong_usage
from rtmpose_infer.cli._offline import check_offline, run_offline
from rtmpose_infer.cli._options import Backend, Detector, Device, Pose, Threads, det_interval_from_text
from rtmpose_infer.cli._outputs import TrackOptions, is_single_picture, open_outputs
from rtmpose_infer.cli._streams import RunReport, Stream, run_streams, signals_as_interrupt
from rtmpose_infer.errors import InputError
from rtmpose_infer.formats import openpose_people_from_poses
from rtmpose_infer.offline import OfflineConfig, OfflineTracker
from rtmpose_infer.pose_tracker import DEFAULT_DETECTOR, DEFAULT_POSE, PosePipeline
from rtmpose_infer.results import Poses
from rtmpose_infer.tracker import TrackerConfig
from rtmpose_infer.video import FrameSource, open_source

if TYPE_CHECKING:
    from rtmpose_infer.video import Frame

__all__ = ["run_track", "track"]


class ResultFormat(str, Enum):
    """What ``--json`` writes."""

    NATIVE = "native"
    COCO = "coco"
    OPENPOSE = "openpose"
    MMPOSE = "mmpose"


class ColourBy(str, Enum):
    """What the colour of a limb says."""

    SIDE = "side"
    ID = "id"


def track(  # one parameter an option
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Pictures, folders of pictures, videos, GIFs and other animated pictures, camera numbers, or addresses "
            "(rtsp://, http://, …). Several run side by side on one set of networks.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Annotated video (.mp4), picture, or folder of pictures; for several inputs a folder. "
            "With no output at all, a file gets INPUT_poses.mp4 in the current folder, a picture its own ending there.",
        ),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", help="Results as JSON; a folder for --format openpose and for several inputs."),
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Results as a table; a folder for several inputs.")] = None,
    format_: Annotated[
        ResultFormat | None, typer.Option("--format", help="What --json writes; native by default.")
    ] = None,
    detector: Detector = DEFAULT_DETECTOR,
    pose: Pose = DEFAULT_POSE,
    one_stage: Annotated[
        str | None, typer.Option(help="One network for both (RTMO), in place of --detector and --pose.")
    ] = None,
    backend: Backend = "auto",
    device: Device = "auto",
    threads: Threads = None,
    det_interval: Annotated[
        str,
        typer.Option(metavar="N|auto", help="Run the detector on every N-th frame, or (not --offline) when needed."),
    ] = "5",
    max_people: Annotated[
        int | None, typer.Option(min=1, help="At most this many people in a frame; by default all.")
    ] = None,
    score_threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Ignore people of whom the detector is less sure; by default its own limit."),
    ] = None,
    keypoint_threshold: Annotated[
        float, typer.Option(min=0, help="Do not draw joints of which the network is less sure.")
    ] = 0.3,
    smoothing: Annotated[bool, typer.Option(help="Smooth the joints over time.")] = True,
    tracking: Annotated[
        bool,
        typer.Option(
            help="Follow people from frame to frame; without it every frame stands alone (unrelated pictures)."
        ),
    ] = True,
    show: Annotated[bool, typer.Option("--show", help="Show the annotated frames in a window; q ends.")] = False,
    colour_by: Annotated[ColourBy, typer.Option(help="Colour limbs by side of the body or by person.")] = ColourBy.SIDE,
    ids: Annotated[bool, typer.Option(help="Write track ids above people's heads.")] = True,
    boxes: Annotated[bool, typer.Option(help="Draw people's boxes.")] = False,
    picture_rate: Annotated[float, typer.Option(help="Frames per second that a folder of pictures stands for.")] = 30.0,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline", help="Look at the whole video first: faster, steadier and more accurate; not for live sources."
        ),
    ] = False,
    work_dir: Annotated[
        Path | None,
        typer.Option(help="With --offline: keep the work in progress here; a run that was killed goes on from it."),
    ] = None,
) -> None:
    """Find and follow people's poses; write them over the video and into files.

    Ctrl-C ends at any time; what was done until then is on disk and can be read. The exit code is 0, 1 when something failed
    (an input that broke off counts), 2 for a wrong command line, 130 after Ctrl-C.
    """
    with reported_errors(), wrong_usage(), ExitStack() as opened:
        options = TrackOptions(
            output=output,
            json=json,
            csv=csv,
            format_name=(format_ or ResultFormat.NATIVE).value,
            detector=detector,
            pose=pose,
            one_stage=one_stage,
            backend=backend,
            device=device,
            threads=threads,
            det_interval=det_interval_from_text(det_interval),
            max_people=max_people,
            score_threshold=score_threshold,
            keypoint_threshold=keypoint_threshold,
            smoothing=smoothing,
            tracking=tracking,
            show=show,
            colour_by=colour_by.value,
            ids=ids,
            boxes=boxes,
        )
        if format_ is not None and json is None:
            raise InputError("--format says what --json writes; name a file with --json too.")
        if work_dir is not None and not offline:
            raise InputError("--work-dir keeps the work of --offline; without it there is none to keep.")
        sources = [opened.enter_context(open_source(text, picture_rate=picture_rate)) for text in inputs]
        if offline:
            _track_offline(sources, options, inputs=inputs, picture_rate=picture_rate, work_dir=work_dir)
        else:
            run_track(sources, options, inputs=inputs)


def run_track(sources: Sequence[FrameSource], options: TrackOptions, *, inputs: Sequence[str] = ()) -> None:
    """Track all sources, write what the options name, and say how it went.

    Args:
        sources: Open sources; they are closed.
        options: What to do.
        inputs: Where the sources come from, so that no output overwrites one.

    Raises:
        RtmposeInferError: Before any work: an output cannot be written, a model not loaded, an option not used.
        Exit: The run failed or was interrupted.
    """
    config = _tracker_config(options)
    with ExitStack() as opened:
        window = Window() if options.show else None
        opened.enter_context(signals_as_interrupt())  # before the outputs, which take back the files they made
        outputs = open_outputs(sources, options, inputs=inputs)
        for output in outputs:
            opened.callback(output.close)
        pipeline = opened.enter_context(_pipeline(options))
        _check_format(options, pipeline)
        streams = [Stream(*each) for each in zip(sources, outputs, _labels(sources, inputs), strict=True)]
        alone = {i for i, source in enumerate(sources) if not options.tracking or is_single_picture(source)}
        step = partial(_poses, pipeline, config, alone)
        console = Console(stderr=True, highlight=False)
        with Display(streams, console, window) as display:
            report = run_streams(streams, step, watch=display.watch)
        summarise(streams, pipeline.describe(), console)
    _exit(streams, report)


def _track_offline(
    sources: list[FrameSource],
    options: TrackOptions,
    *,
    inputs: Sequence[str],
    picture_rate: float,
    work_dir: Path | None,
) -> None:
    """Track one file with knowledge of its future; see ``run_track`` for the rest."""
    config = OfflineConfig(
        key_interval=check_offline(sources, options),
        smoothing_s=OfflineConfig().smoothing_s if options.smoothing else 0,
        tracker=TrackerConfig(smoothing=None, max_people=options.max_people),
    )
    with ExitStack() as opened:
        opened.enter_context(signals_as_interrupt())
        (output,) = open_outputs(sources, options, inputs=inputs)
        opened.callback(output.close)
        # One thread for each call: whole frames side by side keep the cores busier than parts of one frame.
        pipeline = opened.enter_context(_pipeline(replace(options, threads=options.threads or 1)))
        _check_format(options, pipeline)
        stream = Stream(sources[0], output)
        console = Console(stderr=True, highlight=False)
        report = run_offline(
            OfflineTracker(pipeline, config=config),
            stream,
            inputs[0],
            picture_rate=picture_rate,
            work_dir=work_dir,
            console=console,
        )
        if stream.frames or report.failure is None:
            summarise([stream], pipeline.describe(), console)
    _exit([stream], report)


def _pipeline(options: TrackOptions) -> PosePipeline:
    finding = {} if options.score_threshold is None else {"score_threshold": options.score_threshold}
    return PosePipeline(
        detector=options.detector,
        pose=options.pose,
        one_stage=options.one_stage,
        backend=options.backend,
        device=options.device,
        threads=options.threads,
        detector_options=finding if options.one_stage is None else {},
        one_stage_options=finding if options.one_stage is not None else {},
    )


def _check_format(options: TrackOptions, pipeline: PosePipeline) -> None:
    """Refuse a format that cannot hold the network's joints, before they are looked for."""
    if options.format_name == "openpose":
        openpose_people_from_poses(Poses.empty(pipeline.skeleton))


def _poses(
    pipeline: PosePipeline, config: TrackerConfig, alone: Set[int], batch: Mapping[int, Frame]
) -> Mapping[int, Poses]:
    """Follow people, and in streams that stand ``alone`` only find them."""
    apart = {index: frame for index, frame in batch.items() if index in alone}
    together = {index: frame for index, frame in batch.items() if index not in alone}
    found = dict(_poses_alone(pipeline, config.max_people, apart)) if apart else {}
    return found | dict(_poses_tracked(pipeline, config, together)) if together else found


def _poses_tracked(pipeline: PosePipeline, config: TrackerConfig, batch: Mapping[int, Frame]) -> Mapping[int, Poses]:
    images = {index: frame.image for index, frame in batch.items()}
    times_s = {index: frame.timestamp_s for index, frame in batch.items()}
    return pipeline.track_many(images, timestamps_s=times_s, config=config)


def _poses_alone(pipeline: PosePipeline, most: int | None, batch: Mapping[int, Frame]) -> Mapping[int, Poses]:
    """Return the poses of each frame, of at most ``most`` people: those of whom the detector is surest."""
    found = pipeline.predict_batch([frame.image for frame in batch.values()])
    if most is not None:
        found = [poses[np.argsort(-poses.bbox_scores, kind="stable")[:most]] for poses in found]
    return dict(zip(batch, found, strict=True))


def _tracker_config(options: TrackOptions) -> TrackerConfig:
    config: dict[str, Any] = {"det_interval": options.det_interval, "max_people": options.max_people}
    if not options.smoothing:
        config["smoothing"] = None
    return TrackerConfig(**config)


def _labels(sources: Sequence[FrameSource], inputs: Sequence[str]) -> list[str]:
    """Return the names, and for files that share one the inputs as they were given; no two are the same."""
    names = [source.name for source in sources]
    texts = [
        name if source.is_live or names.count(name) == 1 else text  # an address may hold a password
        for source, name, text in zip(sources, names, inputs or names, strict=True)
    ]
    numbers = [texts[: i + 1].count(text) for i, text in enumerate(texts)]
    return [text if number == 1 else f"{text} ({number})" for text, number in zip(texts, numbers, strict=True)]


def _exit(streams: Sequence[Stream], report: RunReport) -> None:
    messages = [] if report.failure is None else [str(report.failure)]
    for stream in streams:
        if stream.failure is not None and stream.failure is not report.failure:
            message = str(stream.failure)
            own = f"{stream.source.name}: "
            messages.append(f"{stream.label}: {message.removeprefix(own)}" if message.startswith(own) else message)
    for message in dict.fromkeys(messages):
        typer.echo(f"error: {' '.join(message.split())}", err=True)
    if messages:
        raise typer.Exit(FAILED)
    if report.interrupted:
        typer.echo(f"interrupted; {report.left}", err=True)
        raise typer.Exit(INTERRUPTED)
