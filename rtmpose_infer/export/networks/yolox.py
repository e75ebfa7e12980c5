# mypy: disable-error-code="no-any-return"
"""YOLOX: CSPDarknet, its pyramid and the decoupled head, under MMDetection's names.

Source: Ge et al., "YOLOX: Exceeding YOLO Series in 2021" (2021). RTMO reuses the backbone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rtmpose_infer.export.networks.layers import (
    YOLOX_NORM,
    ConvModule,
    DarknetBottleneck,
    csp_stage,
    depth,
    spatial_conv,
)
from rtmpose_infer.export.networks.pafpn import PAFPN

STAGE_CHANNELS = (128, 256, 512, 1024)
STAGE_BLOCKS = (3, 9, 9, 3)
STEM_CHANNELS = 64
NECK_CHANNELS = 256
NECK_BLOCKS = 3
STRIDES = (8, 16, 32)


class Focus(nn.Module):
    """Fold each 2×2 patch into channels, then convolve: halves the resolution without losing a pixel."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = ConvModule(4 * in_channels, out_channels, 3, norm=YOLOX_NORM)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map ``[n, out_channels, h / 2, w / 2]``."""
        even, odd = x[..., ::2, :], x[..., 1::2, :]
        return self.conv(torch.cat((even[..., ::2], odd[..., ::2], even[..., 1::2], odd[..., 1::2]), dim=1))


class CSPDarknet(nn.Module):
    """Focus stem and four stages, each halving the resolution: strides 2, 4, 8, 16, 32.

    Args:
        deepen_factor: Scales the blocks per stage (``STAGE_BLOCKS``).
        widen_factor: Scales the channels (``STEM_CHANNELS``, ``STAGE_CHANNELS``).
        depthwise: Depthwise-separable convolutions in place of dense ones (YOLOX-nano).

    Attributes:
        channels: Channels of the four stages' maps.
    """

    def __init__(self, *, deepen_factor: float = 1.0, widen_factor: float = 1.0, depthwise: bool = False) -> None:
        super().__init__()
        self.channels = tuple(int(c * widen_factor) for c in STAGE_CHANNELS)
        in_channels = int(STEM_CHANNELS * widen_factor)
        self.stem = Focus(3, in_channels)
        for stage, (out_channels, blocks) in enumerate(zip(self.channels, STAGE_BLOCKS, strict=True), start=1):
            self.add_module(
                f"stage{stage}",
                csp_stage(
                    in_channels,
                    out_channels,
                    block=DarknetBottleneck,
                    num_blocks=depth(blocks, deepen_factor),
                    last=stage == len(STAGE_CHANNELS),
                    channel_attention=False,
                    norm=YOLOX_NORM,
                    depthwise=depthwise,
                ),
            )
            in_channels = out_channels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the maps of stride 8, 16 and 32 for pictures ``[n, 3, h, w]``."""
        x = self.get_submodule("stage1")(self.stem(x))
        fine = self.get_submodule("stage2")(x)
        middle = self.get_submodule("stage3")(fine)
        return fine, middle, self.get_submodule("stage4")(middle)


class YOLOXPAFPN(PAFPN):
    """The pyramid with Darknet blocks and 1×1 output convolutions.

    Args:
        in_channels: Channels of the backbone's maps, finest first.
        out_channels: Channels of every output map.
        num_blocks: Blocks per CSP layer.
        depthwise: Depthwise-separable convolutions in place of dense ones.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, *, num_blocks: int, depthwise: bool = False
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            num_blocks=num_blocks,
            block=DarknetBottleneck,
            norm=YOLOX_NORM,
            out_kernel=1,
            depthwise=depthwise,
        )


