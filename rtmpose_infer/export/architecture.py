"""Read a network's architecture off its tensors.

Depth is how many blocks a stage has, width how many channels; keypoints, bins, classes and attention sizes are axes of
weights. Even the input size of a SimCC network is there: the classifiers have ``W·r`` and ``H·r`` rows and the token
projection ``(W/32)·(H/32)`` columns, which together give r, W and H. So no config is asked for; where a checkpoint carries
one, it takes precedence over this module's tables.

Four things leave no trace in the tensors and come from the published sizes, the config or the caller, in rising order of
authority: a detector's input size, RTMDet's ``exp_on_reg`` and ``share_conv``, and what a detector's single class or 17
keypoints stand for. What stays open is an error that lists the candidates and names the option.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from rtmpose_infer.errors import CheckpointError, InputError
from rtmpose_infer.export.mm_config import find_steps, find_value
from rtmpose_infer.export.networks.rtmdet import RTMDet
from rtmpose_infer.export.networks.rtmo import RTMO
from rtmpose_infer.export.networks.rtmpose import RTMPose
from rtmpose_infer.export.networks.rtmw import RTMW
from rtmpose_infer.export.networks.yolox import YOLOX

__all__ = ["Architecture", "read_architecture"]

# What shapes that fit no network end in: here, in torch's constructors, or in its allocator.
_MISFITS = (LookupError, ArithmeticError, ValueError, RuntimeError)

_log = logging.getLogger("rtmpose_infer.export")

Tensors = Mapping[str, Tensor]

_NETWORKS: dict[str, type[nn.Module]] = {
    "rtmpose": RTMPose,
    "rtmw": RTMW,
    "rtmdet": RTMDet,
    "yolox": YOLOX,
    "rtmo": RTMO,
}
_TASKS = {"rtmpose": "pose", "rtmw": "pose", "rtmdet": "detection", "yolox": "detection", "rtmo": "one_stage"}
_SPLIT_RATIOS = (2.0, 1.0, 1.5, 2.5, 3.0, 4.0)
# blocks of stage 2, channels of stage 4, depthwise: the published sizes
_SIZES = {
    "rtmpose": {
        (1, 384, False): "t",
        (2, 512, False): "s",
        (4, 768, False): "m",
        (6, 1024, False): "l",
        (8, 1280, False): "x",
    },
    "rtmw": {(4, 768, False): "m", (6, 1024, False): "l", (8, 1280, False): "x"},
    "rtmdet": {
        (2, 256, True): "nano",
        (1, 384, False): "tiny",
        (2, 512, False): "s",
        (4, 768, False): "m",
        (6, 1024, False): "l",
        (8, 1280, False): "x",
    },
    "yolox": {
        (3, 256, True): "nano",
        (3, 384, False): "tiny",
        (3, 512, False): "s",
        (6, 768, False): "m",
        (9, 1024, False): "l",
        (12, 1280, False): "x",
    },
    "rtmo": {(3, 384, False): "t", (3, 512, False): "s", (6, 768, False): "m", (9, 1024, False): "l"},
}
_INPUT_SIZES = {
    ("rtmdet", "nano"): (320, 320),
    ("yolox", "nano"): (416, 416),
    ("yolox", "tiny"): (416, 416),
    ("rtmo", "t"): (416, 416),
}
_EXP_ON_REG = {"nano": False, "tiny": False, "s": False, "m": True, "l": True, "x": True}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Everything needed to build the network a checkpoint is of.

    Attributes:
        family: ``"rtmpose"``, ``"rtmw"``, ``"rtmdet"``, ``"yolox"`` or ``"rtmo"``.
        size: Published size, such as ``"m"``; empty for another depth or width.
        options: Arguments of the network's constructor.
        input_size_wh: Width and height of the network's input in pixels.
        num_outputs: Keypoints of a pose network, classes of a detector.
        split_ratio: SimCC bins per input pixel; 1 for other heads.
        assumed: What was not in the file, in words.
    """

    family: str
    size: str
    options: Mapping[str, Any] = field(repr=False)
    input_size_wh: tuple[int, int]
    num_outputs: int
    split_ratio: float = 1.0
    assumed: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """``"pose"``, ``"detection"`` or ``"one_stage"``."""
        return _TASKS[self.family]

    @property
    def name(self) -> str:
        """Family and size, such as ``"rtmpose-m"``."""
        return f"{self.family}-{self.size}" if self.size else self.family

    def build(self) -> nn.Module:
        """Return the network with untrained weights, in eval mode.

        Raises:
            CheckpointError: There is no network of these options.
        """
        try:
            return _NETWORKS[self.family](**self.options).eval()
        except _MISFITS as error:
            raise CheckpointError(_misfit(self.name, error)) from error


