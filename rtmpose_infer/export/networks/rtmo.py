# mypy: disable-error-code="no-any-return"
"""RTMO: all people of a picture in one pass, with keypoints as coordinate classification over bins cut per person.

Source: Lu et al., "RTMO: Towards High-Performance One-Stage Real-Time Multi-Person Pose Estimation" (2023); the neck is
the hybrid encoder of Zhao et al., "DETRs Beat YOLOs on Real-time Object Detection" (2023).

Two stages stay separate because boxes are suppressed in between: :class:`RTMO` gives dense maps, and
:class:`DynamicCoordinateClassifier` turns the pose vectors of the boxes that survive into keypoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rtmpose_infer.export.networks.gau import GatedAttentionUnit, Scale
from rtmpose_infer.export.networks.layers import YOLOX_NORM, ConvModule, depth
from rtmpose_infer.export.networks.yolox import CSPDarknet

if TYPE_CHECKING:
    from collections.abc import Sequence

STRIDES = (16, 32)
BOX_PADDING = 1.25
NUM_HEADS = 8
NUM_GROUPS = 8
ENCODER_TEMPERATURE = 10000.0
BIN_TEMPERATURE = 300.0


class SinePositions(nn.Module):
    """Cosines and sines of a position over geometrically growing wavelengths.

    Args:
        channels: Length of the code, even.
        temperature: The longest wavelength's scale.
    """

    def __init__(self, channels: int, *, temperature: float) -> None:
        super().__init__()
        half = channels // 2
        self.register_buffer("dim_t", temperature ** (torch.arange(half, dtype=torch.float32) / half))
        self.dim_t: Tensor

    def forward(self, position: Tensor) -> Tensor:
        """Return codes ``[..., channels]`` of positions ``[...]``."""
        phase = position.unsqueeze(-1) / self.dim_t
        return torch.cat((phase.cos(), phase.sin()), dim=-1)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one joint projection, parameters named as ``torch.nn.MultiheadAttention``'s."""

    def __init__(self, dim: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Return the attended tokens for ``[n, tokens, dim]``; ``position`` is added to queries and keys only."""
        dim = x.shape[-1]
        weights, biases = torch.split(self.in_proj_weight, dim), torch.split(self.in_proj_bias, dim)
        placed = x + position
        q, k, v = (
            torch.unflatten(F.linear(source, weight, bias), -1, (self.num_heads, -1)).transpose(1, 2)
            for source, weight, bias in zip((placed, placed, x), weights, biases, strict=True)
        )
        attention = (q * q.shape[-1] ** -0.5 @ k.transpose(2, 3)).softmax(dim=-1)
        return self.out_proj((attention @ v).transpose(1, 2).flatten(2))


class _ResidualAttention(nn.Module):
    def __init__(self, dim: int, *, num_heads: int) -> None:
        super().__init__()
        self.attn = SelfAttention(dim, num_heads=num_heads)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        return x + self.attn(x, position)


class _ResidualFeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(dim, hidden), nn.GELU()), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each with a shortcut and a layer norm after it."""

    def __init__(self, dim: int, *, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = _ResidualAttention(dim, num_heads=num_heads)
        self.ffn = _ResidualFeedForward(dim, hidden)
        self.norms = nn.ModuleList((nn.LayerNorm(dim), nn.LayerNorm(dim)))

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Return tokens ``[n, tokens, dim]``."""
        return self.norms[1](self.ffn(self.norms[0](self.self_attn(x, position))))


class Encoder(nn.Module):
    """A stack of :class:`EncoderLayer`."""

    def __init__(self, dim: int, *, num_layers: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, num_heads=num_heads, hidden=hidden) for _ in range(num_layers))

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Return tokens ``[n, tokens, dim]``."""
        for layer in self.layers:
            x = layer(x, position)
        return x


class RepVGGBlock(nn.Module):
    """A 3×3 and a 1×1 convolution side by side, activated after their sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch_3x3 = ConvModule(channels, channels, 3, activation=None)
        self.branch_1x1 = ConvModule(channels, channels, 1, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape."""
        return F.silu(self.branch_3x3(x) + self.branch_1x1(x))


class CSPRepLayer(nn.Module):
    """RepVGG blocks on one path, nothing on the other, summed.

    The closing convolution exists only where the width changes.
    """

    def __init__(self, in_channels: int, out_channels: int, *, hidden: int, num_blocks: int) -> None:
        super().__init__()
        self.conv1 = ConvModule(in_channels, hidden, 1)
        self.conv2 = ConvModule(in_channels, hidden, 1)
        self.bottlenecks = nn.Sequential(*(RepVGGBlock(hidden) for _ in range(num_blocks)))
        self.conv3 = ConvModule(hidden, out_channels, 1) if hidden != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the map ``[n, out_channels, h, w]``."""
        return self.conv3(self.bottlenecks(self.conv1(x)) + self.conv2(x))


class _Projector(nn.Module):
    def __init__(self, dim: int, out_channels: int, levels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ConvModule(dim, out_channels, 1, activation=None) for _ in range(levels))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(conv(x) for conv, x in zip(self.convs, maps, strict=True))


class HybridEncoder(nn.Module):
    """Self-attention on the coarsest map, then a convolutional pyramid down and back; the finest level is dropped.

    Args:
        in_channels: Channels of the backbone's three maps, finest first.
        out_channels: Channels of the two output maps.
        dim: Channels inside the neck.
        deepen_factor: Scales the three blocks of each CSP layer.
        widen_factor: Width inside the CSP layers, relative to ``dim``.
        num_layers: Attention layers.
        ffn_hidden: Width of the attention layers' feed-forward.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        *,
        dim: int = 256,
        deepen_factor: float = 1.0,
        widen_factor: float = 1.0,
        num_layers: int = 1,
        ffn_hidden: int = 1024,
    ) -> None:
        super().__init__()
        steps = len(in_channels) - 1

        def csp() -> CSPRepLayer:
            return CSPRepLayer(2 * dim, dim, hidden=int(dim * widen_factor), num_blocks=depth(3, deepen_factor))

        self.input_proj = nn.ModuleList(ConvModule(c, dim, 1, activation=None) for c in in_channels)
        self.encoder = nn.ModuleList([Encoder(dim, num_layers=num_layers, num_heads=NUM_HEADS, hidden=ffn_hidden)])
        self.sincos_pos_enc = SinePositions(dim // 2, temperature=ENCODER_TEMPERATURE)
        self.lateral_convs = nn.ModuleList(ConvModule(dim, dim, 1) for _ in range(steps))
        self.fpn_blocks = nn.ModuleList(csp() for _ in range(steps))
        self.downsample_convs = nn.ModuleList(ConvModule(dim, dim, 3, stride=2) for _ in range(steps))
        self.pan_blocks = nn.ModuleList(csp() for _ in range(steps))
        self.projector = _Projector(dim, out_channels, steps)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the maps of stride 16 and 32."""
        projected = [conv(x) for conv, x in zip(self.input_proj, maps, strict=True)]
        projected[-1] = self._attend(projected[-1])
        pyramid = [projected[-1]]
        for step, (lateral, blend) in enumerate(zip(self.lateral_convs, self.fpn_blocks, strict=True)):
            pyramid[0] = lateral(pyramid[0])
            upsampled = F.interpolate(pyramid[0], scale_factor=2.0, mode="nearest")
            pyramid.insert(0, blend(torch.cat((upsampled, projected[-2 - step]), dim=1)))
        outs = [pyramid[0]]
        for level, (down, blend) in enumerate(zip(self.downsample_convs, self.pan_blocks, strict=True)):
            outs.append(blend(torch.cat((down(outs[-1]), pyramid[level + 1]), dim=1)))
        return self.projector(outs[1:])

    def _attend(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        rows = torch.arange(height, dtype=torch.float32, device=x.device)
        columns = torch.arange(width, dtype=torch.float32, device=x.device)
        code = torch.cat(
            (
                self.sincos_pos_enc(rows)[:, None].expand(-1, width, -1),
                self.sincos_pos_enc(columns)[None].expand(height, -1, -1),
            ),
            dim=-1,
        )
        tokens = self.encoder[0](x.flatten(2).transpose(1, 2), code.flatten(0, 1))
        return tokens.transpose(1, 2).unflatten(2, (height, width))


class RTMOHeadModule(nn.Module):
    """Per level: half of the channels score the cell, the other half give box, visibility and pose vector.

    The one class is a person. ``out_kpt_reg`` is a proxy regression that only training uses; every checkpoint carries its
    tensors.

    Args:
        num_keypoints: Keypoints K.
        in_channels: Channels of each half.
        cls_channels: Channels of the classification tower.
        pose_channels: Channels of the pose tower, in ``NUM_GROUPS`` groups.
        pose_vec_channels: Length of a pose vector.
    """

    def __init__(
        self,
        num_keypoints: int,
        in_channels: int,
        *,
        cls_channels: int,
        pose_channels: int,
        pose_vec_channels: int,
    ) -> None:
        super().__init__()

        def tower(channels: int, convs: int, groups: int) -> nn.Sequential:
            return nn.Sequential(
                *(
                    ConvModule(
                        in_channels if i == 0 else channels,
                        channels,
                        3,
                        groups=1 if i == 0 else groups,
                        norm=YOLOX_NORM,
                    )
                    for i in range(convs)
                )
            )

        def outputs(source: int, target: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(source, target, 1) for _ in STRIDES)

        self.conv_cls = nn.ModuleList(tower(cls_channels, 2, 1) for _ in STRIDES)
        self.out_cls = outputs(cls_channels, 1)
        self.conv_pose = nn.ModuleList(tower(pose_channels, 4, NUM_GROUPS) for _ in STRIDES)
        self.out_bbox = outputs(pose_channels, 4)
        self.out_kpt_reg = outputs(pose_channels, 2 * num_keypoints)
        self.out_kpt_vis = outputs(pose_channels, num_keypoints)
        self.out_pose = outputs(pose_channels, pose_vec_channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Return, per level, class logits, boxes, visibility logits and pose vectors, each ``[n, ·, h, w]``.

        Boxes are the offset of the centre from the cell's centre and the logarithm of width and height, in strides.
        """
        logits, boxes, visibility, poses = [], [], [], []
        for level, feature in enumerate(maps):
            cls_feature, pose_feature = feature.chunk(2, dim=1)
            logits.append(self.out_cls[level](self.conv_cls[level](cls_feature)))
            pose_feature = self.conv_pose[level](pose_feature)
            boxes.append(self.out_bbox[level](pose_feature))
            visibility.append(self.out_kpt_vis[level](pose_feature))
            poses.append(self.out_pose[level](pose_feature))
        return logits, boxes, visibility, poses


class DynamicCoordinateClassifier(nn.Module):
    """Keypoints as expectations over bins that span each person's enlarged box.

    ``sigma_fc`` predicts the spread of the training target; it is here because its tensors are in every checkpoint.

    Args:
        pose_vec_channels: Length of a pose vector.
        num_keypoints: Keypoints K.
        dim: Features per keypoint.
        num_bins_xy: Bins across the box's width and height.
        position_channels: Length of a bin's position code.
        gau_s: Features of the GAU's query/key space.
        gau_expansion_factor: Width of the GAU's gate relative to ``dim``.
    """

    def __init__(
        self,
        pose_vec_channels: int,
        num_keypoints: int,
        *,
        dim: int = 128,
        num_bins_xy: Sequence[int] = (192, 256),
        position_channels: int = 128,
        gau_s: int = 128,
        gau_expansion_factor: float = 2.0,
    ) -> None:
        super().__init__()
        self.num_keypoints = num_keypoints
        self.pos_enc = nn.Parameter(torch.randn(num_keypoints, gau_s))
        self.register_buffer("y_bins", torch.linspace(-0.5, 0.5, num_bins_xy[1]))
        self.register_buffer("x_bins", torch.linspace(-0.5, 0.5, num_bins_xy[0]))
        self.y_bins: Tensor
        self.x_bins: Tensor
        self.spe = SinePositions(position_channels, temperature=BIN_TEMPERATURE)
        self.gau = GatedAttentionUnit(dim, s=gau_s, expansion_factor=gau_expansion_factor)
        self.pose_to_kpts = nn.Sequential(
            nn.Linear(pose_vec_channels, dim * num_keypoints), nn.BatchNorm1d(dim * num_keypoints)
        )
        self.x_fc = nn.Linear(position_channels, dim)
        self.y_fc = nn.Linear(position_channels, dim)
        self.sigma_fc = nn.Sequential(nn.Linear(pose_vec_channels, num_keypoints), nn.Sigmoid(), Scale(None))

    def forward(self, pose_vectors: Tensor, boxes_xyxy: Tensor, cells_xy: Tensor) -> Tensor:
        """Return keypoints ``[people, K, 2]`` in input pixels.

        Args:
            pose_vectors: ``[people, pose_vec_channels]``.
            boxes_xyxy: ``[people, 4]`` in input pixels.
            cells_xy: Centres ``[people, 2]`` of the cells that predicted them, in input pixels.
        """
        tokens = self.pose_to_kpts(pose_vectors).unflatten(1, (self.num_keypoints, -1))
        tokens = self.gau(tokens, self.pos_enc)
        low, high = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
        centre = (low + high) * 0.5 - cells_xy
        size = (high - low) * BOX_PADDING
        coordinates = []
        for axis, (bins, encode) in enumerate(((self.x_bins, self.x_fc), (self.y_bins, self.y_fc))):
            position = bins * size[:, axis : axis + 1] + centre[:, axis : axis + 1]
            scores = tokens @ encode(self.spe(position)).transpose(1, 2)
            expected = (scores.softmax(dim=-1) @ position.unsqueeze(-1)).squeeze(-1)
            coordinates.append(expected + cells_xy[:, axis : axis + 1])
        return torch.stack(coordinates, dim=-1)


class _KeypointSigmas(nn.Module):
    def __init__(self, num_keypoints: int) -> None:
        super().__init__()
        self.register_buffer("sigmas", torch.ones(num_keypoints))


class RTMOHead(nn.Module):
    """Dense maps and the pose decoder. ``loss_oks.sigmas`` names the skeleton; checkpoints carry it."""

    def __init__(self, head_module: RTMOHeadModule, dcc: DynamicCoordinateClassifier) -> None:
        super().__init__()
        self.loss_oks = _KeypointSigmas(dcc.num_keypoints)
        self.head_module = head_module
        self.dcc = dcc

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Return the dense maps of :class:`RTMOHeadModule`."""
        return self.head_module(maps)


class RTMO(nn.Module):
    """The whole network; sizes t, s, m and l are depth and width.

    Args:
        deepen_factor: Depth of backbone and neck (t, s 0.33, m 0.67, l 1).
        widen_factor: Width of backbone, neck and head (t 0.375, s 0.5, m 0.75, l 1).
        num_keypoints: Keypoints K of the skeleton.
        neck_dim: Channels inside the neck.
        neck_layers: Attention layers.
        ffn_hidden: Width of the attention layers' feed-forward.
        neck_channels: Channels of the neck's outputs; ``None`` for ``512 · widen_factor``.
        pose_vec_channels: Length of a pose vector; ``None`` for the neck's channels.
        dcc_dim: Features per keypoint in the coordinate classifier.
        num_bins_xy: Bins across a person's width and height.
        position_channels: Length of a bin's position code.
        gau_s: Features of the GAU's query/key space.
        gau_expansion_factor: Width of the GAU's gate relative to ``dcc_dim``.
    """

    def __init__(
        self,
        deepen_factor: float,
        widen_factor: float,
        num_keypoints: int,
        *,
        neck_dim: int = 256,
        neck_layers: int = 1,
        ffn_hidden: int = 1024,
        neck_channels: int | None = None,
        pose_vec_channels: int | None = None,
        dcc_dim: int = 128,
        num_bins_xy: Sequence[int] = (192, 256),
        position_channels: int = 128,
        gau_s: int = 128,
        gau_expansion_factor: float = 2.0,
    ) -> None:
        super().__init__()
        half = int(256 * widen_factor)
        neck_channels = neck_channels or 2 * half
        pose_vec_channels = pose_vec_channels or neck_channels
        self.backbone = CSPDarknet(deepen_factor=deepen_factor, widen_factor=widen_factor)
        self.neck = HybridEncoder(
            self.backbone.channels[1:],
            neck_channels,
            dim=neck_dim,
            deepen_factor=deepen_factor,
            widen_factor=widen_factor,
            num_layers=neck_layers,
            ffn_hidden=ffn_hidden,
        )
        self.head = RTMOHead(
            RTMOHeadModule(
                num_keypoints,
                neck_channels // 2,
                cls_channels=half,
                pose_channels=NUM_GROUPS * int(36 * widen_factor),
                pose_vec_channels=pose_vec_channels,
            ),
            DynamicCoordinateClassifier(
                pose_vec_channels,
                num_keypoints,
                dim=dcc_dim,
                num_bins_xy=num_bins_xy,
                position_channels=position_channels,
                gau_s=gau_s,
                gau_expansion_factor=gau_expansion_factor,
            ),
        )

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Return the head's dense maps per level (strides 16, 32) for raw BGR 0–255 ``[n, 3, H, W]``."""
        return self.head(self.neck(self.backbone(x)))
