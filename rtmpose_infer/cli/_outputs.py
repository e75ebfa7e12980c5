"""Where the results of each input go, decided and tried before any work is done."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rtmpose_infer.cli._paths import identity
from rtmpose_infer.cli._streams import Output
from rtmpose_infer.drawing import draw_poses
from rtmpose_infer.errors import InputError, MediaError
from rtmpose_infer.formats import open_poses_writer
from rtmpose_infer.pose_tracker import DEFAULT_DETECTOR, DEFAULT_POSE
from rtmpose_infer.video import FrameSource, PictureSource, open_writer
from rtmpose_infer.video.writers import PICTURE_SUFFIXES

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from rtmpose_infer.formats import PosesWriter
    from rtmpose_infer.results import Poses
    from rtmpose_infer.video import FrameWriter

_FILE_SUFFIXES = {".m4v", ".mov", ".mp4", ".json", ".csv", *PICTURE_SUFFIXES}

__all__ = ["TrackOptions", "is_single_picture", "open_outputs"]


@dataclass(frozen=True, kw_only=True)
class TrackOptions:
    """What ``run_track`` is to do; the fields are the command's options."""

    output: Path | None = None
    json: Path | None = None
    csv: Path | None = None
    format_name: str = "native"
    detector: str = DEFAULT_DETECTOR
    pose: str = DEFAULT_POSE
    one_stage: str | None = None
    backend: str = "auto"
    device: str = "auto"
    threads: int | None = None
    det_interval: int | Literal["auto"] = 5
    max_people: int | None = None
    score_threshold: float | None = None
    keypoint_threshold: float = 0.3
    smoothing: bool = True
    tracking: bool = True
    show: bool = False
    colour_by: Literal["side", "id"] = "side"
    ids: bool = True
    boxes: bool = False


def open_outputs(sources: Sequence[FrameSource], options: TrackOptions, *, inputs: Sequence[str]) -> list[Output]:
    """Return the outputs of each source, started.

    Args:
        sources: Open sources.
        options: What to write.
        inputs: Paths that no output may overwrite.

    Raises:
        InputError: A live source has nowhere to write to, an output is also an input or another output, or cannot hold
            what goes there.
        MediaError: An output cannot be written.
    """
    plans = _plan(sources, options, inputs)
    outputs: list[Output] = []
    try:
        for source, plan in zip(sources, plans, strict=True):
            outputs.append(_output(source, plan, options))  # those already open are closed on failure
    except BaseException:
        for output in outputs:
            output.close()
        raise
    return outputs


def is_single_picture(source: FrameSource) -> bool:
    """Tell whether the source is one picture, in which nobody can be followed."""
    return isinstance(source, PictureSource) and source.frame_count == 1


@dataclass(frozen=True)
class _Plan:
    """Where one source's results go."""

    frames: Path | None
    json: Path | None
    csv: Path | None


def _plan(sources: Sequence[FrameSource], options: TrackOptions, inputs: Sequence[str]) -> list[_Plan]:
    """Return the outputs of each source; folders for several sources are made here."""
    named = [path for path in (options.output, options.json, options.csv) if path is not None]
    output = options.output
    if not named and not options.show:
        live = [source.name for source in sources if source.is_live]
        if live:
            raise InputError(
                f"{live[0]}: say where its results go, because a live source has no end: -o, --json, --csv or --show."
            )
        output = Path.cwd()
    stems = _stems(sources)
    plans = []
    for source, stem in zip(sources, stems, strict=True):
        suffix = _ending(source)
        if not named and output is not None:
            frames: Path | None = output / f"{stem}_poses{suffix}"
        else:
            frames = _placed(output, stem + suffix, several=len(sources) > 1, is_folder=_wants_folder(source, output))
        results = "" if options.format_name == "openpose" else ".json"
        json = _placed(
            options.json, stem + results, several=len(sources) > 1, is_folder=options.format_name == "openpose"
        )
        csv = _placed(options.csv, f"{stem}.csv", several=len(sources) > 1, is_folder=False)
        if frames is not None:
            _check_holds_all(frames, source)
        plans.append(_Plan(frames, json, csv))
    networks = (options.detector, options.pose, options.one_stage)
    read = [Path(text) for text in (*inputs, *networks) if text is not None]
    read += [path for source in sources if isinstance(source, PictureSource) for path in source.paths]
    _check_distinct(plans, read)
    return plans


