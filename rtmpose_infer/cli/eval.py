"""``rtmpose eval``: accuracy of poses on annotated pictures, of identities on annotated videos, and of scores."""

from __future__ import annotations

import json as json_
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import track as with_progress
from rich.table import Table

from rtmpose_infer.cli._errors import reported_errors, wrong_usage
from rtmpose_infer.cli._options import Backend, Detector, Device, Pose, Threads, det_interval_from_text
from rtmpose_infer.cli._paths import refuse_to_replace
from rtmpose_infer.detector import PersonDetector
from rtmpose_infer.errors import InputError, MediaError
from rtmpose_infer.estimator import PoseEstimator
from rtmpose_infer.evaluation.calibration import (
    calibration_report,
    calibration_samples,
    fit_calibration,
    write_calibrated,
)
from rtmpose_infer.evaluation.motchallenge import is_untracked, load_motchallenge_results, load_motchallenge_truth
from rtmpose_infer.evaluation.pose import Annotations, PoseReport, load_annotations, pose_report
from rtmpose_infer.evaluation.tracking import (
    PeopleFrame,
    identity_report,
    matched_motion_report,
    people_from_poses,
    track_boxes,
    track_recorded,
    tracks_jitter,
)
from rtmpose_infer.formats import load_recording
from rtmpose_infer.model_spec import load_model_file
from rtmpose_infer.pose_tracker import DEFAULT_DETECTOR, DEFAULT_POSE, PosePipeline, PoseTracker
from rtmpose_infer.tracker import TrackerConfig
from rtmpose_infer.video import load_picture, open_source
from rtmpose_infer.zoo import resolve, spec_fields

if TYPE_CHECKING:
    from rtmpose_infer.results import Poses

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Measure accuracy against annotations.")
Item = TypeVar("Item")

_Json = Annotated[Path | None, typer.Option("--json", help="Write every figure here.")]


class Boxes(str, Enum):
    """Where people's boxes come from."""

    DETECTOR = "detector"
    GT = "gt"


class Similarity(str, Enum):
    """By what people are compared."""

    AUTO = "auto"
    BOXES = "boxes"
    JOINTS = "joints"


@app.command()
def pose(
    annotations: Annotated[Path, typer.Option(help="COCO or COCO-WholeBody keypoint annotations.")],
    images: Annotated[Path, typer.Option(help="Folder of the annotated pictures.")],
    detector: Detector = DEFAULT_DETECTOR,
    pose: Pose = DEFAULT_POSE,
    boxes: Annotated[Boxes, typer.Option(help="Estimate poses in the detector's boxes or in the annotated ones.")] = (
        Boxes.DETECTOR
    ),
    score_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Ignore people of whom the detector is less sure.")
    ] = 0.3,
    flip_test: Annotated[
        bool | None,
        typer.Option(
            "--flip-test/--no-flip-test",
            help="Also show the network every crop mirrored and average, as published figures often do; by default what "
            "the model says.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many pictures.")] = None,
    backend: Backend = "auto",
    device: Device = "auto",
    threads: Threads = None,
    json: _Json = None,
) -> None:
    """Measure poses by COCO's figures (AP and AR over object keypoint similarity), by size, part and joint."""
    with reported_errors():
        _check_output(json, annotations, detector, pose)
        truth = load_annotations(annotations)
        if limit is not None:
            truth = truth.first(limit)
        _check_pictures(truth, images)
        common: dict[str, Any] = {"backend": backend, "device": device, "threads": threads}
        estimate = PoseEstimator(pose, flip_test=flip_test, **common)
        detect = (
            PersonDetector(detector, score_threshold=score_threshold, **common) if boxes is Boxes.DETECTOR else None
        )
        report = pose_report(truth, _estimated(truth, images, estimate, detect))
        _show_pose(report)
        names = {"pose": pose, "detector": None if detect is None else detector, "boxes": boxes.value}
        settings = {"flip_test": estimate.spec.flip_test, "score_threshold": detect and score_threshold}
        _write(json, {"annotations": str(annotations), **names, **settings, **report.as_dict()})


