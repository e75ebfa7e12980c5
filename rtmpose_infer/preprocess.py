"""From frames to network inputs: letterboxing for detectors, affine crops for pose networks.

This is hot: it runs for every person of every frame. Pixels are warped straight into the batch that the runtime reads,
buffers are kept between frames, and the normalisation of foreign float models is a table look-up per plane, which
is exact (the table holds float32 of (v − mean)/std) and several times as fast as arithmetic on interleaved floats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from rtmpose_infer.errors import DTypeError, ShapeError

if TYPE_CHECKING:
    from rtmpose_infer.geometry import CropTransform
    from rtmpose_infer.model_spec import ModelSpec

__all__ = ["AnyFrame", "Frame", "InputBuffer", "check_frame", "crop_into", "letterbox_into", "mirror_into"]

Frame = npt.NDArray[np.uint8]
# A frame as callers have it: OpenCV's annotations say no more of its pictures. It must be uint8 all the same.
AnyFrame = npt.NDArray[np.integer[Any] | np.floating[Any]]

_LARGEST_SIDE = 32766  # OpenCV's remapping holds coordinates in 16 bits


def check_frame(frame: Any) -> Frame:
    """Return the frame if it is one the pipeline can use: (H, W, 3) uint8, BGR, at least 1×1.

    Non-contiguous views are fine. Grey, RGBA and float pictures are refused, because guessing what was meant gives
    results that are only slightly wrong.

    Raises:
        DTypeError: Not a uint8 array.
        ShapeError: Not (H, W, 3), empty, or wider or higher than 32,766 pixels.
    """
    if not isinstance(frame, np.ndarray):
        hint = "Read or convert it into an array, with the colours in the order blue, green, red."
        if frame is None:
            hint = "cv2.imread gives None for a missing file."
        raise DTypeError("frame", expected="a uint8 numpy array", actual=type(frame).__name__, hint=hint)
    if frame.dtype != np.uint8:
        raise DTypeError(
            "frame", expected="uint8", actual=frame.dtype, hint="Scale to 0–255 and use .astype(np.uint8)."
        )
    if frame.ndim != 3 or frame.shape[2] != 3:
        hint = "Convert with cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)."
        if frame.ndim == 3 and frame.shape[2] == 4:
            hint = "Convert with cv2.cvtColor(frame, cv2.COLOR_BGRA2BGR)."
        elif frame.ndim > 3:
            hint = "Pass one frame at a time; predict_batch takes several."
        raise ShapeError("frame", expected="(H, W, 3)", actual=frame.shape, hint=hint)
    if min(frame.shape[:2]) == 0 or max(frame.shape[:2]) > _LARGEST_SIDE:
        raise ShapeError("frame", expected=f"sides of 1 to {_LARGEST_SIDE} pixels", actual=frame.shape)
    # A view with negative or broken strides would be copied by every OpenCV call; copy it once.
    return frame if _opencv_can_wrap(frame) else np.ascontiguousarray(frame)


def crop_into(frame: Frame, transform: CropTransform, out: Frame, *, border_value: int = 0) -> None:
    """Warp each person's region into ``out``.

    Args:
        frame: (H, W, 3) uint8.
        transform: N crops; its ``input_size_wh`` is (w, h).
        out: (N, h, w, 3) uint8, contiguous; overwritten.
        border_value: The grey that everything outside the frame becomes.
    """
    size, border = transform.input_size_wh, (border_value,) * 3
    for matrix, crop in zip(transform.matrices(), out, strict=True):
        cv2.warpAffine(frame, matrix, size, dst=crop, flags=cv2.INTER_LINEAR, borderValue=border)


def mirror_into(pictures: Frame, out: Frame) -> None:
    """Write each of the pictures mirrored, left for right, into ``out``.

    One picture takes 3 µs; NumPy's copy of the reversed view takes 80, as long as the warp.

    Args:
        pictures: (N, h, w, 3) uint8, contiguous.
        out: The same shape, other memory; overwritten.
    """
    for picture, mirrored in zip(pictures, out, strict=True):
        cv2.flip(picture, 1, dst=mirrored)


def letterbox_into(frame: Frame, out: Frame, *, pad_value: int = 114) -> tuple[float, float]:
    """Resize the frame into the top left of ``out``, keeping its aspect, and fill the rest with grey.

    Args:
        frame: (H, W, 3) uint8.
        out: (h, w, 3) uint8, contiguous; overwritten.
        pad_value: The grey.

    Returns:
        The exact ratios input/frame of x and of y: a box edge in the frame is ``x_input / ratio_x``.
    """
    height, width = frame.shape[:2]
    out_height, out_width = out.shape[:2]
    ratio = min(out_width / width, out_height / height)
    new_width = min(max(int(width * ratio + 0.5), 1), out_width)
    new_height = min(max(int(height * ratio + 0.5), 1), out_height)
    cv2.resize(frame, (new_width, new_height), dst=out[:new_height, :new_width], interpolation=cv2.INTER_LINEAR)
    out[new_height:] = pad_value
    out[:new_height, new_width:] = pad_value
    return new_width / width, new_height / height


class InputBuffer:
    """A growing batch buffer in the form a network wants, filled picture by picture.

    One is kept per thread; its arrays are reused, so what ``tensor`` returns is valid until the next frame.

    Args:
        spec: Input size, format, colour and normalisation.
    """

    def __init__(self, spec: ModelSpec) -> None:
        width, height = spec.input_size_wh
        self._shape = (height, width, 3)
        self._pictures: Frame = np.empty((0, *self._shape), np.uint8)
        self._nhwc = spec.input_format == "nhwc_uint8"
        self._planes: npt.NDArray[np.float32] = np.empty((0, 3, height, width), np.float32)
        self._split = [np.empty((height, width), np.uint8) for _ in range(3)]
        # Planes come out of the split as B, G, R; entry i of the table is for network channel i.
        self._order = (0, 1, 2) if spec.colour == "bgr" else (2, 1, 0)
        values = np.arange(256, dtype=np.float32)
        # Rounded after the difference and after the quotient, as training and the deploy graphs do.
        mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
        self._tables = [(values - m) / s for m, s in zip(mean, std, strict=True)]

    def pictures(self, count: int) -> Frame:
        """Return the first ``count`` uint8 pictures, (count, H, W, 3), to be filled."""
        self.reserve(count)
        return self._pictures[:count]

    def reserve(self, count: int) -> None:
        """Make room for ``count`` pictures, keeping those that are there."""
        if count <= len(self._pictures):
            return
        grown = np.zeros((count, *self._shape), np.uint8)
        grown[: len(self._pictures)] = self._pictures
        self._pictures = grown
        if not self._nhwc:
            self._planes = np.zeros((count, 3, *self._shape[:2]), np.float32)

    def tensor(self, count: int, *, padded: int = 0) -> npt.NDArray[Any]:
        """Return the first ``count`` pictures as the network's input: themselves, or normalised float32 planes.

        Args:
            count: Pictures that were filled.
            padded: Length of the array to return, where it is to be longer; what the further rows hold is undefined.
        """
        length = max(count, padded)
        if self._nhwc:
            return self._pictures[:length]
        for picture, planes in zip(self._pictures[:count], self._planes, strict=False):
            cv2.split(picture, self._split)
            for channel, table, plane in zip(self._order, self._tables, planes, strict=True):
                cv2.LUT(self._split[channel], table, dst=plane)
        return self._planes[:length]


def _opencv_can_wrap(frame: Frame) -> bool:
    return frame.strides[2] == 1 and frame.strides[1] == 3 and frame.strides[0] >= 3 * frame.shape[1]
