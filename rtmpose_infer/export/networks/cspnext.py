# mypy: disable-error-code="no-any-return"
"""CSPNeXt, the backbone of RTMPose, RTMW and RTMDet, and CSPNeXtPAFPN, the pyramid on top of it.

Source: Lyu et al., "RTMDet: An Empirical Study of Designing Real-Time Object Detectors" (2022), section 3.
Sizes are one table scaled by two numbers, depth and width, so every size of the family (nano to x) is this code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rtmpose_infer.export.networks.layers import (
    TORCH_NORM,
    ConvModule,
    CSPLayer,
    CSPNeXtBlock,
    SPPBottleneck,
    depth,
    spatial_conv,
)

STAGE_CHANNELS = (128, 256, 512, 1024)
STAGE_BLOCKS = (3, 6, 6, 3)
STEM_CHANNELS = 64


class CSPNeXt(nn.Module):
    """Stem and four stages, each halving the resolution: strides 2, 4, 8, 16, 32.

    Args:
        deepen_factor: Scales the blocks per stage (``STAGE_BLOCKS``).
        widen_factor: Scales the channels (``STEM_CHANNELS``, ``STAGE_CHANNELS``).
        depthwise: Depthwise-separable convolutions in place of dense ones (RTMDet-nano).
        out_stages: Which stages' maps :meth:`forward` returns, 1 to 4, ascending.

    Attributes:
        channels: Channels of the four stages' maps.
    """

    def __init__(
        self,
        *,
        deepen_factor: float = 1.0,
        widen_factor: float = 1.0,
        depthwise: bool = False,
        out_stages: Sequence[int] = (4,),
    ) -> None:
        super().__init__()
        self.out_stages = tuple(out_stages)
        self.channels = tuple(int(c * widen_factor) for c in STAGE_CHANNELS)
        stem = int(STEM_CHANNELS * widen_factor)
        half = int(STEM_CHANNELS * widen_factor // 2)
        self.stem = nn.Sequential(
            ConvModule(3, half, 3, stride=2), ConvModule(half, half, 3), ConvModule(half, stem, 3)
        )
        in_channels = stem
        for stage, (out_channels, blocks) in enumerate(zip(self.channels, STAGE_BLOCKS, strict=True), start=1):
            last = stage == len(STAGE_CHANNELS)
            layers: list[nn.Module] = [
                spatial_conv(in_channels, out_channels, 3, stride=2, norm=TORCH_NORM, depthwise=depthwise)
            ]
            if last:
                layers.append(SPPBottleneck(out_channels))
            layers.append(
                CSPLayer(
                    out_channels,
                    out_channels,
                    block=CSPNeXtBlock,
                    num_blocks=depth(blocks, deepen_factor),
                    add_identity=not last,
                    channel_attention=True,
                    depthwise=depthwise,
                )
            )
            self.add_module(f"stage{stage}", nn.Sequential(*layers))
            in_channels = out_channels

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_stages`` for pictures ``[n, 3, h, w]``; stage s has stride 2^(s+1)."""
        x = self.stem(x)
        outs = []
        for stage in range(1, self.out_stages[-1] + 1):
            x = self.get_submodule(f"stage{stage}")(x)
            if stage in self.out_stages:
                outs.append(x)
        return tuple(outs)


class CSPNeXtPAFPN(nn.Module):
    """Path-aggregation pyramid: coarse maps inform fine ones going down, fine ones inform coarse ones coming back.

    Args:
        in_channels: Channels of the backbone's maps, finest first.
        out_channels: Channels of every output map; ``None`` leaves out the output convolutions (RTMW).
        num_blocks: Blocks per CSP layer.
        depthwise: Depthwise-separable convolutions in place of dense ones.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int | None,
        *,
        num_blocks: int,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        levels = len(in_channels)

        def csp(source: int, target: int) -> CSPLayer:
            return CSPLayer(
                source,
                target,
                block=CSPNeXtBlock,
                num_blocks=num_blocks,
                add_identity=False,
                depthwise=depthwise,
            )

        self.reduce_layers = nn.ModuleList()
        self.top_down_blocks = nn.ModuleList()
        for level in range(levels - 1, 0, -1):
            finer = in_channels[level - 1]
            self.reduce_layers.append(ConvModule(in_channels[level], finer, 1))
            self.top_down_blocks.append(csp(2 * finer, finer))
        self.downsamples = nn.ModuleList()
        self.bottom_up_blocks = nn.ModuleList()
        for level in range(levels - 1):
            channels = in_channels[level]
            self.downsamples.append(spatial_conv(channels, channels, 3, stride=2, depthwise=depthwise))
            self.bottom_up_blocks.append(csp(2 * channels, in_channels[level + 1]))
        self.out_convs: nn.ModuleList | None = None
        if out_channels is not None:
            self.out_convs = nn.ModuleList(
                spatial_conv(channels, out_channels, 3, depthwise=depthwise) for channels in in_channels
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