@app.command()
def track(
    truth: Annotated[Path, typer.Option(help="Who is where: MOTChallenge text, or this package's JSON with ids.")],
    video: Annotated[Path | None, typer.Option(help="Track the people of this video.")] = None,
    detections: Annotated[
        Path | None,
        typer.Option(
            help="Judge these instead: MOTChallenge text, or this package's JSON. People without ids are tracked first."
        ),
    ] = None,
    similarity: Annotated[
        Similarity, typer.Option(help="Compare people by boxes or by joints; auto: by joints where both have them.")
    ] = Similarity.AUTO,
    threshold: Annotated[float, typer.Option(min=0.05, max=0.95, help="Similarity from which two are the same.")] = 0.5,
    detector: Detector = DEFAULT_DETECTOR,
    pose: Pose = DEFAULT_POSE,
    det_interval: Annotated[
        str, typer.Option(metavar="N|auto", help="Run the detector on every N-th frame, or when it is needed.")
    ] = "5",
    backend: Backend = "auto",
    device: Device = "auto",
    threads: Threads = None,
    json: _Json = None,
) -> None:
    """Measure identities (IDF1, MOTA, HOTA, switches) and the steadiness and lag of joints."""
    with reported_errors():
        _check_output(json, truth, video, detections, detector, pose)
        if (video is None) == (detections is None):
            raise typer.BadParameter("pass either --video, to track it, or --detections, to judge a file")
        there, sigmas = _load_truth(truth)
        if video is not None:
            with wrong_usage():
                config = TrackerConfig(det_interval=det_interval_from_text(det_interval))
            pipeline = PosePipeline(detector=detector, pose=pose, backend=backend, device=device, threads=threads)
            with pipeline, PoseTracker(pipeline, config=config) as tracker:
                found = [people_from_poses(poses) for poses in _tracked(tracker, video)]
                own_sigmas = pipeline.estimator.skeleton.oks_sigmas
        else:
            found, own_sigmas = _load_found(detections or Path())
        by_joints = _by_joints(similarity, sigmas, own_sigmas)
        if video is not None or own_sigmas is not None:
            _note_early_end(there, found, str(video or detections))
        there, found = _same_length(there, found)
        report = identity_report(there, found, threshold=threshold, sigmas=sigmas if by_joints else None)
        figures: dict[str, Any] = {"compared_by": "joints" if by_joints else "boxes", **report.as_dict()}
        if by_joints and sigmas is not None:
            motion = matched_motion_report(there, found, sigmas=sigmas, threshold=threshold)
            figures |= motion.as_dict()
        elif own_sigmas is not None:
            figures["jitter_px"] = tracks_jitter(found)
        _show_figures(figures)
        _write(json, {"truth_file": str(truth), "tracked": str(video or detections), "threshold": threshold, **figures})


@app.command()
def calibrate(
    annotations: Annotated[Path, typer.Option(help="COCO keypoint annotations that the network was not trained on.")],
    images: Annotated[Path, typer.Option(help="Folder of the annotated pictures.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The calibrated copy of the network, .onnx.")],
    pose: Pose = DEFAULT_POSE,
    backend: Backend = "auto",
    device: Device = "auto",
    threads: Threads = None,
    json: _Json = None,
) -> None:
    """Learn how likely joints are right by their score, and store it in a copy of the network.

    Poses of the copy carry a probability for each joint beside its score. The figures are of pictures that the
    respective fit has not seen.
    """
    with reported_errors():
        if output.suffix.lower() != ".onnx":
            message = f"the calibrated copy of the network is an ONNX file; end the name in .onnx, got {output.name!r}"
            raise typer.BadParameter(message, param_hint="--output")
        path = resolve(pose, task="pose")
        _check_output(output, annotations, path)
        _check_output(json, annotations, path)
        if json is not None and json.resolve() == output.resolve():
            raise typer.BadParameter("the calibrated network goes there already", param_hint="--json")
        truth = load_annotations(annotations)
        _check_pictures(truth, images)
        model = load_model_file(path, task="pose", **spec_fields(pose, path))
        with PoseEstimator(pose, backend=backend, device=device, threads=threads) as estimate:
            samples = calibration_samples(truth, _estimated(truth, images, estimate, None))
        calibration, report = fit_calibration(samples), calibration_report(samples)
        write_calibrated(model, calibration, output)
        _show_figures(report.as_dict())
        _write(json, {"annotations": str(annotations), "pose": pose, **report.as_dict(), **calibration.as_mapping()})


def _check_pictures(truth: Annotations, images: Path) -> None:
    """Find out before an hour of work whether every picture is there."""
    absent = [name for name in truth.images.values() if not (images / name).is_file()]
    if absent:
        raise MediaError(
            f"{images}: {len(absent)} of {len(truth.images)} annotated pictures are not there, such as {absent[0]}; "
            "get them, or take them out of the annotations."
        )


def _estimated(
    truth: Annotations, images: Path, estimate: PoseEstimator, detect: PersonDetector | None
) -> dict[int, Poses]:
    found = {}
    for image_id, name in _progress(truth.images.items(), len(truth.images), "pictures"):
        frame = load_picture(images / name)
        if detect is None:
            found[image_id] = estimate.predict(frame, truth.boxes[image_id])
        else:
            people = detect.predict(frame)
            found[image_id] = estimate.predict(frame, people.bboxes, bbox_scores=people.scores)
    return found


def _tracked(tracker: PoseTracker, video: Path) -> Iterable[Poses]:
    with open_source(video) as source:
        for frame in _progress(source, source.frame_count, "frames"):
            yield tracker(frame.image, timestamp_s=frame.timestamp_s)