class YOLOXHead(nn.Module):
    """Per level: one tower for classes, one for boxes and objectness.

    Args:
        num_classes: Classes C.
        in_channels: Channels of every pyramid map.
        feat_channels: Channels inside the head.
        stacked_convs: Convolutions before each prediction.
        depthwise: Depthwise-separable convolutions in place of dense ones.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *,
        feat_channels: int,
        stacked_convs: int = 2,
        depthwise: bool = False,
    ) -> None:
        super().__init__()

        def tower() -> nn.Sequential:
            return nn.Sequential(
                *(
                    spatial_conv(
                        in_channels if i == 0 else feat_channels,
                        feat_channels,
                        3,
                        norm=YOLOX_NORM,
                        depthwise=depthwise,
                    )
                    for i in range(stacked_convs)
                )
            )

        self.multi_level_cls_convs = nn.ModuleList(tower() for _ in STRIDES)
        self.multi_level_reg_convs = nn.ModuleList(tower() for _ in STRIDES)
        self.multi_level_conv_cls = nn.ModuleList(nn.Conv2d(feat_channels, num_classes, 1) for _ in STRIDES)
        self.multi_level_conv_reg = nn.ModuleList(nn.Conv2d(feat_channels, 4, 1) for _ in STRIDES)
        self.multi_level_conv_obj = nn.ModuleList(nn.Conv2d(feat_channels, 1, 1) for _ in STRIDES)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return, per level, class logits ``[n, C, h, w]``, boxes ``[n, 4, h, w]`` and objectness logits.

        Boxes are the offset of the centre from the cell's top-left corner and the logarithm of width and height, both
        in strides.
        """
        logits, boxes, objectness = [], [], []
        for level, feature in enumerate(maps):
            cls_feature = self.multi_level_cls_convs[level](feature)
            reg_feature = self.multi_level_reg_convs[level](feature)
            logits.append(self.multi_level_conv_cls[level](cls_feature))
            boxes.append(self.multi_level_conv_reg[level](reg_feature))
            objectness.append(self.multi_level_conv_obj[level](reg_feature))
        return logits, boxes, objectness


class YOLOX(nn.Module):
    """The whole detector; sizes nano, tiny, s, m, l and x are depth, width and one switch.

    Args:
        deepen_factor: Depth of backbone and pyramid (nano, tiny, s 0.33, m 0.67, l 1, x 1.33).
        widen_factor: Width of backbone, pyramid and head (nano 0.25, tiny 0.375, s 0.5, m 0.75, l 1, x 1.25).
        num_classes: Classes C.
        depthwise: Depthwise-separable convolutions throughout (nano).
        neck_channels: Channels of the pyramid's outputs; ``None`` for ``256 · widen_factor``.
        feat_channels: Channels inside the head; ``None`` for the pyramid's.
        neck_blocks: Blocks per CSP layer of the pyramid; ``None`` for ``3 · deepen_factor``.
        stacked_convs: Convolutions of the head before each prediction.
    """

    def __init__(
        self,
        deepen_factor: float,
        widen_factor: float,
        num_classes: int,
        *,
        depthwise: bool = False,
        neck_channels: int | None = None,
        feat_channels: int | None = None,
        neck_blocks: int | None = None,
        stacked_convs: int = 2,
    ) -> None:
        super().__init__()
        self.backbone = CSPDarknet(deepen_factor=deepen_factor, widen_factor=widen_factor, depthwise=depthwise)
        neck_channels = neck_channels or int(NECK_CHANNELS * widen_factor)
        self.neck = YOLOXPAFPN(
            self.backbone.channels[1:],
            neck_channels,
            num_blocks=neck_blocks or depth(NECK_BLOCKS, deepen_factor),
            depthwise=depthwise,
        )
        self.bbox_head = YOLOXHead(
            num_classes,
            neck_channels,
            feat_channels=feat_channels or neck_channels,
            stacked_convs=stacked_convs,
            depthwise=depthwise,
        )

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return the head's logits, boxes and objectness per level for raw BGR 0–255 ``[n, 3, H, W]``."""
        return self.bbox_head(self.neck(self.backbone(x)))
