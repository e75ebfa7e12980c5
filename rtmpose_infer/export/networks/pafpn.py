# mypy: disable-error-code="no-any-return"
"""The path-aggregation pyramid between backbone and head, shared by RTMDet, RTMW and YOLOX.

Source: Liu et al., "Path Aggregation Network for Instance Segmentation" (2018), with CSP layers as YOLOX builds it.
The families differ in three settings only, so there is one class and the family files name their settings.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rtmpose_infer.export.networks.layers import (
    ConvModule,
    CSPLayer,
    CSPNeXtBlock,
    DarknetBottleneck,
    Norm,
    spatial_conv,
)


class PAFPN(nn.Module):
    """Coarse maps inform fine ones on the way down, fine ones inform coarse ones on the way back.

    Args:
        in_channels: Channels of the backbone's maps, finest first.
        out_channels: Channels of every output map; ``None`` leaves out the output convolutions.
        num_blocks: Blocks per CSP layer.
        block: The block inside the CSP layers.
        norm: Batch-norm constants.
        out_kernel: Kernel of the output convolutions; a 1×1 is dense even where ``depthwise`` is set.
        depthwise: Depthwise-separable convolutions in place of dense ones.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int | None,
        *,
        num_blocks: int,
        block: type[CSPNeXtBlock] | type[DarknetBottleneck],
        norm: Norm,
        out_kernel: int,
        depthwise: bool,
    ) -> None:
        super().__init__()
        levels = len(in_channels)

        def csp(source: int, target: int) -> CSPLayer:
            return CSPLayer(
                source,
                target,
                block=block,
                num_blocks=num_blocks,
                add_identity=False,
                norm=norm,
                depthwise=depthwise,
            )

        self.reduce_layers = nn.ModuleList()
        self.top_down_blocks = nn.ModuleList()
        for level in range(levels - 1, 0, -1):
            finer = in_channels[level - 1]
            self.reduce_layers.append(ConvModule(in_channels[level], finer, 1, norm=norm))
            self.top_down_blocks.append(csp(2 * finer, finer))
        self.downsamples = nn.ModuleList()
        self.bottom_up_blocks = nn.ModuleList()
        for level in range(levels - 1):
            channels = in_channels[level]
            self.downsamples.append(spatial_conv(channels, channels, 3, stride=2, norm=norm, depthwise=depthwise))
            self.bottom_up_blocks.append(csp(2 * channels, in_channels[level + 1]))
        self.out_convs: nn.ModuleList | None = None
        if out_channels is not None:
            self.out_convs = nn.ModuleList(
                spatial_conv(channels, out_channels, out_kernel, norm=norm, depthwise=depthwise and out_kernel > 1)
                for channels in in_channels
            )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return one map per input map, same resolutions, finest first."""
        pyramid = [maps[-1]]
        for step, (reduce, blend) in enumerate(zip(self.reduce_layers, self.top_down_blocks, strict=True)):
            pyramid[0] = reduce(pyramid[0])
            upsampled = F.interpolate(pyramid[0], scale_factor=2.0, mode="nearest")
            pyramid.insert(0, blend(torch.cat((upsampled, maps[-2 - step]), dim=1)))
        outs = [pyramid[0]]
        for level, (down, blend) in enumerate(zip(self.downsamples, self.bottom_up_blocks, strict=True)):
            outs.append(blend(torch.cat((down(outs[-1]), pyramid[level + 1]), dim=1)))
        if self.out_convs is not None:
            outs = [conv(out) for conv, out in zip(self.out_convs, outs, strict=True)]
        return tuple(outs)