def read_architecture(
    tensors: Tensors,
    config: Mapping[str, Any],
    *,
    input_size_wh: Sequence[int] | None = None,
    exp_on_reg: bool | None = None,
    share_conv: bool | None = None,
) -> Architecture:
    """Return the architecture that ``tensors`` are of.

    Args:
        tensors: Official key to tensor.
        config: The checkpoint's training config; may be empty.
        input_size_wh: Overrides the input size of a detector or of RTMO; must agree with the tensors of a SimCC network.
        exp_on_reg: Overrides RTMDet's switch.
        share_conv: Overrides RTMDet's switch.

    Raises:
        CheckpointError: The tensors are of no network of the family, or leave something open.
        InputError: ``input_size_wh`` cannot be.
    """
    family = _family(tensors)
    try:
        if family in {"rtmpose", "rtmw"}:
            return _simcc_network(family, tensors, config, _checked_size(input_size_wh))
        if family == "rtmo":
            return _rtmo(tensors, config, _checked_size(input_size_wh))
        return _detector(family, tensors, config, _checked_size(input_size_wh), exp_on_reg, share_conv)
    except KeyError as error:
        raise CheckpointError(
            f"the checkpoint looks like {family} but lacks the tensor {error.args[0]}. It is incomplete, or of a "
            "modified architecture."
        ) from error
    except InputError:
        raise
    except _MISFITS as error:
        raise CheckpointError(_misfit(family, error)) from error


def _misfit(name: str, error: Exception) -> str:
    return (
        f"the checkpoint looks like {name}, but the shapes of its tensors fit no such network ({error!r}). It is damaged, "
        "or of a modified architecture."
    )


def _family(tensors: Tensors) -> str:
    marks = {
        "rtmo": "head.dcc.x_bins",
        "rtmw": "head.mlp2.1.weight",
        "rtmpose": "head.gau.uv.weight",
        "rtmdet": "bbox_head.rtm_cls.0.weight",
        "yolox": "bbox_head.multi_level_conv_cls.0.weight",
    }
    for family, key in marks.items():
        if key in tensors:
            return family
    heads = sorted({".".join(k.split(".")[:2]) for k in tensors if not k.startswith(("backbone.", "neck."))})
    raise CheckpointError(
        f"the checkpoint's head is of no known family: it has {', '.join(heads) or 'no head at all'}. Supported are "
        "RTMPose (SimCC with GAU), RTMW, RTMDet (separated batch norm), YOLOX (MMDetection) and RTMO; heat-map and "
        "pre-trained backbones have no SimCC head to export."
    )


def _rows(tensors: Tensors, key: str) -> int:
    return int(tensors[key].shape[0])


def _columns(tensors: Tensors, key: str) -> int:
    return int(tensors[key].shape[1])


def _count(tensors: Tensors, pattern: str) -> int:
    """Return how many different numbers the one group of ``pattern`` takes among the keys."""
    expression = re.compile(pattern)
    return len({m.group(1) for k in tensors if (m := expression.match(k))})


