# mypy: disable-error-code="no-any-return"
"""RTMW: whole-body pose with a pyramid and a head that reads two resolutions.

Source: Jiang et al., "RTMW: Real-Time Multi-Person 2D and 3D Whole-body Pose Estimation" (2024). Hands and face are
small in the crop; half of each keypoint's token comes from the stride-16 map, the other half from the stride-32 map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rtmpose_infer.export.networks.cspnext import CSPNeXt, CSPNeXtPAFPN
from rtmpose_infer.export.networks.gau import GatedAttentionUnit, ScaleNorm
from rtmpose_infer.export.networks.layers import ConvModule


class RTMWHead(nn.Module):
    """Tokens from the coarse map and from the finer map joined with the shuffled coarse one.

    Args:
        in_channels: Channels of the stride-32 map; the stride-16 map has half as many.
        num_keypoints: Keypoints K.
        input_size_wh: Size of the network's input in pixels.
        feature_size_wh: Size of the stride-32 map.
        simcc_split_ratio: Bins per input pixel.
        gau_hidden_dims: Features per keypoint token.
        gau_s: Features of the GAU's query/key space.
        gau_expansion_factor: Width of the GAU's gate relative to the token.
        final_kernel: Kernel of the convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        num_keypoints: int,
        *,
        input_size_wh: Sequence[int],
        feature_size_wh: Sequence[int],
        simcc_split_ratio: float = 2.0,
        gau_hidden_dims: int = 256,
        gau_s: int = 128,
        gau_expansion_factor: float = 2.0,
        final_kernel: int = 7,
    ) -> None:
        super().__init__()
        flat = feature_size_wh[0] * feature_size_wh[1]
        bins_x, bins_y = (int(size * simcc_split_ratio) for size in input_size_wh)
        quarter = in_channels // 4

        def conv(source: int, target: int) -> ConvModule:
            return ConvModule(source, target, final_kernel, activation=nn.ReLU)

        self.ps = nn.PixelShuffle(2)
        self.conv_dec = conv(quarter, quarter)
        self.final_layer = conv(in_channels, num_keypoints)
        self.final_layer2 = conv(in_channels // 2 + quarter, num_keypoints)
        self.mlp = nn.Sequential(ScaleNorm(flat), nn.Linear(flat, gau_hidden_dims // 2, bias=False))
        self.mlp2 = nn.Sequential(ScaleNorm(4 * flat), nn.Linear(4 * flat, gau_hidden_dims // 2, bias=False))
        self.gau = GatedAttentionUnit(gau_hidden_dims, s=gau_s, expansion_factor=gau_expansion_factor)
        self.cls_x = nn.Linear(gau_hidden_dims, bins_x, bias=False)
        self.cls_y = nn.Linear(gau_hidden_dims, bins_y, bias=False)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return SimCC scores ``[n, K, bins_x]`` and ``[n, K, bins_y]`` for the maps of stride 16 and 32."""
        fine, coarse = maps
        coarse_tokens = self.mlp(self.final_layer(coarse).flatten(2))
        fine = torch.cat((self.conv_dec(self.ps(coarse)), fine), dim=1)
        fine_tokens = self.mlp2(self.final_layer2(fine).flatten(2))
        tokens = self.gau(torch.cat((coarse_tokens, fine_tokens), dim=2))
        return self.cls_x(tokens), self.cls_y(tokens)


class RTMW(nn.Module):
    """The whole network; sizes m, l and x are depth and width.

    Args:
        deepen_factor: Depth of the backbone (m 0.67, l 1, x 1.33).
        widen_factor: Width of the backbone (m 0.75, l 1, x 1.25).
        num_keypoints: Keypoints K of the skeleton.
        input_size_wh: Width and height of the input crop in pixels, multiples of 32.
        neck_blocks: Blocks per CSP layer of the pyramid.
        simcc_split_ratio: Bins per input pixel.
        gau_hidden_dims: Features per keypoint token.
        gau_s: Features of the GAU's query/key space.
        gau_expansion_factor: Width of the GAU's gate relative to the token.
        final_kernel: Kernel of the head's convolutions.
    """

    def __init__(
        self,
        deepen_factor: float,
        widen_factor: float,
        num_keypoints: int,
        input_size_wh: Sequence[int],
        *,
        neck_blocks: int = 2,
        simcc_split_ratio: float = 2.0,
        gau_hidden_dims: int = 256,
        gau_s: int = 128,
        gau_expansion_factor: float = 2.0,
        final_kernel: int = 7,
    ) -> None:
        super().__init__()
        self.backbone = CSPNeXt(deepen_factor=deepen_factor, widen_factor=widen_factor, out_stages=(2, 3, 4))
        self.neck = CSPNeXtPAFPN(self.backbone.channels[1:], None, num_blocks=neck_blocks)
        self.head = RTMWHead(
            self.backbone.channels[-1],
            num_keypoints,
            input_size_wh=input_size_wh,
            feature_size_wh=(input_size_wh[0] // 32, input_size_wh[1] // 32),
            simcc_split_ratio=simcc_split_ratio,
            gau_hidden_dims=gau_hidden_dims,
            gau_s=gau_s,
            gau_expansion_factor=gau_expansion_factor,
            final_kernel=final_kernel,
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``simcc_x`` ``[n, K, W·r]`` and ``simcc_y`` ``[n, K, H·r]`` for normalised RGB ``[n, 3, H, W]``."""
        return self.head(self.neck(self.backbone(x))[1:])
