# mypy: disable-error-code="no-any-return"
"""RTMDet: CSPNeXt, its pyramid, and a head whose levels share convolutions but not batch-norm statistics.

Source: Lyu et al., "RTMDet: An Empirical Study of Designing Real-Time Object Detectors" (2022), section 3.3.

Two choices leave no trace in the tensors' names or shapes and must come from the architecture's known sizes, the
checkpoint's config or the user: ``exp_on_reg`` (m, l, x: yes; nano, tiny, s: no) and ``share_conv`` (all but nano).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from rtmpose_infer.export.networks.cspnext import CSPNeXt, CSPNeXtPAFPN
from rtmpose_infer.export.networks.layers import ConvModule, DepthwiseSeparableConv, depth, spatial_conv

STRIDES = (8, 16, 32)
NECK_CHANNELS = 256
NECK_BLOCKS = 3


class RTMDetSepBNHead(nn.Module):
    """Per level: two convolutions and a 1×1 for classes, the same again for box distances.

    Args:
        num_classes: Classes C.
        in_channels: Channels of every pyramid map.
        feat_channels: Channels inside the head.
        stacked_convs: Convolutions before each prediction.
        share_conv: Whether all levels use level 0's convolution weights (each keeps its own batch norm).
        exp_on_reg: Whether the raw distances pass through an exponential.
        depthwise: Depthwise-separable convolutions in place of dense ones.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *,
        feat_channels: int,
        stacked_convs: int = 2,
        share_conv: bool = True,
        exp_on_reg: bool = True,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        self.exp_on_reg = exp_on_reg

        def tower() -> nn.ModuleList:
            return nn.ModuleList(
                spatial_conv(in_channels if i == 0 else feat_channels, feat_channels, 3, depthwise=depthwise)
                for i in range(stacked_convs)
            )

        self.cls_convs = nn.ModuleList(tower() for _ in STRIDES)
        self.reg_convs = nn.ModuleList(tower() for _ in STRIDES)
        self.rtm_cls = nn.ModuleList(nn.Conv2d(feat_channels, num_classes, 1) for _ in STRIDES)
        self.rtm_reg = nn.ModuleList(nn.Conv2d(feat_channels, 4, 1) for _ in STRIDES)
        if share_conv:
            _share_convolutions(self.cls_convs)
            _share_convolutions(self.reg_convs)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return, per level, class logits ``[n, C, h, w]`` and distances ``[n, 4, h, w]``.

        Distances are from the cell's top-left corner to the box's left, top, right and bottom edge, in input pixels.
        """
        logits, distances = [], []
        for level, (feature, stride) in enumerate(zip(maps, STRIDES, strict=True)):
            cls_feature = reg_feature = feature
            for conv in self.cls_convs[level]:  # type: ignore[attr-defined]
                cls_feature = conv(cls_feature)
            for conv in self.reg_convs[level]:  # type: ignore[attr-defined]
                reg_feature = conv(reg_feature)
            logits.append(self.rtm_cls[level](cls_feature))
            distance = self.rtm_reg[level](reg_feature)
            distances.append((distance.exp() if self.exp_on_reg else distance) * stride)
        return logits, distances


class RTMDet(nn.Module):
    """The whole detector; sizes nano, tiny, s, m, l and x are depth, width and three switches.

    Args:
        deepen_factor: Depth of backbone and pyramid (nano 0.33, tiny 0.167, s 0.33, m 0.67, l 1, x 1.33).
        widen_factor: Width of backbone, pyramid and head (nano 0.25, tiny 0.375, s 0.5, m 0.75, l 1, x 1.25).
        num_classes: Classes C.
        depthwise: Depthwise-separable convolutions throughout (nano).
        share_conv: See :class:`RTMDetSepBNHead` (all but nano).
        exp_on_reg: See :class:`RTMDetSepBNHead` (m, l, x).
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
        share_conv: bool = True,
        exp_on_reg: bool = True,
        neck_channels: int | None = None,
        feat_channels: int | None = None,
        neck_blocks: int | None = None,
        stacked_convs: int = 2,
    ) -> None:
        super().__init__()
        self.backbone = CSPNeXt(
            deepen_factor=deepen_factor,
            widen_factor=widen_factor,
            depthwise=depthwise,
            out_stages=(2, 3, 4),
        )
        neck_channels = neck_channels or int(NECK_CHANNELS * widen_factor)
        self.neck = CSPNeXtPAFPN(
            self.backbone.channels[1:],
            neck_channels,
            num_blocks=neck_blocks or depth(NECK_BLOCKS, deepen_factor),
            depthwise=depthwise,
        )
        self.bbox_head = RTMDetSepBNHead(
            num_classes,
            neck_channels,
            feat_channels=feat_channels or neck_channels,
            stacked_convs=stacked_convs,
            share_conv=share_conv,
            exp_on_reg=exp_on_reg,
            depthwise=depthwise,
        )

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the head's logits and distances per level for normalised BGR ``[n, 3, H, W]``."""
        return self.bbox_head(self.neck(self.backbone(x)))


def _share_convolutions(towers: nn.ModuleList) -> None:
    first, *others = towers
    for tower in others:
        for shared, own in zip(first, tower, strict=True):  # type: ignore[call-overload]
            if isinstance(own, DepthwiseSeparableConv):
                own.depthwise_conv.conv = shared.depthwise_conv.conv
                own.pointwise_conv.conv = shared.pointwise_conv.conv
            elif isinstance(own, ConvModule):
                own.conv = shared.conv
