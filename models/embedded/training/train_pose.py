"""Teach the pose network: RTMPose's architecture, narrower than its smallest size, from random weights.

SimCC heads hardly learn on a backbone that knows nothing, so the backbone is helped in three ways that are all
dropped at the export: the stage features of a person detector as hints, first each stage by itself and then end to
end with a fading weight; heat maps read off stages 3 and 4 by one linear layer and a pixel shuffle, trained by cross
entropy over the spatial softmax; the same loss on the coarse maps that the head's own convolution makes. The label
Gaussians narrow along the run.

A network trained at one input size and depth can start the next one (`--init`): everything convolutional carries over,
the head's linear layers are interpolated along their spatial axes, residual blocks that are new start as identities.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from common import Muon, Run, learning_rate, load_compact, log, network_input, save_compact
from data import CHECKOUT, PoseCrops, prefetch
from evaluate import PoseValidation
from torch import Tensor, multiprocessing, nn
from torch.nn import functional as F  # noqa: N812
from train_detector import BACKBONE_FEATURES, Teacher, calibrate, hint_loss

from rtmpose_infer.export.networks.rtmpose import RTMPose
from rtmpose_infer.skeletons import load_skeleton

KEYPOINTS = 17
DEEPEN, WIDEN = 0.33, 0.25
SPLIT = 2.0
SHARPNESS = 10.0
MAP_STRIDE = 8
PERSON_SIZE = 0.37  # root of a person's area as a share of the input's height, on average
GENTLE_FROM = 0.8  # share of the run from which the augmentation is half as strong, nearer to the crops of use


class TrainedPose(nn.Module):
    """RTMPose with the two heat-map heads that only training sees."""

    def __init__(self, input_wh: tuple[int, int]) -> None:
        super().__init__()
        self.deployed = RTMPose(DEEPEN, WIDEN, KEYPOINTS, input_wh)
        channels = self.deployed.backbone.channels
        self.maps = nn.ModuleList(
            nn.Conv2d(channels[stage - 1], KEYPOINTS * (2 ** (stage + 1) // MAP_STRIDE) ** 2, 1) for stage in (3, 4)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the deployed network returns."""
        return self.deployed(x)

    def features(self, x: Tensor, given: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the four stage features; `given` ones, where there are any, are every stage's input."""
        bone = self.deployed.backbone
        mine: dict[str, Tensor] = {}
        source = mine if given is None else given
        mine["stage1"] = bone.stage1(bone.stem(x))
        for stage in (2, 3, 4):
            mine[f"stage{stage}"] = bone.get_submodule(f"stage{stage}")(source[f"stage{stage - 1}"])
        return mine

    def heads(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return SimCC x and y, and the spatial maps: fine from stages 3 and 4, coarse from the head."""
        maps = [
            F.pixel_shuffle(layer(features[name]), 2 ** (stage + 1) // MAP_STRIDE)
            for stage, name, layer in zip((3, 4), ("stage3", "stage4"), self.maps, strict=True)
        ]
        head = self.deployed.head
        coarse = head.final_layer(features["stage4"])
        tokens = head.gau(head.mlp(coarse.flatten(2)))
        return head.cls_x(tokens), head.cls_y(tokens), [*maps, coarse]


class Labels(NamedTuple):
    """Keypoints (B, 17, 2) in input pixels and their weights (B, 17)."""

    points: Tensor
    weights: Tensor


def gaussian(centre: Tensor, positions: Tensor, sigma: Tensor) -> Tensor:
    """Return normalised label distributions `[..., K, P]` over `positions` `[P]` around `centre` `[..., K]`."""
    return torch.softmax(-0.5 * ((positions - centre[..., None]) / sigma[:, None]).square(), -1)


def simcc_loss(vector: Tensor, centre: Tensor, weights: Tensor, sigma: Tensor) -> Tensor:
    """Return the cross entropy of one axis of SimCC against Gaussian labels, weighted over keypoints.

    With labels as wide as OKS is tolerant (`sigma`, one per keypoint), the peak of what is learnt is not the likeliest
    place but, up to the factor, the one of the highest expected OKS: a hip may lie anywhere in a wide region, an eye not.
    """
    positions = torch.arange(vector.shape[-1], device=vector.device) / SPLIT
    target = gaussian(centre, positions, sigma)
    entropy = -(target * F.log_softmax(SHARPNESS * vector, -1)).sum(-1)
    return (entropy * weights).sum() / weights.sum()


def risk_loss(x: Tensor, y: Tensor, labels: Labels, tolerance: Tensor) -> Tensor:
    """Return one minus the OKS to be expected if the place were drawn from the learnt distribution.

    Unlike the cross entropy it is bounded: a joint that cannot be found costs no more than one that is missed by a little
    too much, so a small network spends itself on what it can get right.
    """
    similarity = torch.ones(())
    for vector, axis in ((x, 0), (y, 1)):
        positions = torch.arange(vector.shape[-1], device=vector.device) / SPLIT
        near = torch.exp(-0.5 * ((positions - labels.points[..., axis, None]) / tolerance[:, None]).square())
        similarity = similarity * (torch.softmax(SHARPNESS * vector, -1) * near).sum(-1)
    return ((1 - similarity) * labels.weights).sum() / labels.weights.sum()


def map_loss(maps: Tensor, labels: Labels, stride: float, sigma: Tensor) -> Tensor:
    """Return the cross entropy over the spatial softmax of maps `[B, 17, h, w]` against Gaussian labels."""
    height, width = maps.shape[-2:]
    columns = (torch.arange(width, device=maps.device) + 0.5) * stride - 0.5
    rows = (torch.arange(height, device=maps.device) + 0.5) * stride - 0.5
    target_x = gaussian(labels.points[..., 0], columns, sigma)
    target_y = gaussian(labels.points[..., 1], rows, sigma)
    logs = F.log_softmax(maps.flatten(2), -1).view(maps.shape)
    entropy = -(target_y[..., None, :] @ logs @ target_x[..., None])[..., 0, 0]
    return (entropy * labels.weights).sum() / labels.weights.sum()


def score_loss(x: Tensor, y: Tensor, labels: Labels, tolerance: Tensor) -> Tensor:
    """Return the squared difference of the peaks from how near they lie to the truth.

    The cross entropy leaves the height of the peaks open. This makes the score an expected OKS, axis by axis: 1 for a
    keypoint on its place, 0 for one that is missing or out of the crop.
    """
    total = torch.zeros((), device=x.device)
    for vector, axis in ((x, 0), (y, 1)):
        peak, place = vector.max(-1)
        distance = place / SPLIT - labels.points[..., axis]
        near = torch.exp(-0.5 * (distance / tolerance).square()) * (labels.weights > 0)
        total = total + (peak - near).square().mean()
    return total


def resized_weights(weights: dict[str, Tensor], net: TrainedPose, old_wh: tuple[int, int]) -> dict[str, Tensor]:
    """Return `weights` of a network for `old_wh` pixels fitted to `net`'s input size by interpolation."""
    fitted = dict(weights)
    mlp, wanted = "deployed.head.mlp.1.weight", net.state_dict()
    if fitted[mlp].shape != wanted[mlp].shape:
        old = (old_wh[1] // 32, old_wh[0] // 32)
        bins = wanted["deployed.head.cls_y.weight"].shape[0], wanted["deployed.head.cls_x.weight"].shape[0]
        new = tuple(int(n / SPLIT) // 32 for n in bins)
        grid = fitted[mlp].view(-1, 1, *old)
        grid = F.interpolate(grid, new, mode="bilinear", align_corners=False)
        # The scale norm brings the vector to the length root n, so each weight shrinks with the number of cells.
        fitted[mlp] = grid.flatten(1) * (math.prod(old) / math.prod(new))
    for axis in ("x", "y"):
        name = f"deployed.head.cls_{axis}.weight"
        column = fitted[name].T[None]
        fitted[name] = F.interpolate(column, wanted[name].shape[0], mode="linear", align_corners=False)[0].T
    return fitted | added_blocks(fitted, wanted)


def added_blocks(weights: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what a deeper network has beyond `weights`, such that its new residual blocks change nothing at first."""
    added = {name: value.clone() for name, value in wanted.items() if name not in weights}
    for name, value in added.items():
        if name.endswith("pointwise_conv.bn.weight"):
            value.zero_()
    return added


def train(rank: int, options: argparse.Namespace) -> None:
    """Train in this process, averaging gradients with the other ones, until the time is used up."""
    alone_in_the_world = options.processes == 1
    if not alone_in_the_world:
        store = f"file://{options.work.resolve()}/{options.name}.rendezvous"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=options.processes)
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    input_wh = tuple(options.input)

    net = TrainedPose(input_wh).to(device, memory_format=torch.channels_last)
    if options.init is not None:
        net.load_state_dict(resized_weights(load_compact(options.init), net, tuple(options.init_input)))
    path = options.work / f"{options.name}.pt"
    run = Run(net, Muon(net), path, seconds=60 * options.minutes, ema_decay=options.ema)
    resumed = run.resume()
    rng = np.random.default_rng((options.seed, run.step, rank))
    crops = PoseCrops(options.work, coco_share=options.coco_share)
    teacher_path = options.shared / "models" / "rtmdet_nano_person_640_raw.onnx"
    teacher = Teacher(teacher_path, BACKBONE_FEATURES, maps=False) if run.step < options.hint_steps else None
    validation = PoseValidation(options.shared / "data" / "coco_val_dev", input_wh) if rank == 0 else None
    log_path = options.work / f"{options.name}.log"
    tolerance = 2 * torch.tensor(load_skeleton("coco17").sigmas, device=device) * PERSON_SIZE * input_wh[1]

    def make() -> tuple[Tensor, Labels, dict[str, Tensor] | None]:
        strength = options.strength * (min(1.0, 0.4 + 2 * run.progress) if run.progress < GENTLE_FROM else 0.5)
        images, points, weights = crops.batch(rng, options.batch, input_wh, strength)
        x = network_input(images, device, rgb=True)
        labels = Labels(torch.from_numpy(points).to(device), torch.from_numpy(weights).to(device))
        hinted = teacher is not None and run.step < options.hint_steps
        return x, labels, teacher(x.flip(1)) if hinted else None

    if teacher is not None and not resumed and options.init is None:
        unactivated = Teacher(teacher_path, BACKBONE_FEATURES, maps=False, activated=False)
        calibrate(net.deployed, unactivated, make()[0].flip(1))

    recent: list[list[float]] = []
    next_report = time.monotonic() + 60
    next_validation = time.monotonic() + 60 * options.validate_every
    for x, labels, hints in prefetch(make):
        net.train()
        alone = hints is not None and run.step < options.alone_steps
        with torch.autocast(device.type, dtype=torch.bfloat16):
            features = net.features(x, hints if alone else None)
            simcc_x, simcc_y, maps = net.heads(features)
        simcc_x, simcc_y, maps = simcc_x.float(), simcc_y.float(), [m.float() for m in maps]
        hint = torch.zeros(())
        if hints is not None:
            fade = 1.0 if alone else max(0.0, 1 - run.step / options.hint_steps)
            hint = fade * sum(hint_loss(features[name].float(), hints[name]) for name in BACKBONE_FEATURES)
        narrowing = (options.sigma_start / options.sigma_end) ** (1 - min(run.progress / 0.7, 1.0))
        sigma = options.sigma_end * narrowing * tolerance
        simcc = simcc_loss(simcc_x, labels.points[..., 0], labels.weights, sigma)
        simcc = simcc + simcc_loss(simcc_y, labels.points[..., 1], labels.weights, sigma)
        strides = (MAP_STRIDE, MAP_STRIDE, 32)
        fine3, fine4, coarse = (
            map_loss(m, labels, stride, sigma.clamp(min=0.6 * stride)) for m, stride in zip(maps, strides, strict=True)
        )
        score = score_loss(simcc_x, simcc_y, labels, tolerance)
        risk = risk_loss(simcc_x, simcc_y, labels, tolerance)
        auxiliary = 0.25 * fine3 + 0.5 * fine4 + 0.25 * coarse + options.risk * risk
        run.update(simcc + auxiliary + hint + 2 * score, learning_rate(run.progress, options.rate, flat=options.flat))
        recent.append([v.item() for v in (simcc, risk, fine3, fine4, coarse, score, hint)])
        done = run.progress >= 1
        if rank == 0 and (time.monotonic() > next_report or done):
            means = np.mean(recent, 0)
            names = ("simcc", "risk", "map3", "map4", "coarse", "score", "hint")
            rate = len(recent) * options.batch * options.processes / (60 + time.monotonic() - next_report)
            log(
                f"{time.strftime('%H:%M:%S')} step {run.step} {run.trained_s / 60:.1f} min {rate:.0f}/s "
                f"sigma {sigma.mean():.1f} " + " ".join(f"{n} {v:.3f}" for n, v in zip(names, means, strict=True)),
                log_path,
            )
            recent.clear()
            next_report = time.monotonic() + 60
        if validation is not None and (time.monotonic() > next_validation or done):
            figures = validation(run.average, device)
            log(" validation " + " ".join(f"{k} {v:.3f}" for k, v in figures.items()), log_path)
            run.save()
            save_compact(run.average.state_dict(), options.work / f"{options.name}_average.pt")
            run.pause()
            next_validation = time.monotonic() + 60 * options.validate_every
        if done:
            break
    if not alone_in_the_world:
        dist.barrier()


def main() -> None:
    """Parse the options and start the processes; a run that was broken off resumes by itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=CHECKOUT.parent / "shared")
    parser.add_argument("--work", type=Path, default=CHECKOUT.parent / "training")
    parser.add_argument("--name", default="pose")
    parser.add_argument("--input", type=int, nargs=2, default=(128, 192), help="width and height, multiples of 32")
    parser.add_argument("--init", type=Path, help="compact checkpoint to start from")
    parser.add_argument("--init-input", type=int, nargs=2, default=(128, 192), help="the input size it was made for")
    parser.add_argument("--minutes", type=float, default=50)
    parser.add_argument("--batch", type=int, default=32, help="crops per process and step")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--flat", type=float, default=0.4, help="share of the run before the rate falls")
    parser.add_argument("--ema", type=float, default=0.997)
    parser.add_argument("--strength", type=float, default=1.0, help="of the augmentation, 0 to 1")
    parser.add_argument("--coco-share", type=float, default=0.7, help="share of COCO crops in a batch")
    parser.add_argument("--alone-steps", type=int, default=400, help="steps with hints stage by stage")
    parser.add_argument("--hint-steps", type=int, default=1200, help="steps after which hints are gone")
    parser.add_argument(
        "--sigma-start", type=float, default=2.0, help="label sigma as a share of OKS's (of the keypoint)"
    )
    parser.add_argument("--sigma-end", type=float, default=0.5)
    parser.add_argument("--risk", type=float, default=4.0, help="weight of the expected OKS beside the cross entropy")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--validate-every", type=float, default=5, help="minutes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    (options.work / f"{options.name}.rendezvous").unlink(missing_ok=True)
    if options.processes == 1:
        train(0, options)
    else:
        multiprocessing.spawn(train, (options,), options.processes)


if __name__ == "__main__":
    main()
