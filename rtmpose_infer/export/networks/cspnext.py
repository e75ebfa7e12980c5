# mypy: disable-error-code="no-any-return"
"""CSPNeXt, the backbone of RTMPose, RTMW and RTMDet, and CSPNeXtPAFPN, the pyramid on top of it.

Source: Lyu et al., "RTMDet: An Empirical Study of Designing Real-Time Object Detectors" (2022), section 3.
Sizes are one table scaled by two numbers, depth and width, so every size of the family (nano to x) is this code.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from rtmpose_infer.export.networks.layers import (
    TORCH_NORM,
    ConvModule,
    CSPNeXtBlock,
    csp_stage,
    depth,
)
from rtmpose_infer.export.networks.pafpn import PAFPN

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
            self.add_module(
                f"stage{stage}",
                csp_stage(
                    in_channels,
                    out_channels,
                    block=CSPNeXtBlock,
                    num_blocks=depth(blocks, deepen_factor),
                    last=stage == len(STAGE_CHANNELS),
                    channel_attention=True,
                    norm=TORCH_NORM,
                    depthwise=depthwise,
                ),
            )
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


class CSPNeXtPAFPN(PAFPN):
    """The pyramid with CSPNeXt's blocks and 3×3 output convolutions.

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
        super().__init__(
            in_channels,
            out_channels,
            num_blocks=num_blocks,
            block=CSPNeXtBlock,
            norm=TORCH_NORM,
            out_kernel=3,
            depthwise=depthwise,
        )