def _stems(sources: Sequence[FrameSource]) -> list[str]:
    """Return names for the sources' outputs, different from each other and safe as file names."""
    stems: list[str] = []
    for source in sources:
        has_ending = not (source.is_live or _is_folder(source))
        base = Path(source.name).stem if has_ending else source.name
        stem = re.sub(r"[^\w.-]+", "-", base).strip("-.") or "stream"
        stems.append(next(name for name in _numbered(stem) if name not in stems))
    return stems


def _is_folder(source: FrameSource) -> bool:
    return isinstance(source, PictureSource) and [path.name for path in source.paths] != [source.name]


def _ending(source: FrameSource) -> str:
    """Return the ending of the annotated file: a picture keeps its own where that can be written."""
    if not (isinstance(source, PictureSource) and is_single_picture(source)):
        return ".mp4"
    own = source.paths[0].suffix
    return own if own.lower() in PICTURE_SUFFIXES else ".png"


def _numbered(stem: str) -> Iterator[str]:
    yield stem
    yield from (f"{stem}-{number}" for number in itertools.count(2))


def _wants_folder(source: FrameSource, path: Path | None) -> bool:
    """Tell whether a folder of pictures is to become a folder of pictures: the output is one, or has no ending."""
    several = isinstance(source, PictureSource) and not is_single_picture(source)
    return several and path is not None and (path.is_dir() or not path.suffix)


def _placed(path: Path | None, name: str, *, several: bool, is_folder: bool) -> Path | None:
    if path is None:
        return None
    if several:
        if path.suffix.lower() in _FILE_SUFFIXES and not path.is_dir():
            raise InputError(
                f"{path}: is the name of one file, but there are several inputs; name a folder for theirs."
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MediaError(
                f"{path}: with several inputs outputs go into a folder, and this one cannot be made: {error.strerror}."
            ) from error
        return path / name
    return path / name if path.is_dir() and not is_folder else path


def _check_holds_all(path: Path, source: FrameSource) -> None:
    several = isinstance(source, PictureSource) and not is_single_picture(source)
    if several and path.suffix.lower() in PICTURE_SUFFIXES and not path.is_dir():
        raise InputError(
            f"{path}: is one picture, but {source.name} has {source.frame_count}, and each would replace the one before; "
            "name a folder (without an ending), or a video (.mp4)."
        )


def _check_distinct(plans: Sequence[_Plan], inputs: Sequence[Path]) -> None:
    """Refuse an output that is an input or another output."""
    files = {known for path in inputs if (known := identity(path)) is not None}
    taken: set[Path] = set()
    for plan in plans:
        for path in (plan.frames, plan.json, plan.csv):
            if path is None:
                continue
            resolved = path.resolve()
            if identity(path) in files:
                raise InputError(f"{path}: is an input already; give every output a path of its own.")
            if resolved in taken:
                raise InputError(f"{path}: is another output already; give every output a path of its own.")
            taken.add(resolved)
        if plan.frames is not None and plan.frames.is_dir():
            for target in (plan.frames / path.name for path in inputs):
                if target.is_file() and identity(target) in files:
                    raise InputError(f"{target}: is an input already; name another folder.")


def _output(source: FrameSource, plan: _Plan, options: TrackOptions) -> Output:
    pictures = isinstance(source, PictureSource)
    facts: dict[str, Any] = {"name": source.name}
    if source.frame_rate is not None:
        facts["frame_rate"] = round(source.frame_rate, 6)
    writers: list[PosesWriter] = []
    frames: FrameWriter | None = None
    try:
        if plan.json is not None:
            writers.append(open_poses_writer(plan.json, options.format_name, source=facts))
        if plan.csv is not None:
            writers.append(open_poses_writer(plan.csv, "csv", source=facts))
        if plan.frames is not None:
            frames = open_writer(plan.frames, frame_rate=source.frame_rate, pictures=pictures)
    except BaseException:
        for writer in writers:
            writer.close()
        raise

    def draw(image: npt.NDArray[np.uint8], poses: Poses) -> npt.NDArray[np.uint8]:
        return draw_poses(
            image,
            poses,
            score_threshold=options.keypoint_threshold,
            colour_by=options.colour_by,
            show_ids=options.ids,
            show_boxes=options.boxes,
            out=image,
        )

    return Output(source.name, draw=draw, frames=frames, results=writers, keep_drawn=options.show)
