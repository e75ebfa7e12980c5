"""Teach the person detector: RTMDet-nano's architecture from random weights, by dense distillation.

The teacher's raw maps need no label assigner. On top of them the student is shown the teacher's features at every
stage (Romero et al., "FitNets: Hints for Thin Deep Nets", 2015), at first each stage by itself on the teacher's
features as its input, so that all depths learn from the first step on; then end to end on its own features.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from common import Muon, Run, learning_rate, load_compact, log, network_input, save_compact
from data import CHECKOUT, Pictures, prefetch
from evaluate import STRIDES, DetectorValidation
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rtmpose_infer.export.networks.rtmdet import RTMDet

INPUT_WH = (416, 320)
_LEVELS = range(3)
_ACTIVATED = "{}/activate/Mul_output_0"
_BEFORE = "{}/conv/Conv_output_0"
FEATURES = {
    "stage1": "/backbone/stage1/stage1.1/final_conv",
    "stage2": "/backbone/stage2/stage2.1/final_conv",
    "stage3": "/backbone/stage3/stage3.1/final_conv",
    "stage4": "/backbone/stage4/stage4.2/final_conv",
    "reduce0": "/neck/reduce_layers.0",
    "reduce1": "/neck/reduce_layers.1",
    "down": "/neck/top_down_blocks.1/final_conv",
    "up0": "/neck/bottom_up_blocks.0/final_conv",
    "up1": "/neck/bottom_up_blocks.1/final_conv",
    "out0": "/neck/out_convs.0/pointwise_conv",
    "out1": "/neck/out_convs.1/pointwise_conv",
    "out2": "/neck/out_convs.2/pointwise_conv",
}
CELLS_PER_PERSON = 9
FAIR_SCORE = 0.5
SAME_PERSON = 0.5  # overlap from which a cell's box is taken for an annotated person
BACKBONE_FEATURES = ("stage1", "stage2", "stage3", "stage4")
LATE_FEATURES = ("down", "up0", "up1", "out0", "out1", "out2")


class Teacher:
    """The teaching detector in ONNX Runtime, with its inner features as further outputs.

    Args:
        path: The raw-map ONNX file of RTMDet-nano.
        features: Which entries of `FEATURES` to return.
        maps: Whether to return the head's maps too.
        activated: Whether the features are taken after their activation or before it.
    """

    def __init__(
        self,
        path: Path,
        features: tuple[str, ...] = tuple(FEATURES),
        *,
        maps: bool = True,
        activated: bool = True,
    ) -> None:
        model = onnx.load(str(path))
        for axis in (0, 2, 3):
            dim = model.graph.input[0].type.tensor_type.shape.dim[axis]
            dim.ClearField("dim_value")
            dim.dim_param = f"axis{axis}"
        del model.graph.value_info[:]
        maps_names = [output.name for output in model.graph.output]
        for output in model.graph.output:
            output.type.tensor_type.ClearField("shape")
        if not maps:
            del model.graph.output[:]
        self.outputs = {name: (_ACTIVATED if activated else _BEFORE).format(FEATURES[name]) for name in features}
        for name in self.outputs.values():
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        if maps:
            names = [f"{kind}{level}" for kind in ("cls", "reg") for level in _LEVELS]
            self.outputs |= dict(zip(names, maps_names, strict=True))
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = 1
        settings.log_severity_level = 3
        self.session = ort.InferenceSession(
            model.SerializeToString(), settings, providers=ort.get_available_providers()
        )

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """Return the features and maps for normalised BGR `[n, 3, h, w]`."""
        values = self.session.run(list(self.outputs.values()), {"input": x.contiguous().cpu().numpy()})
        return {
            name: torch.from_numpy(value).to(x.device).contiguous(memory_format=torch.channels_last)
            for name, value in zip(self.outputs, values, strict=True)
        }


def build_detector() -> RTMDet:
    """Return RTMDet-nano for one class."""
    return RTMDet(0.33, 0.25, 1, depthwise=True, share_conv=False, exp_on_reg=False)


def student_features(net: RTMDet, x: Tensor, given: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """Return the same features and maps of the student.

    Args:
        net: The student.
        x: Normalised BGR.
        given: The teacher's features, to be used as every stage's input; `None` runs the student end to end.
    """
    mine: dict[str, Tensor] = {}
    source = given if given is not None else mine
    bone, neck, head = net.backbone, net.neck, net.bbox_head
    mine["stage1"] = bone.stage1(bone.stem(x))
    for stage in (2, 3, 4):
        mine[f"stage{stage}"] = bone.get_submodule(f"stage{stage}")(source[f"stage{stage - 1}"])

    def double(value: Tensor) -> Tensor:
        return F.interpolate(value, scale_factor=2.0, mode="nearest")

    mine["reduce0"] = neck.reduce_layers[0](source["stage4"])
    blended = neck.top_down_blocks[0](torch.cat((double(source["reduce0"]), source["stage3"]), 1))
    mine["reduce1"] = neck.reduce_layers[1](blended)
    mine["down"] = neck.top_down_blocks[1](torch.cat((double(source["reduce1"]), source["stage2"]), 1))
    mine["up0"] = neck.bottom_up_blocks[0](torch.cat((neck.downsamples[0](source["down"]), source["reduce1"]), 1))
    mine["up1"] = neck.bottom_up_blocks[1](torch.cat((neck.downsamples[1](source["up0"]), source["reduce0"]), 1))
    for level, name in enumerate(("down", "up0", "up1")):
        mine[f"out{level}"] = neck.out_convs[level](source[name])
    logits, distances = head([source[f"out{level}"] for level in _LEVELS])
    for level in _LEVELS:
        mine[f"cls{level}"], mine[f"reg{level}"] = logits[level], distances[level]
    return mine


@torch.no_grad()
def calibrate(net: nn.Module, teacher: Teacher, x: Tensor) -> None:
    """Give the norms of all hinted stages, and the biases of the maps, the teacher's means and deviations.

    The optimiser moves a bias by little more than the learning rate per step; some of the teacher's channels sit so
    far from zero that the way there would take the whole run.
    """
    values = teacher(x)
    for name in teacher.outputs.keys() & FEATURES.keys():
        source = FEATURES[name]
        module = net.get_submodule(re.sub(r"/(stage\d)/", "/", source).strip("/").replace("/", "."))
        value = values[name]
        module.bn.bias.copy_(value.mean((0, 2, 3)))
        module.bn.weight.copy_(value.std((0, 2, 3)))
    if "cls0" not in values:
        return
    for level, stride in zip(_LEVELS, STRIDES, strict=True):
        net.bbox_head.rtm_cls[level].bias.copy_(values[f"cls{level}"].mean((0, 2, 3)))
        net.bbox_head.rtm_reg[level].bias.copy_(values[f"reg{level}"].mean((0, 2, 3)) / stride)


def freeze_norms(net: nn.Module) -> None:
    """Let every batch norm use its running statistics.

    The statistics of a few small maps differ so much from batch to batch that features normalised by them cannot come
    closer to the teacher's, which are normalised by fixed ones.
    """
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def hint_loss(mine: Tensor, teacher: Tensor) -> Tensor:
    """Return the unexplained share of the teacher's variance, averaged over channels."""
    error = (mine - teacher).square().mean((0, 2, 3))
    variance = teacher.var((0, 2, 3)) + 1e-3
    return (error / (variance + 0.1 * variance.mean())).mean()


