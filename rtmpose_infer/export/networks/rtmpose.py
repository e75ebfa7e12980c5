# mypy: disable-error-code="no-any-return"
"""RTMPose: CSPNeXt and the RTMCC head, which reads each keypoint off two one-dimensional classifiers (SimCC).

Source: Jiang et al., "RTMPose: Real-Time Multi-Person Pose Estimation based on MMPose" (2023).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from rtmpose_infer.export.networks.cspnext import CSPNeXt
from rtmpose_infer.export.networks.gau import GatedAttentionUnit, ScaleNorm


class RTMCCHead(nn.Module):
    """One token per keypoint from the last feature map, mixed by a GAU, classified into x and y bins.

    Args:
        in_channels: Channels of the feature map.
        num_keypoints: Keypoints K.
        input_size_wh: Size of the network's input in pixels.
        feature_size_wh: Size of the feature map, ``input_size_wh / 32``.
        simcc_split_ratio: Bins per input pixel.
        gau_hidden_dims: Features per keypoint token.
        gau_s: Features of the GAU's query/key space.
        gau_expansion_factor: Width of the GAU's gate relative to the token.
        final_kernel: Kernel of the convolution that turns channels into keypoints.
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
        self.final_layer = nn.Conv2d(in_channels, num_keypoints, final_kernel, padding=final_kernel // 2)
        self.mlp = nn.Sequential(ScaleNorm(flat), nn.Linear(flat, gau_hidden_dims, bias=False))
        self.gau = GatedAttentionUnit(gau_hidden_dims, s=gau_s, expansion_factor=gau_expansion_factor)
        self.cls_x = nn.Linear(gau_hidden_dims, bins_x, bias=False)
        self.cls_y = nn.Linear(gau_hidden_dims, bins_y, bias=False)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Return SimCC scores ``[n, K, bins_x]`` and ``[n, K, bins_y]`` for a map ``[n, C, h, w]``."""
        tokens = self.gau(self.mlp(self.final_layer(feature).flatten(2)))
        return self.cls_x(tokens), self.cls_y(tokens)


class RTMPose(nn.Module):
    """The whole network; sizes t, s, m, l and x are depth and width.

    Args:
        deepen_factor: Depth of the backbone (t 0.167, s 0.33, m 0.67, l 1, x 1.33).
        widen_factor: Width of the backbone (t 0.375, s 0.5, m 0.75, l 1, x 1.25).
        num_keypoints: Keypoints K of the skeleton.
        input_size_wh: Width and height of the input crop in pixels, multiples of 32.
        simcc_split_ratio: Bins per input pixel.
        gau_hidden_dims: Features per keypoint token.
        gau_s: Features of the GAU's query/key space.
        gau_expansion_factor: Width of the GAU's gate relative to the token.
        final_kernel: Kernel of the head's convolution.
    """

    def __init__(
        self,
        deepen_factor: float,
        widen_factor: float,
        num_keypoints: int,
        input_size_wh: Sequence[int],
        *,
        simcc_split_ratio: float = 2.0,
        gau_hidden_dims: int = 256,
        gau_s: int = 128,
        gau_expansion_factor: float = 2.0,
        final_kernel: int = 7,
    ) -> None:
        super().__init__()
        self.backbone = CSPNeXt(deepen_factor=deepen_factor, widen_factor=widen_factor)
        self.head = RTMCCHead(
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
        return self.head(self.backbone(x)[-1])