def _progress(items: Iterable[Item], total: int | None, what: str) -> Iterable[Item]:
    console = Console(stderr=True)
    return with_progress(items, description=what, total=total, console=console, disable=not console.is_terminal)


def _load_truth(path: Path) -> tuple[list[PeopleFrame], Any]:
    """Return the true people, and the sigmas of their joints or None where truth has boxes alone."""
    if path.suffix.lower() == ".json":
        recording = load_recording(path)
        if any(poses.track_ids is None for poses in recording.frames):
            raise InputError(f"{path}: truth needs track ids; this recording was not tracked.")
        return [people_from_poses(poses) for poses in recording.frames], recording.skeleton.oks_sigmas
    return load_motchallenge_truth(path), None


def _load_found(path: Path) -> tuple[list[PeopleFrame], Any]:
    """Return the people found, tracked here if they were not, and the sigmas of their joints or None."""
    if path.suffix.lower() == ".json":
        recording = load_recording(path)
        frames: Sequence[Poses] = recording.frames
        if any(poses.track_ids is None for poses in frames):
            frames = track_recorded(frames)
        return [people_from_poses(poses) for poses in frames], recording.skeleton.oks_sigmas
    people, scores = load_motchallenge_results(path)
    if is_untracked(path):
        people = track_boxes(people, scores)
    return people, None


def _by_joints(similarity: Similarity, sigmas: Any, own_sigmas: Any) -> bool:
    both = sigmas is not None and own_sigmas is not None
    if similarity is Similarity.JOINTS and not both:
        raise InputError("--similarity joints needs joints on both sides; MOTChallenge files have boxes alone.")
    if both and len(sigmas) != len(own_sigmas):
        if similarity is Similarity.JOINTS:
            raise InputError(f"truth has {len(sigmas)} joints, the tracked people have {len(own_sigmas)}.")
        return False
    return both and similarity is not Similarity.BOXES


def _same_length(there: list[PeopleFrame], found: list[PeopleFrame]) -> tuple[list[PeopleFrame], list[PeopleFrame]]:
    """Fill the shorter side with frames without people: text files end at their last person."""
    nobody = PeopleFrame.empty(there[0] if there else None)
    nobody_found = PeopleFrame.empty(found[0] if found else None)
    most = max(len(there), len(found))
    return there + [nobody] * (most - len(there)), found + [nobody_found] * (most - len(found))


def _note_early_end(there: Sequence[PeopleFrame], found: Sequence[PeopleFrame], name: str) -> None:
    """Say so where people count as missed because what was tracked ended before the truth."""
    last = max((number for number, frame in enumerate(there, start=1) if len(frame.ids)), default=0)
    if last > len(found):
        typer.echo(
            f"note: {name} has {len(found)} frames, the truth people until frame {last}; from frame {len(found) + 1} on "
            "all count as missed.",
            err=True,
        )


def _show_pose(report: PoseReport) -> None:
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for title in ("AP", "AP50", "AP75", "AP medium", "AP large", "AR"):
        table.add_column(title, justify="right")
    for name, part in (("all", report.figures), *report.parts.items()):
        values = (part.ap, part.ap50, part.ap75, part.ap_medium, part.ap_large, part.ar)
        table.add_row(name, *[_number(v) for v in values])
    console.print(table)
    joints = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("joint", "annotated", "likeness", "median error"):
        joints.add_column(title, justify="left" if title == "joint" else "right")
    for row in report.joints:
        joints.add_row(row.name, str(row.annotated), _number(row.likeness), _number(row.median_error))
    console.print()
    console.print(joints)
    console.print(f"\n{report.images} pictures, {report.people} people annotated, {report.found} found")


def _show_figures(figures: Mapping[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), _number(value) if isinstance(value, float) else str(value))
    Console().print(table)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _check_output(path: Path | None, *inputs: str | Path | None) -> None:
    """Find out before an hour of work whether the result can be written, and is none of the inputs."""
    if path is None:
        return
    if not path.resolve().parent.is_dir():
        raise MediaError(f"{path}: cannot be written: the folder does not exist.")
    if path.is_dir():
        raise MediaError(f"{path}: cannot be written: it is a folder.")
    if not os.access(path if path.exists() else path.resolve().parent, os.W_OK):
        raise MediaError(f"{path}: cannot be written: no permission.")
    with wrong_usage():
        refuse_to_replace(path, inputs)


def _write(path: Path | None, figures: Mapping[str, Any]) -> None:
    if path is None:
        return
    figures = {
        name: None if isinstance(value, float) and math.isnan(value) else value for name, value in figures.items()
    }
    try:
        path.write_text(json_.dumps(figures, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise MediaError(f"{path}: cannot be written: {error.strerror}.") from error