def _backbone(tensors: Tensors, *, blocks_of_six: int) -> tuple[dict[str, Any], int, int, bool]:
    """Return the factors, the blocks of stage 2, the channels of stage 4 and whether convolutions are separable."""
    depthwise = "backbone.stage1.0.depthwise_conv.conv.weight" in tensors
    blocks = _count(tensors, r"backbone\.stage2\.1\.blocks\.(\d+)\.")
    channels = _rows(tensors, "backbone.stage4.2.final_conv.conv.weight")
    if blocks == 0:
        raise KeyError("backbone.stage2.1.blocks.0.conv1.conv.weight")
    factors = {"deepen_factor": blocks / blocks_of_six, "widen_factor": channels / 1024}
    return factors, blocks, channels, depthwise


def _gau(tensors: Tensors, prefix: str, names: tuple[str, str, str]) -> dict[str, Any]:
    dim = _rows(tensors, f"{prefix}.o.weight")
    expanded = _columns(tensors, f"{prefix}.o.weight")
    hidden, s, expansion = names
    return {hidden: dim, s: _columns(tensors, f"{prefix}.gamma"), expansion: expanded / dim}


def _simcc_network(
    family: str, tensors: Tensors, config: Mapping[str, Any], wanted: tuple[int, int] | None
) -> Architecture:
    factors, blocks, channels, depthwise = _backbone(tensors, blocks_of_six=6)
    final = "head.final_layer.weight" if family == "rtmpose" else "head.final_layer.conv.weight"
    keypoints = _rows(tensors, final)
    bins = (_rows(tensors, "head.cls_x.weight"), _rows(tensors, "head.cls_y.weight"))
    size, ratio = _simcc_input(bins, _columns(tensors, "head.mlp.1.weight"), config, wanted)
    options: dict[str, Any] = {
        **factors,
        "num_keypoints": keypoints,
        "input_size_wh": size,
        "simcc_split_ratio": ratio,
        "final_kernel": int(tensors[final].shape[2]),
        **_gau(tensors, "head.gau", ("gau_hidden_dims", "gau_s", "gau_expansion_factor")),
    }
    if family == "rtmw":
        options["neck_blocks"] = _count(tensors, r"neck\.top_down_blocks\.0\.blocks\.(\d+)\.")
    return Architecture(
        family=family,
        size=_SIZES[family].get((blocks, channels, depthwise), ""),
        options=options,
        input_size_wh=size,
        num_outputs=keypoints,
        split_ratio=ratio,
    )


def _simcc_input(
    bins: tuple[int, int], cells: int, config: Mapping[str, Any], wanted: tuple[int, int] | None
) -> tuple[tuple[int, int], float]:
    """Return the input size and the bins per pixel that give these numbers of bins and of feature cells."""
    wanted = wanted or _config_size(config)
    exact = math.sqrt(bins[0] * bins[1] / (1024 * cells))
    fitting = []
    for ratio in dict.fromkeys((*_SPLIT_RATIOS, round(exact, 6))):
        width, height = bins[0] / ratio, bins[1] / ratio
        if width == int(width) and height == int(height) and _cells(int(width)) * _cells(int(height)) == cells:
            fitting.append(((int(width), int(height)), float(ratio)))
    if wanted is not None:
        matching = [f for f in fitting if f[0] == wanted]
        if not matching:
            possible = ", ".join(f"{w}x{h} ({r:g} bins per pixel)" for (w, h), r in fitting) or "none"
            raise CheckpointError(
                f"input size {wanted[0]}x{wanted[1]} does not fit the checkpoint, which has {bins[0]} and {bins[1]} bins "
                f"and {cells} feature cells. Fitting: {possible}."
            )
        return matching[0]
    if len(fitting) != 1:
        possible = ", ".join(f"{w}x{h}" for (w, h), _ in fitting) or "none found"
        raise CheckpointError(
            f"the input size is not certain: {bins[0]} and {bins[1]} bins and {cells} feature cells fit {possible}. "
            "Pass the one it was trained with as --input-size WIDTHxHEIGHT."
        )
    return fitting[0]


