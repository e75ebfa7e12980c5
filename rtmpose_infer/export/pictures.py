"""Pictures to measure a network on: for the parity gate and for INT8 calibration.

Real ones come from a folder. A pose network wants one person per picture: either the boxes come from a COCO annotation
file, or every picture is one crop already. Without a folder the gate draws its own: textured scenes with articulated
figures, which reach the value ranges of photographs; calibration on them would be worthless, so it asks for a folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from rtmpose_infer.errors import InputError
from rtmpose_infer.geometry import crop_transform
from rtmpose_infer.preprocess import crop_into, letterbox_into

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rtmpose_infer.model_spec import ModelSpec

__all__ = ["drawn_pictures", "pictures_from_folder"]

Frames = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def pictures_from_folder(
    folder: str | Path, spec: ModelSpec, *, boxes: str | Path | None = None, limit: int = 300
) -> Frames:
    """Return network inputs ``[N, H, W, 3]`` uint8 BGR made from the pictures in a folder.

    They are spread evenly over the folder (or over the annotated persons), in a fixed order.

    Args:
        folder: Searched with its subfolders.
        spec: Input size, task, padding.
        boxes: COCO annotation file with ``bbox`` per person, for pose networks; without it each picture is one crop.
        limit: At most so many.

    Raises:
        InputError: The folder has no readable picture, or the annotation file is none.
    """
    folder = Path(folder)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES) if folder.is_dir() else []
    if not paths:
        raise InputError(f"there are no pictures in {folder}; expected {', '.join(sorted(_SUFFIXES))} files.")
    width, height = spec.input_size_wh
    jobs: list[tuple[Path, Box | None]]
    if spec.task == "pose" and boxes is not None:
        jobs = list(_annotated(Path(boxes), paths))
    else:
        jobs = [(path, None) for path in paths]
    jobs = [jobs[i] for i in np.linspace(0, len(jobs) - 1, min(limit, len(jobs))).round().astype(int)]
    made = np.empty((len(jobs), height, width, 3), np.uint8)
    count = 0
    for path, box in jobs:
        frame: Any = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if frame is None:
            continue
        if spec.task == "pose":
            whole = (0.0, 0.0, float(frame.shape[1]), float(frame.shape[0]))
            transform = crop_transform(
                np.array([box or whole], np.float32),
                spec.input_size_wh,
                padding=spec.padding if box is not None else 1.0,
            )
            crop_into(frame, transform, made[count : count + 1])
        else:
            letterbox_into(frame, made[count], pad_value=spec.pad_value)
        count += 1
    if count == 0:
        raise InputError(f"none of the pictures in {folder} can be read.")
    return made[:count]


def drawn_pictures(spec: ModelSpec, count: int, *, brightness: float = 1.0) -> Frames:
    """Return ``count`` drawn network inputs ``[count, H, W, 3]`` uint8 BGR, the same ones every time.

    Args:
        spec: Input size and task: one figure per picture for a pose network, several otherwise.
        count: How many.
        brightness: Factor on all values, 0 to 1.
    """
    rng = np.random.default_rng(0)
    width, height = spec.input_size_wh
    made = np.empty((count, height, width, 3), np.uint8)
    for picture in made:
        picture[:] = _background(rng, width, height)
        if spec.task == "pose":
            _draw_figure(picture, rng, centre=(width / 2, height / 2), size=height / spec.padding)
        else:
            for _ in range(int(rng.integers(1, 6))):
                centre = (rng.uniform(0.1, 0.9) * width, rng.uniform(0.3, 0.7) * height)
                _draw_figure(picture, rng, centre=centre, size=rng.uniform(0.2, 0.9) * height)
        noise = rng.normal(0, rng.uniform(1, 8), picture.shape)
        picture[:] = np.clip((picture + noise) * brightness, 0, 255)
    return made


def _background(rng: np.random.Generator, width: int, height: int) -> npt.NDArray[np.float32]:
    """Return coloured noise that weakens with frequency, as photographs do."""
    total = np.zeros((height, width, 3), np.float32)
    cells, amplitude = 2, float(rng.uniform(20, 40))
    while cells < max(width, height):
        octave = rng.normal(0, amplitude, (cells, cells, 3)).astype(np.float32)
        total += cv2.resize(octave, (width, height), interpolation=cv2.INTER_CUBIC)
        cells, amplitude = cells * 2, amplitude * 0.7
    return np.asarray(np.clip(rng.uniform(60, 190, 3) + total, 0, 255), np.float32)


def _draw_figure(picture: Frames, rng: np.random.Generator, *, centre: tuple[float, float], size: float) -> None:
    """Draw a person of height ``size`` with bent limbs."""
    unit = size / 7.5  # one head
    shirt, trousers = (tuple(int(c) for c in rng.uniform(20, 235, 3)) for _ in range(2))
    skin = tuple(int(c) for c in rng.uniform(0.35, 1) * np.array([150, 185, 235]))
    hip = np.array(centre) + np.array([0, 0.3 * unit])
    lean = rng.normal(0, 0.15)
    up = np.array([np.sin(lean), -np.cos(lean)])
    across = np.array([-up[1], up[0]])
    neck = hip + up * 2.6 * unit

    def limb(start: npt.NDArray[Any], bends: tuple[float, float], colours: tuple[Any, Any], width: float) -> None:
        for bend, colour in zip(bends, colours, strict=True):
            end = start + 1.6 * unit * np.array([np.sin(bend), np.cos(bend)])
            cv2.line(picture, _pixel(start), _pixel(end), colour, max(int(width * unit), 1), cv2.LINE_AA)
            start = end
        cv2.circle(picture, _pixel(start), max(int(0.22 * unit), 1), colours[1], -1, cv2.LINE_AA)

    for side in (-1, 1):
        limb(hip + across * side * 0.5 * unit, (rng.normal(0, 0.4), rng.normal(0, 0.4)), (trousers, trousers), 0.6)
    torso = [neck - across * unit, neck + across * unit, hip + across * 0.7 * unit, hip - across * 0.7 * unit]
    cv2.fillConvexPoly(picture, np.array([_pixel(p) for p in torso], np.int32), shirt, cv2.LINE_AA)
    for side in (-1, 1):
        limb(neck + across * side * unit, (rng.normal(0, 0.9), rng.normal(0, 1.2)), (shirt, skin), 0.4)
    head = neck + up * 0.8 * unit
    cv2.ellipse(
        picture, _pixel(head), _pixel((0.45 * unit, 0.6 * unit)), np.degrees(lean), 0, 360, skin, -1, cv2.LINE_AA
    )
    for side in (-1, 1):
        cv2.circle(picture, _pixel(head + across * side * 0.18 * unit), max(int(0.07 * unit), 1), (20, 20, 20), -1)


def _pixel(point: Any) -> tuple[int, int]:
    return int(point[0]), int(point[1])


def _numbers(x: Any, y: Any, width: Any, height: Any) -> tuple[float, float, float, float]:
    return float(x), float(y), float(width), float(height)


def _annotated(annotations: Path, paths: list[Path]) -> Iterator[tuple[Path, Box]]:
    try:
        data = json.loads(annotations.read_text(encoding="utf-8"))
        names = {entry["id"]: str(entry["file_name"]) for entry in data["images"]}
        persons = [(names[a["image_id"]], _numbers(*a["bbox"])) for a in data["annotations"] if not a.get("iscrowd")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{annotations} is not a COCO annotation file: {error!r}. It needs 'images', and 'annotations' with a 'bbox' "
            "of four numbers."
        ) from error
    by_name = {path.name: path for path in paths}
    found = 0
    for name, (x, y, w, h) in persons:
        path = by_name.get(Path(name).name)
        if path is not None and w > 1 and h > 1:
            found += 1
            yield path, (x, y, x + w, y + h)
    if not found:
        raise InputError(f"none of the persons in {annotations} is in one of the folder's pictures.")
