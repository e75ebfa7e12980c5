# mypy: disable-error-code="no-any-return"
"""The building blocks that CSPNeXt, CSPDarknet and their feature pyramids share.

Why a file of their own: the same seven modules make up every convolutional part of the family, and their attribute
names *are* the keys of the published checkpoints (``main_conv.bn.weight``, ``conv2.depthwise_conv.conv.weight`` …).
A checkpoint therefore loads with ``load_state_dict(strict=True)`` and no table of renamed keys exists anywhere.

Batch-norm constants are not stored in a checkpoint. Two settings occur in the family and are passed down as
:class:`Norm`: PyTorch's own (CSPNeXt, RTMDet) and the YOLOX one with ``eps=1e-3``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Norm(NamedTuple):
    """Constants of a batch norm that no checkpoint records."""

    eps: float = 1e-5
    momentum: float = 0.1


TORCH_NORM = Norm()
YOLOX_NORM = Norm(eps=1e-3, momentum=0.03)


def depth(blocks: int, deepen_factor: float) -> int:
    """Return how many blocks a stage keeps under ``deepen_factor`` (never fewer than one).

    >>> [depth(n, 0.167) for n in (3, 6)]
    [1, 1]
    """
    return max(round(blocks * deepen_factor), 1)


class ConvModule(nn.Module):
    """Convolution, batch norm, activation: ``conv``, ``bn`` and a parameter-free activation.

    Padding keeps the spatial size at stride 1. The convolution has no bias: the norm carries it.

    Args:
        activation: A module that holds no parameters; ``None`` for a linear output.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        norm: Norm = TORCH_NORM,
        activation: type[nn.Module] | None = nn.SiLU,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=False,
        )
        self.bn = nn.BatchNorm2d(out_channels, eps=norm.eps, momentum=norm.momentum)
        self.activate = _activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated map ``[n, out_channels, h / stride, w / stride]``."""
        return self.activate(self.bn(self.conv(x)))


class DepthwiseSeparableConv(nn.Module):
    """A per-channel spatial convolution, then a 1×1 that mixes channels; norm and activation after each."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        norm: Norm = TORCH_NORM,
    ) -> None:
        super().__init__()
        self.depthwise_conv = ConvModule(
            in_channels, in_channels, kernel_size, stride=stride, groups=in_channels, norm=norm
        )
        self.pointwise_conv = ConvModule(in_channels, out_channels, 1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map ``[n, out_channels, h / stride, w / stride]``."""
        return self.pointwise_conv(self.depthwise_conv(x))


def spatial_conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    norm: Norm = TORCH_NORM,
    depthwise: bool = False,
) -> ConvModule | DepthwiseSeparableConv:
    """Return a dense convolution, or the depthwise-separable one that the nano models use in its place."""
    block = DepthwiseSeparableConv if depthwise else ConvModule
    return block(in_channels, out_channels, kernel_size, stride=stride, norm=norm)


class CSPNeXtBlock(nn.Module):
    """A 3×3 convolution and a 5×5 depthwise-separable one: the large kernel of RTMDet at little cost."""

    def __init__(self, channels: int, *, add_identity: bool, norm: Norm = TORCH_NORM, depthwise: bool = False) -> None:
        super().__init__()
        self.conv1 = spatial_conv(channels, channels, 3, norm=norm, depthwise=depthwise)
        self.conv2 = DepthwiseSeparableConv(channels, channels, 5, norm=norm)
        self.add_identity = add_identity

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape."""
        out = self.conv2(self.conv1(x))
        return out + x if self.add_identity else out


class DarknetBottleneck(nn.Module):
    """A 1×1 and a 3×3 convolution: the block of YOLOX's CSPDarknet."""

    def __init__(self, channels: int, *, add_identity: bool, norm: Norm = YOLOX_NORM, depthwise: bool = False) -> None:
        super().__init__()
        self.conv1 = ConvModule(channels, channels, 1, norm=norm)
        self.conv2 = spatial_conv(channels, channels, 3, norm=norm, depthwise=depthwise)
        self.add_identity = add_identity

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape."""
        out = self.conv2(self.conv1(x))
        return out + x if self.add_identity else out


class ChannelAttention(nn.Module):
    """Scale each channel by a gate computed from its mean over the picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)
        self.act = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` times its gates, same shape."""
        return x * self.act(self.fc(x.mean(dim=(2, 3), keepdim=True)))


class CSPLayer(nn.Module):
    """Cross-stage partial layer: half of the channels pass through the blocks, half go around them.

    Args:
        block: :class:`CSPNeXtBlock` or :class:`DarknetBottleneck`.
        num_blocks: How many of them, in sequence.
        add_identity: Whether the blocks are residual (backbone: yes, last stage and necks: no).
        channel_attention: Whether the joined map is gated (CSPNeXt's backbone only).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        block: type[CSPNeXtBlock] | type[DarknetBottleneck],
        num_blocks: int,
        add_identity: bool,
        channel_attention: bool = False,
        norm: Norm = TORCH_NORM,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        mid = out_channels // 2
        self.main_conv = ConvModule(in_channels, mid, 1, norm=norm)
        self.short_conv = ConvModule(in_channels, mid, 1, norm=norm)
        self.final_conv = ConvModule(2 * mid, out_channels, 1, norm=norm)
        self.blocks = nn.Sequential(
            *(block(mid, add_identity=add_identity, norm=norm, depthwise=depthwise) for _ in range(num_blocks))
        )
        self.attention = ChannelAttention(2 * mid) if channel_attention else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the map ``[n, out_channels, h, w]``."""
        joined = torch.cat((self.blocks(self.main_conv(x)), self.short_conv(x)), dim=1)
        if self.attention is not None:
            joined = self.attention(joined)
        return self.final_conv(joined)


class SPPBottleneck(nn.Module):
    """Spatial pyramid pooling: the map beside its own maxima over growing windows."""

    kernel_sizes = (5, 9, 13)

    def __init__(self, channels: int, *, norm: Norm = TORCH_NORM) -> None:
        super().__init__()
        mid = channels // 2
        self.conv1 = ConvModule(channels, mid, 1, norm=norm)
        self.poolings = nn.ModuleList(nn.MaxPool2d(k, stride=1, padding=k // 2) for k in self.kernel_sizes)
        self.conv2 = ConvModule(mid * (len(self.kernel_sizes) + 1), channels, 1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape."""
        x = self.conv1(x)
        return self.conv2(torch.cat([x, *(pool(x) for pool in self.poolings)], dim=1))


def csp_stage(
    in_channels: int,
    out_channels: int,
    *,
    block: type[CSPNeXtBlock] | type[DarknetBottleneck],
    num_blocks: int,
    last: bool,
    channel_attention: bool,
    norm: Norm,
    depthwise: bool,
) -> nn.Sequential:
    """Return a backbone stage: halve the resolution, pool a pyramid if it is the last stage, then a CSP layer."""
    layers: list[nn.Module] = [spatial_conv(in_channels, out_channels, 3, stride=2, norm=norm, depthwise=depthwise)]
    if last:
        layers.append(SPPBottleneck(out_channels, norm=norm))
    layers.append(
        CSPLayer(
            out_channels,
            out_channels,
            block=block,
            num_blocks=num_blocks,
            add_identity=not last,
            channel_attention=channel_attention,
            norm=norm,
            depthwise=depthwise,
        )
    )
    return nn.Sequential(*layers)


def _activation(kind: type[nn.Module] | None) -> nn.Module:
    if kind is None:
        return nn.Identity()
    return kind(inplace=True)