def show_persons(target: dict[str, Tensor], boxes: list[np.ndarray], input_wh: tuple[int, int]) -> None:
    """Correct the teacher's maps in place where it is less sure of an annotated person than its own box deserves.

    The cells of a person are those whose box, as the teacher puts it, overlaps the annotated one best; their box becomes the
    annotated one, and their score at least a fair one. (The overlap itself, RTMDet's own target, is far above what the
    teacher says of most people: with it scores rose everywhere, and precision fell faster than recall rose.) Other
    cells stay as the teacher has them, for not everybody is annotated.

    Args:
        target: The teacher's maps.
        boxes: For each picture the annotated persons, (N, 4) xyxy in input pixels.
        input_wh: Network input, pixels.
    """
    places = []
    for stride in STRIDES:
        rows, columns = torch.meshgrid(
            torch.arange(input_wh[1] // stride), torch.arange(input_wh[0] // stride), indexing="ij"
        )
        places.append(torch.stack([columns, rows], -1).view(-1, 2) * float(stride))
    device = target["cls0"].device
    place = torch.cat(places).to(device)
    for row, persons in enumerate(boxes):
        logits = torch.cat([target[f"cls{level}"][row].flatten() for level in _LEVELS])
        reach = torch.cat([target[f"reg{level}"][row].flatten(1).T for level in _LEVELS])
        found = torch.cat([place - reach[:, :2], place + reach[:, 2:]], 1)
        for person in torch.from_numpy(persons).float().to(device):
            overlap = _overlap(found, person)
            best, cells = overlap.topk(CELLS_PER_PERSON)
            cells = cells[best > SAME_PERSON]
            logits[cells] = torch.maximum(logits[cells], torch.logit(overlap[cells].clamp(max=FAIR_SCORE)))
            reach[cells] = torch.cat([place[cells] - person[:2], person[2:] - place[cells]], 1)
        counts = [target[f"cls{level}"][row].numel() for level in _LEVELS]
        for level, logit, distance in zip(_LEVELS, logits.split(counts), reach.split(counts), strict=True):
            target[f"cls{level}"][row] = logit.view_as(target[f"cls{level}"][row])
            target[f"reg{level}"][row] = distance.T.reshape(target[f"reg{level}"][row].shape)


def _overlap(boxes: Tensor, person: Tensor) -> Tensor:
    """Return the IoU (M,) of boxes (M, 4) xyxy with one box (4,)."""
    size = (torch.minimum(boxes[:, 2:], person[2:]) - torch.maximum(boxes[:, :2], person[:2])).clamp(min=0)
    shared = size.prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (person[2:] - person[:2]).prod()
    return shared / (areas - shared).clamp(min=1e-3)


def map_losses(mine: dict[str, Tensor], teacher: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the quality focal loss of the class maps and the IoU loss of the boxes, both weighted by the teacher."""
    total_score = total_box = torch.zeros(())
    positives = sum(teacher[f"cls{level}"].sigmoid().square().sum() for level in _LEVELS) + 1.0
    for level, stride in zip(_LEVELS, STRIDES, strict=True):
        logit, target = mine[f"cls{level}"], teacher[f"cls{level}"].sigmoid()
        focus = (logit.sigmoid() - target).abs().square().detach() + 0.02
        total_score = total_score + (focus * F.binary_cross_entropy_with_logits(logit, target, reduction="none")).sum()
        ours, theirs = mine[f"reg{level}"] / stride, teacher[f"reg{level}"] / stride
        near, far = torch.minimum(ours, theirs), torch.maximum(ours, theirs)
        overlap = (near[:, :2] + near[:, 2:]).clamp(min=0).prod(1)
        hull = (far[:, :2] + far[:, 2:]).clamp(min=1e-3).prod(1)
        shape = F.smooth_l1_loss(ours, theirs, reduction="none").mean(1)
        total_box = total_box + (target.square()[:, 0] * (1 - overlap / hull + 0.3 * shape)).sum()
    return total_score / positives, total_box / positives


def main() -> None:
    """Train, printing losses and validation, until the time is used up; resumes by itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=CHECKOUT.parent / "shared")
    parser.add_argument("--work", type=Path, default=CHECKOUT.parent / "training")
    parser.add_argument("--init", type=Path, help="compact checkpoint to start from")
    parser.add_argument("--input", type=int, default=320, help="side of the training canvas, a multiple of 32")
    parser.add_argument("--minutes", type=float, default=35)
    parser.add_argument("--flat", type=float, default=0.4, help="share of the run before the rate falls")
    parser.add_argument("--alone-share", type=float, default=0.45, help="share with each stage by itself")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument(
        "--frozen-norms", action="store_true", help="normalise by the running statistics, as the teacher"
    )
    parser.add_argument(
        "--annotated", action="store_true", help="raise the teacher's scores where a person is annotated"
    )
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--ema", type=float, default=0.99)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="detector")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    net = build_detector().to(device, memory_format=torch.channels_last)
    if options.init is not None:
        net.load_state_dict(load_compact(options.init))
    path = options.work / f"{options.name}.pt"
    run = Run(net, Muon(net), path, seconds=60 * options.minutes, ema_decay=options.ema)
    resumed = run.resume()
    rng = np.random.default_rng((options.seed, run.step))
    pictures = Pictures(options.work)
    teacher_path = options.shared / "models" / "rtmdet_nano_person_640_raw.onnx"
    teacher = Teacher(teacher_path, tuple(FEATURES) if run.progress < options.alone_share else LATE_FEATURES)
    if not resumed and options.init is None:
        x = network_input(pictures.batch(rng, 32, INPUT_WH, 1.0)[0], device, rgb=False)
        calibrate(net, Teacher(teacher_path, activated=False), x)
    validation = DetectorValidation(options.shared / "data" / "coco_val_dev", INPUT_WH)
    log_path = options.work / f"{options.name}.log"

    @torch.no_grad()
    def predict(canvas: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        logits, distances = run.average.eval()(network_input(canvas, device, rgb=False))
        return [m.cpu().numpy() for m in logits], [m.cpu().numpy() for m in distances]

    def make() -> tuple[Tensor, dict[str, Tensor]]:
        canvas = (options.input, options.input)
        images, boxes = pictures.batch(rng, options.batch, canvas, 1.0)
        x = network_input(images, device, rgb=False)
        target = teacher(x)
        if options.annotated:
            show_persons(target, boxes, canvas)
        return x, target

    recent: list[list[float]] = []
    next_report, next_validation = time.monotonic() + 30, time.monotonic() + 240
    for x, target in prefetch(make):
        net.train()
        if options.frozen_norms:
            freeze_norms(net)
        alone = run.progress < options.alone_share
        mine = student_features(net, x, target if alone else None)
        hinted = FEATURES if alone else LATE_FEATURES
        hints = {name: hint_loss(mine[name], target[name]) for name in hinted}
        score, box = map_losses(mine, target)
        loss = (1.0 if alone else 0.1) * sum(hints.values()) + score + 2 * box
        run.update(loss, learning_rate(run.progress, options.rate, flat=options.flat))
        if recent and len(recent[0]) != 2 + len(hints):
            recent.clear()
        recent.append([score.item(), box.item(), *(h.item() for h in hints.values())])
        done = run.progress >= 1
        if time.monotonic() > next_report or done:
            means = np.mean(recent, 0)
            hint_text = " ".join(f"{n}:{v:.3f}" for n, v in zip(hints, means[2:], strict=True))
            log(
                f"{time.strftime('%H:%M:%S')} step {run.step} {run.trained_s / 60:.1f} min alone={alone} "
                f"score {means[0]:.3f} box {means[1]:.3f} {hint_text}",
                log_path,
            )
            recent.clear()
            next_report = time.monotonic() + 60
        if time.monotonic() > next_validation or done:
            figures = validation(predict)
            log(" validation " + " ".join(f"{k} {v:.3f}" for k, v in figures.items()), log_path)
            run.save()
            save_compact(run.average.state_dict(), options.work / f"{options.name}_average.pt")
            run.pause()
            next_validation = time.monotonic() + 240
        if done:
            break


if __name__ == "__main__":
    main()