def _cells(length: int) -> int:
    """Return how many cells a side of ``length`` pixels has after five halvings, each rounding up."""
    return -(-length // 32)


def _detector(
    family: str,
    tensors: Tensors,
    config: Mapping[str, Any],
    wanted: tuple[int, int] | None,
    exp_on_reg: bool | None,
    share_conv: bool | None,
) -> Architecture:
    factors, blocks, channels, depthwise = _backbone(tensors, blocks_of_six=6 if family == "rtmdet" else 9)
    size = _SIZES[family].get((blocks, channels, depthwise), "")
    head = "bbox_head.rtm_cls.0.weight" if family == "rtmdet" else "bbox_head.multi_level_conv_cls.0.weight"
    towers = "cls_convs" if family == "rtmdet" else "multi_level_cls_convs"
    classes = _rows(tensors, head)
    out = "neck.out_convs.0.pointwise_conv.conv.weight"
    options: dict[str, Any] = {
        **factors,
        "num_classes": classes,
        "depthwise": depthwise,
        "neck_channels": _rows(tensors, out if out in tensors else "neck.out_convs.0.conv.weight"),
        "feat_channels": _columns(tensors, head),
        "neck_blocks": _count(tensors, r"neck\.top_down_blocks\.0\.blocks\.(\d+)\."),
        "stacked_convs": _count(tensors, rf"bbox_head\.{towers}\.0\.(\d+)\."),
    }
    levels = _count(tensors, head.replace(".", r"\.").replace("0", r"(\d+)"))
    if levels != 3:
        raise CheckpointError(f"the detector has {levels} levels; supported are the three of stride 8, 16 and 32.")
    if family == "rtmdet":
        options |= _rtmdet_switches(size, depthwise, tensors, config, exp_on_reg, share_conv)
    input_size, assumed = _free_input_size(family, size, config, wanted)
    return Architecture(
        family=family,
        size=size,
        options=options,
        input_size_wh=input_size,
        num_outputs=classes,
        assumed=assumed,
    )


def _rtmdet_switches(
    size: str,
    depthwise: bool,
    tensors: Tensors,
    config: Mapping[str, Any],
    exp_on_reg: bool | None,
    share_conv: bool | None,
) -> dict[str, bool]:
    head = find_value(config, "model", "bbox_head")
    # In a config that names the head, an absent switch has MMDetection's default.
    if exp_on_reg is None and isinstance(head, Mapping) and head.get("type") == "RTMDetSepBNHead":
        exp_on_reg = bool(head.get("exp_on_reg", False))
    if exp_on_reg is None:
        if not size:
            raise CheckpointError(
                "whether this RTMDet passes its box distances through an exponential is not in the tensors, and its size "
                "is none of the published ones (nano, tiny and s do not; m, l and x do). Pass --exp-on-reg or "
                "--no-exp-on-reg."
            )
        exp_on_reg = _EXP_ON_REG[size]
    if share_conv is None and isinstance(head, Mapping) and head.get("type") == "RTMDetSepBNHead":
        share_conv = bool(head.get("share_conv", True))
    if share_conv is None:
        share_conv = not depthwise
        if share_conv and not _levels_agree(tensors):
            _log.warning(
                "the levels' head convolutions differ, although published RTMDet models of this size share them; the last "
                "level's are used for all. Pass --no-share-conv if this model was trained without sharing."
            )
    return {"exp_on_reg": exp_on_reg, "share_conv": share_conv}


def _levels_agree(tensors: Tensors) -> bool:
    pattern = re.compile(r"(bbox_head\.(?:cls|reg)_convs\.)[1-9]\d*(\.\d+\..*conv\.weight)")
    return all(
        tensor.equal(tensors[f"{m.group(1)}0{m.group(2)}"])
        for key, tensor in tensors.items()
        if (m := pattern.fullmatch(key))
    )


def _rtmo(tensors: Tensors, config: Mapping[str, Any], wanted: tuple[int, int] | None) -> Architecture:
    factors, blocks, channels, depthwise = _backbone(tensors, blocks_of_six=9)
    size = _SIZES["rtmo"].get((blocks, channels, depthwise), "")
    keypoints = _rows(tensors, "head.dcc.pos_enc")
    options: dict[str, Any] = {
        **factors,
        "num_keypoints": keypoints,
        "neck_dim": _rows(tensors, "neck.input_proj.0.conv.weight"),
        "neck_layers": _count(tensors, r"neck\.encoder\.0\.layers\.(\d+)\."),
        "ffn_hidden": _rows(tensors, "neck.encoder.0.layers.0.ffn.layers.0.0.weight"),
        "neck_channels": _rows(tensors, "neck.projector.convs.0.conv.weight"),
        "pose_vec_channels": _columns(tensors, "head.dcc.pose_to_kpts.0.weight"),
        "num_bins_xy": (_rows(tensors, "head.dcc.x_bins"), _rows(tensors, "head.dcc.y_bins")),
        "position_channels": _columns(tensors, "head.dcc.x_fc.weight"),
        **_gau(tensors, "head.dcc.gau", ("dcc_dim", "gau_s", "gau_expansion_factor")),
    }
    input_size, assumed = _free_input_size("rtmo", size, config, wanted)
    return Architecture(
        family="rtmo",
        size=size,
        options=options,
        input_size_wh=input_size,
        num_outputs=keypoints,
        assumed=assumed,
    )


def _free_input_size(
    family: str, size: str, config: Mapping[str, Any], wanted: tuple[int, int] | None
) -> tuple[tuple[int, int], tuple[str, ...]]:
    """Return the input size of a network that takes any multiple of 32, and what was assumed for it."""
    size_wh = wanted or _config_size(config)
    if size_wh is not None:
        if size_wh[0] % 32 or size_wh[1] % 32:
            raise InputError(f"input size {size_wh[0]}x{size_wh[1]} must be multiples of 32 for {family}.")
        return size_wh, ()
    if not size:
        raise CheckpointError(
            f"the input size of this {family} is not in its tensors, and its depth and width are none of the published "
            "sizes. Pass the one it was trained with, such as --input-size 320x320, 416x416 or 640x640."
        )
    size_wh = _INPUT_SIZES.get((family, size), (640, 640))
    return size_wh, (f"input size {size_wh[0]}x{size_wh[1]}, as published for {family}-{size}",)


def _config_size(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the test input size that a config states, or ``None``."""
    codec = config.get("codec")
    codec = codec[-1] if isinstance(codec, (list, tuple)) and codec else codec
    for value in (
        find_value(codec, "input_size"),
        find_value(config, "model", "head", "input_size"),
        find_value(config, "model", "test_cfg", "input_size"),
        *_pipeline_sizes(config),
    ):
        if isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(v, int) and v > 0 for v in value):
            return int(value[0]), int(value[1])
    return None


def _pipeline_sizes(config: Mapping[str, Any]) -> list[Any]:
    pipeline = config.get("test_pipeline")
    if not isinstance(pipeline, (list, tuple)):
        return []
    steps = {"pipeline": pipeline}
    return [
        *(step.get("input_size") for step in find_steps(steps, "BottomupResize")),
        *(step.get("scale") for step in find_steps(steps, "Resize")),
        *(step.get("img_scale") for step in find_steps(steps, "MultiScaleFlipAug")),
    ]


def _checked_size(size_wh: Sequence[int] | None) -> tuple[int, int] | None:
    if size_wh is None:
        return None
    if len(size_wh) != 2 or not all(isinstance(v, int) and 32 <= v <= 4096 for v in size_wh):
        raise InputError(f"input_size_wh must be two whole numbers from 32 to 4096, got {tuple(size_wh)}.")
    return int(size_wh[0]), int(size_wh[1])
