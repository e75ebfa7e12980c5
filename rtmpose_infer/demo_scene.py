"""A film to try things on that needs no download: two people cross in front of a calm wall.

The people are cut out of the photographs ``astronaut`` and ``camera`` that scikit-image brings in its wheel (NASA,
public domain; and a CC0 photograph), so a detector finds real people. Their outlines were drawn by hand once and are
fitted to the photographs' edges by GrabCut; the rest is geometry: every run gives the same frames. One person passes
behind the other, which is what a tracker has to survive.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from rtmpose_infer.errors import BackendUnavailableError
from rtmpose_infer.options import check_option, is_number
from rtmpose_infer.video import Frame, FrameSource

__all__ = ["DemoScene"]

Image = npt.NDArray[np.uint8]

_SIZE_WH = (1280, 720)
_FRAME_RATE = 30.0
_DURATION_S = 10.0
_STEP_HZ = 1.7

# Outlines in the pixels of the 512 × 512 photographs, clockwise from the top of the head.
_ASTRONAUT = (
    (225, 15), (262, 22), (290, 45), (301, 80), (295, 110), (277, 130), (264, 160), (262, 178), (288, 192),
    (305, 225), (304, 248), (330, 262), (350, 290), (358, 330), (362, 350), (390, 343), (430, 348), (465, 370),
    (487, 405), (497, 450), (512, 470), (512, 512), (20, 512), (22, 470), (20, 430), (25, 370), (38, 300),
    (60, 255), (90, 225), (115, 205), (112, 185), (125, 165), (150, 152), (183, 148), (178, 125), (160, 105),
    (153, 75), (165, 45), (190, 25),
)  # fmt: skip
_CAMERAMAN = (
    (195, 66), (225, 66), (255, 78), (270, 100), (271, 128), (262, 140), (325, 138), (326, 172), (332, 182),
    (330, 205), (312, 225), (300, 240), (285, 243), (296, 272), (290, 292), (270, 305), (245, 312), (215, 298),
    (195, 312), (170, 345), (150, 375), (142, 395), (148, 430), (152, 512), (0, 512), (0, 248), (15, 225),
    (40, 190), (70, 150), (100, 125), (140, 110), (158, 103), (160, 85), (175, 72),
)  # fmt: skip
# The photograph ends at his back; a straight edge would give the cut-out away.
_BEHIND = ((0, 200), (15, 234), (6, 268), (2, 330), (5, 420), (14, 512), (0, 512))
# The tripod is too thin for GrabCut: start, end and width of its bars.
_TRIPOD = (
    ((292, 235), (292, 480), 9), ((288, 325), (238, 505), 8), ((300, 325), (402, 512), 8), ((296, 322), (338, 302), 6),
    ((245, 490), (292, 485), 4), ((292, 485), (385, 480), 4),
)  # fmt: skip


@dataclass(frozen=True)
class _Person:
    """A cut-out (premultiplied colour, opacity) and its walk: middle and height in pixels at both ends of the film."""

    colour: Image
    opacity: Image
    from_x: float
    to_x: float
    from_height: float
    to_height: float
    phase: float


class DemoScene(FrameSource):
    """The film as a source of frames: 1280 × 720, 30 frames per second, 10 seconds.

    Args:
        duration_s: Another length; the people walk as much slower or faster.

    Raises:
        BackendUnavailableError: scikit-image is not installed.
        InputError: ``duration_s`` is not a positive number.
    """

    name = "demo"
    frame_rate = _FRAME_RATE
    size_wh = _SIZE_WH

    def __init__(self, *, duration_s: float = _DURATION_S) -> None:
        fine = is_number(duration_s) and duration_s > 0
        check_option("duration_s", duration_s, "a positive number of seconds", fine=fine)
        photographs = _photographs()
        self._frames = self.frame_count = max(1, round(duration_s * _FRAME_RATE))
        self._wall = _wall()
        astronaut, cameraman = photographs.astronaut()[:, :, ::-1], photographs.camera()
        # From far to near: the later one is drawn over the earlier one.
        self._people = (
            _Person(*_cut_out(np.ascontiguousarray(astronaut), _ASTRONAUT), -140, 1400, 560, 610, 0.0),
            _Person(
                *_mirrored(_cut_out(cv2.cvtColor(cameraman, cv2.COLOR_GRAY2BGR), _CAMERAMAN, _TRIPOD, _BEHIND)),
                *(1420, -220, 700, 650, 1.3),
            ),
        )

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._frames):
            image = self._wall.copy()
            share = index / max(1, self._frames - 1)
            for person in self._people:
                _draw(image, person, share, index / _FRAME_RATE)
            yield Frame(image, index, index / _FRAME_RATE)


def _photographs() -> Any:
    try:
        return importlib.import_module("skimage.data")
    except ImportError as error:
        raise BackendUnavailableError(
            "the demo scene is made from photographs of scikit-image, which is not installed. "
            "Install it with: pip install 'rtmpose-infer[demo]'"
        ) from error


def _wall() -> Image:
    """Return a warm grey wall, lighter in the middle, with the grain of a camera (else it would band when encoded)."""
    width, height = _SIZE_WH
    y, x = np.mgrid[:height, :width].astype(np.float32)
    light = 1 - 0.45 * np.hypot((x - width * 0.45) / width, (y - height * 0.35) / height)
    grain = np.random.default_rng(0).normal(0, 1.5, (height, width)).astype(np.float32)
    wall = light[..., None] * np.array([176, 188, 196], np.float32) + grain[..., None]
    return np.asarray(np.clip(np.rint(wall), 0, 255), dtype=np.uint8)


def _cut_out(
    photograph: Any,
    outline: tuple[tuple[int, int], ...],
    bars: tuple[tuple[Any, Any, int], ...] = (),
    left_out: tuple[tuple[int, int], ...] = (),
) -> tuple[Image, Image]:
    """Return premultiplied colour (H, W, 3) and opacity (H, W) of what the outline holds, fitted to the edges near it.

    ``bars`` (start, end, width) belong to it besides, the polygon ``left_out`` does not.
    """
    drawn = np.zeros(photograph.shape[:2], np.uint8)
    cv2.fillPoly(drawn, [np.array(outline, np.int32)], 255)
    band = 9
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * band + 1, 2 * band + 1))
    # Beyond the photograph's border the person goes on.
    padded = cv2.copyMakeBorder(drawn, band, band, band, band, cv2.BORDER_REPLICATE)
    inner = slice(band, -band)
    surely, possibly = cv2.erode(padded, kernel)[inner, inner], cv2.dilate(padded, kernel)[inner, inner]
    labels = np.full(drawn.shape, cv2.GC_BGD, np.uint8)
    labels[possibly > 0] = cv2.GC_PR_BGD
    labels[drawn > 0] = cv2.GC_PR_FGD
    labels[surely > 0] = cv2.GC_FGD
    cv2.setRNGSeed(1)  # GrabCut clusters colours from random seeds
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(photograph, labels, (0, 0, 1, 1), *models, 3, cv2.GC_INIT_WITH_MASK)  # the rectangle is not used
    mask = np.where((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD), 255, 0).astype(np.uint8)
    if left_out:
        cv2.fillPoly(mask, [np.array(left_out, np.int32)], 0)
    for start, end, width in bars:
        cv2.line(mask, start, end, 255, width, cv2.LINE_AA)
    opacity = np.asarray(cv2.GaussianBlur(mask, (0, 0), 1.2), dtype=np.uint8)
    colour = np.rint(photograph * (opacity[..., None] / 255.0)).astype(np.uint8)
    return colour, opacity


def _mirrored(cut_out: tuple[Image, Image]) -> tuple[Image, Image]:
    colour, opacity = cut_out
    return np.ascontiguousarray(colour[:, ::-1]), np.ascontiguousarray(opacity[:, ::-1])


def _draw(image: Image, person: _Person, share: float, time_s: float) -> None:
    """Draw a person at ``share`` (0 to 1) of the walk, rising and falling with the steps."""
    height = person.from_height + (person.to_height - person.from_height) * share
    scale = height / person.opacity.shape[0]
    step = math.sin(2 * math.pi * _STEP_HZ * time_s + person.phase)
    x = person.from_x + (person.to_x - person.from_x) * share - scale * person.opacity.shape[1] / 2
    y = _SIZE_WH[1] + 14 + 6 * step - height  # the feet of the cut-out stay below the picture's edge
    placed = np.array([[scale, 0, x], [0, scale, y]], np.float64)
    left, right = max(0, math.floor(x) - 2), min(_SIZE_WH[0], math.ceil(x + scale * person.opacity.shape[1]) + 2)
    top = max(0, math.floor(y) - 2)
    if left >= right:
        return
    placed[:, 2] -= left, top
    region = image[top:, left:right]
    size_wh = (region.shape[1], region.shape[0])
    colour = cv2.warpAffine(person.colour, placed, size_wh, flags=cv2.INTER_LINEAR)
    opacity = cv2.warpAffine(person.opacity, placed, size_wh, flags=cv2.INTER_LINEAR)
    behind = cv2.multiply(region, cv2.merge([255 - opacity] * 3), scale=1 / 255)
    cv2.add(colour, behind, dst=colour)
    region[:] = colour
