# mypy: disable-error-code="no-any-return"
"""The gated attention unit that lets keypoints look at each other, with its scale norm.

Source: Hua et al., "Transformer Quality in Linear Time" (2022), as RTMPose (Jiang et al., 2023) and RTMO
(Lu et al., 2023) use it: single head, squared ReLU in place of softmax, no causal mask.

:class:`ScaleNorm` is the part that overflows in half precision: it sums the squares of a whole feature vector, which
exceeds 65504 for ordinary activations. It is a module so that the precision pass can find its nodes and keep them in
float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ScaleNorm(nn.Module):
    """Divide a vector by its root mean square and scale it by one learned number ``g``.

    Args:
        dim: Length of the vector.
        eps: Lower bound of the root mean square.
    """

    def __init__(self, dim: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.scale = dim**-0.5
        self.eps = eps
        self.g = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``g · x / max(rms(x), eps)`` over the last axis."""
        rms = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * self.scale
        return x / rms.clamp(min=self.eps) * self.g


class Scale(nn.Module):
    """Multiply by a learned vector, or by a learned number."""

    def __init__(self, dim: int | None) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(() if dim is None else dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` scaled along its last axis."""
        return x * self.scale


class GatedAttentionUnit(nn.Module):
    """Mix the tokens of ``[n, tokens, dim]``, gated, around a scaled shortcut.

    Args:
        dim: Features per token.
        s: Features of the shared query/key space.
        expansion_factor: Width of gate and value relative to ``dim``.
    """

    def __init__(self, dim: int, *, s: int, expansion_factor: float = 2.0) -> None:
        super().__init__()
        self.s = s
        self.e = int(dim * expansion_factor)
        self.gamma = nn.Parameter(torch.rand(2, s))
        self.beta = nn.Parameter(torch.rand(2, s))
        self.o = nn.Linear(self.e, dim, bias=False)
        self.uv = nn.Linear(dim, 2 * self.e + s, bias=False)
        self.ln = ScaleNorm(dim)
        self.res_scale = Scale(dim)

    def forward(self, x: Tensor, position: Tensor | None = None) -> Tensor:
        """Return the mixed tokens, same shape.

        Args:
            x: Tokens ``[n, tokens, dim]``.
            position: Code ``[tokens, s]`` added to queries and keys (RTMO), or ``None``.
        """
        u, v, base = torch.split(F.silu(self.uv(self.ln(x))), [self.e, self.e, self.s], dim=-1)
        q = base * self.gamma[0] + self.beta[0]
        k = base * self.gamma[1] + self.beta[1]
        if position is not None:
            q, k = q + position, k + position
        attention = F.relu(q @ k.transpose(1, 2) / math.sqrt(self.s)) ** 2
        return self.res_scale(x) + self.o(u * (attention @ v))
