"""What both training runs share: the optimiser, the schedule, the running average of the weights, checkpoints.

The schedule is tied to time spent training, not to a number of steps: the machine is shared and the budget is a
clock, so a run says for how many minutes it may train, and a resumed run goes on where the clock stood.

The optimiser is Muon for every weight that is a matrix once flattened, AdamW for the rest. On these small networks an
orthogonalised update needs clearly fewer steps than AdamW for the same loss, and the steps are what two cores lack.
"""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

MEAN_RGB = (123.675, 116.28, 103.53)
STD_RGB = (58.395, 57.12, 57.375)


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by a Newton-Schulz iteration for matrices, AdamW for everything else.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the update is scaled to
    the root mean square of AdamW's (Liu et al., "Muon is Scalable for LLM Training", 2025), so one learning rate
    serves both.
    """

    def __init__(self, net: nn.Module, *, weight_decay: float = 0.05, momentum: float = 0.95) -> None:
        matrices, others = [], []
        for parameter in net.parameters():
            flat = parameter[0].numel() if parameter.ndim >= 2 else 0
            (matrices if flat >= 8 and parameter.shape[0] > 4 and not _depthwise(parameter) else others).append(
                parameter
            )
        groups = [
            {"params": matrices, "muon": True, "weight_decay": weight_decay},
            {"params": others, "muon": False, "weight_decay": 0.0},
        ]
        super().__init__(groups, {"lr": 1e-3, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient."""
        del closure
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if group["muon"]:
                self._step_muon(parameters, group)
            else:
                self._step_adam(parameters, group)

    def _step_muon(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for p in parameters:
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            momentum = state["momentum"]
            momentum.lerp_(p.grad, 1 - group["momentum"])
            update = p.grad.lerp(momentum, group["momentum"]).flatten(1)
            by_shape[tuple(update.shape)].append((p, update))
        for shape, pairs in by_shape.items():
            updates = orthogonalise(torch.stack([update for _, update in pairs]))
            scale = 0.2 * math.sqrt(max(shape))
            for (p, _), update in zip(pairs, updates, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.view(p.shape), alpha=-group["lr"] * scale)

    def _step_adam(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for p in parameters:
            state = self.state[p]
            if not state:
                state["step"], state["first"], state["second"] = 0, torch.zeros_like(p), torch.zeros_like(p)
            state["step"] += 1
            state["first"].lerp_(p.grad, 0.1)
            state["second"].lerp_(p.grad.square(), 0.01)
            first = state["first"] / (1 - 0.9 ** state["step"])
            second = state["second"] / (1 - 0.99 ** state["step"])
            p.addcdiv_(first, second.sqrt() + 1e-8, value=-group["lr"])


def _depthwise(parameter: Tensor) -> bool:
    return parameter.ndim == 4 and parameter.shape[1] == 1


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Return the nearest semi-orthogonal matrices, roughly, for a stack `[n, rows, columns]`.

    Eight bits of mantissa are enough for it, and processors that multiply bfloat16 take half the time.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-12)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def learning_rate(progress: float, peak: float, *, warmup: float = 0.01, flat: float = 0.4) -> float:
    """Return the rate at `progress` 0..1: linear warm-up, flat, then a cosine to 1 % of the peak."""
    if progress < warmup:
        return peak * (progress / warmup * 0.95 + 0.05)
    if progress < flat or flat >= 1:
        return peak
    share = min((progress - flat) / (1 - flat), 1.0)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


class Run:
    """One training run: network, optimiser, running average, clock; written to and read from one file."""

    def __init__(self, net: nn.Module, optimiser: Muon, path: Path, *, seconds: float, ema_decay: float) -> None:
        self.net, self.optimiser, self.path, self.seconds = net, optimiser, path, seconds
        self.average = copy.deepcopy(net).requires_grad_(False)  # noqa: FBT003
        self.ema_decay = ema_decay
        self.step = 0
        self.trained_s = 0.0
        self._last = time.monotonic()

    @property
    def progress(self) -> float:
        """Share of the time budget used, 0..1."""
        return min(self.trained_s / self.seconds, 1.0)

    def update(self, loss: Tensor, rate: float) -> None:
        """Take one optimiser step on `loss` and advance the clock and the average."""
        self.optimiser.zero_grad()
        loss.backward()
        now = time.monotonic()
        self.trained_s += self._agree(min(now - self._last, 30.0))
        self._last = now
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.step += 1
        decay = min(self.ema_decay, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for kept, new in zip(self.average.state_dict().values(), self.net.state_dict().values(), strict=True):
                if kept.dtype.is_floating_point:
                    kept.lerp_(new, 1 - decay)
                else:
                    kept.copy_(new)

    def _agree(self, elapsed_s: float) -> float:
        """Average the gradients and the elapsed time over all processes, in one message."""
        if not dist.is_initialized():
            return elapsed_s
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        message = torch.cat([*(g.flatten() for g in gradients), gradients[0].new_tensor([elapsed_s])])
        dist.all_reduce(message)
        message /= dist.get_world_size()
        for gradient, mean in zip(gradients, message[:-1].split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))
        return float(message[-1])

    def pause(self) -> None:
        """Leave the time since the last step out of the clock (validation, saving)."""
        self._last = time.monotonic()

    def save(self) -> None:
        """Write everything needed to go on, atomically."""
        state = {
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "trained_s": self.trained_s,
        }
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.path)

    def resume(self) -> bool:
        """Load the file if there is one; return whether there was."""
        if not self.path.exists():
            return False
        state = torch.load(self.path, weights_only=True)
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.trained_s = state["step"], state["trained_s"]
        return True


def save_compact(weights: dict[str, Tensor], path: Path) -> None:
    """Write weights in half precision: small enough to commit, enough to continue from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({k: v.half() if v.dtype == torch.float32 else v for k, v in weights.items()}, path)


def load_compact(path: Path) -> dict[str, Tensor]:
    """Read weights written by `save_compact`, in single precision."""
    weights: dict[str, Tensor] = torch.load(path, weights_only=True)
    return {k: v.float() if v.dtype == torch.float16 else v for k, v in weights.items()}


def network_input(images: np.ndarray, device: torch.device, *, rgb: bool) -> Tensor:
    """Return normalised `[n, 3, h, w]` in channels-last memory from (n, h, w, 3) uint8 BGR."""
    x = torch.from_numpy(images).to(device)
    mean, std = torch.tensor(MEAN_RGB, device=device), torch.tensor(STD_RGB, device=device)
    x = (x.flip(-1) - mean) / std if rgb else (x - mean.flip(0)) / std.flip(0)
    return x.permute(0, 3, 1, 2)


def log(line: str, path: Path, extra: Iterable[str] = ()) -> None:
    """Print a line and append it to the run's log."""
    line = " ".join([line, *extra])
    print(line, flush=True)
    with path.open("a") as file:
        file.write(line + "\n")
