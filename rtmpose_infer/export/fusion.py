"""Fold what is constant at inference into the convolutions: batch norms, parallel branches, the Focus slicing.

Done on the torch modules in float64, before the graph is written. Each rewrite is exact in real arithmetic: the network
computes the same function with fewer operators. The parity gate compares against the network as it was.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rtmpose_infer.export.networks.layers import ConvModule
from rtmpose_infer.export.networks.rtmo import RepVGGBlock
from rtmpose_infer.export.networks.yolox import Focus

__all__ = ["fused"]


class _ActivatedConv(nn.Module):
    def __init__(self, conv: nn.Conv2d, activate: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        return self.activate(self.conv(x))  # type: ignore[no-any-return]


def fused(network: nn.Module) -> nn.Module:
    """Return an equivalent copy of ``network`` in eval mode, with the constant parts folded; the original is kept."""
    network = copy.deepcopy(network).eval()
    with torch.no_grad():
        _fuse_children(network)
    return network


def _fuse_children(module: nn.Module) -> None:
    for name, child in module.named_children():
        replacement = _fused_module(child)
        if replacement is None:
            _fuse_children(child)
        else:
            setattr(module, name, replacement)


def _fused_module(module: nn.Module) -> nn.Module | None:
    if isinstance(module, ConvModule):
        return _ActivatedConv(_fold_norm(module), module.activate)
    if isinstance(module, RepVGGBlock):
        return _ActivatedConv(_merge_branches(module), nn.SiLU())
    if isinstance(module, Focus):
        return _ActivatedConv(_unfold_focus(_fold_norm(module.conv)), module.conv.activate)
    if isinstance(module, nn.Sequential) and len(module) == 2:
        linear, norm = module
        if isinstance(linear, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
            return _fold_linear(linear, norm)
    return None


def _gain_and_shift(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None  # every norm of the family tracks its statistics
    assert norm.running_var is not None
    gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return gain, norm.bias.double() - norm.running_mean.double() * gain


def _conv_like(conv: nn.Conv2d, weight: Tensor, bias: Tensor, *, stride: int, padding: int) -> nn.Conv2d:
    merged = nn.Conv2d(
        weight.shape[1] * conv.groups,
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        stride=stride,
        padding=padding,
        groups=conv.groups,
    )
    merged.weight.copy_(weight)
    assert merged.bias is not None
    merged.bias.copy_(bias)
    return merged.eval()


def _fold_norm(module: ConvModule) -> nn.Conv2d:
    conv = module.conv
    gain, shift = _gain_and_shift(module.bn)
    weight = conv.weight.double() * gain[:, None, None, None]
    return _conv_like(conv, weight, shift, stride=int(conv.stride[0]), padding=int(conv.padding[0]))


def _merge_branches(block: RepVGGBlock) -> nn.Conv2d:
    """Put the 1×1 branch into the centre of the 3×3 one (RepVGG re-parameterisation)."""
    wide, narrow = _fold_norm(block.branch_3x3), _fold_norm(block.branch_1x1)
    assert wide.bias is not None
    assert narrow.bias is not None
    weight = wide.weight.double() + F.pad(narrow.weight.double(), (1, 1, 1, 1))
    return _conv_like(wide, weight, wide.bias.double() + narrow.bias.double(), stride=1, padding=1)


def _unfold_focus(conv: nn.Conv2d) -> nn.Conv2d:
    """Return the 6×6 convolution of stride 2 that equals slicing into 2×2 phases and a 3×3 over the four of them."""
    phases = conv.weight.double().unflatten(1, (4, -1))  # type: ignore[no-untyped-call]  # out, phase, in, 3, 3
    out_channels, _, in_channels = phases.shape[:3]
    weight = phases.new_zeros(out_channels, in_channels, 6, 6)
    for phase, (row, column) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):
        weight[:, :, row::2, column::2] = phases[:, phase]
    assert conv.bias is not None
    return _conv_like(conv, weight, conv.bias.double(), stride=2, padding=2)


def _fold_linear(linear: nn.Linear, norm: nn.BatchNorm1d) -> nn.Linear:
    gain, shift = _gain_and_shift(norm)
    merged = nn.Linear(linear.in_features, linear.out_features)
    merged.weight.copy_(linear.weight.double() * gain[:, None])
    bias = linear.bias.double() if linear.bias is not None else torch.zeros(())
    merged.bias.copy_(bias * gain + shift)
    return merged.eval()
