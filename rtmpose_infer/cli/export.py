"""``rtmpose export``: checkpoints and published ONNX files to files that may be deployed."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from rtmpose_infer.cli._errors import reported_errors

__all__ = ["export"]


class Precision(str, Enum):
    """What the network computes in."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


def export(  # one parameter an option
    source: Annotated[
        str,
        typer.Argument(
            help="A checkpoint (.pth), a published ONNX file, an MMDeploy SDK folder or .zip, or a name of the zoo."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write: .onnx, or .param for ncnn.")],
    precision: Annotated[Precision, typer.Option(help="What the network computes in.")] = Precision.FP32,
    raw: Annotated[
        bool, typer.Option("--raw/--deploy-graph", help="OpenMMLab's inputs and outputs, or the deploy graph.")
    ] = False,
    opset: Annotated[int, typer.Option(help="Version of ONNX's operator set.")] = 17,
    batch: Annotated[int | None, typer.Option(min=1, help="A fixed batch size; by default any.")] = None,
    vectors: Annotated[bool, typer.Option("--vectors", help="Give the SimCC vectors too.")] = False,
    skeleton: Annotated[
        str | None,
        typer.Option(help="What the keypoints are, where the checkpoint does not say it: name or .json file."),
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Names of a detector's classes, with commas between.")] = None,
    padding: Annotated[float | None, typer.Option(help="Box padding of the training, such as 1.25.")] = None,
    input_size: Annotated[str | None, typer.Option(help="Input size of a detector or RTMO, such as 640x640.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Which weights of the checkpoint, such as state_dict or ema_state_dict.")
    ] = None,
    prefix: Annotated[str | None, typer.Option(help="What stands before backbone. in the checkpoint's keys.")] = None,
    exp_on_reg: Annotated[bool | None, typer.Option(help="RTMDet: distances are exponentials.")] = None,
    share_conv: Annotated[bool | None, typer.Option(help="RTMDet: the levels share their convolutions.")] = None,
    score_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Detectors: boxes below are dropped in the graph.")
    ] = 0.05,
    iou_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Detectors: overlap above which the weaker box is dropped in the graph.")
    ] = 0.6,
    calibration: Annotated[
        Path | None, typer.Option(help="Folder of photographs of what the network is for; INT8 needs it.")
    ] = None,
    boxes: Annotated[Path | None, typer.Option(help="COCO file with the persons in these photographs.")] = None,
    parity_limit: Annotated[
        float | None, typer.Option(help="Largest displacement in pixels (99th percentile) that is let pass.")
    ] = None,
) -> None:
    """Write a network as a self-describing file, after comparing it with its source.

    The file says of itself what it needs and what the comparison gave. Nothing is written when the comparison fails.
    """
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    with reported_errors():
        from rtmpose_infer.export import ExportOptions
        from rtmpose_infer.export import export as run
        from rtmpose_infer.export.deploy_graph import Suppression

        options = ExportOptions(
            precision=precision.value,
            raw=raw,
            opset=opset,
            batch=batch,
            vectors=vectors,
            suppression=Suppression(score_threshold=score_threshold, iou_threshold=iou_threshold),
            skeleton=skeleton,
            class_names=None if classes is None else [name.strip() for name in classes.split(",")],
            padding=padding,
            input_size_wh=None if input_size is None else _size(input_size),
            weights=weights,
            prefix=prefix,
            exp_on_reg=exp_on_reg,
            share_conv=share_conv,
            calibration=calibration,
            boxes=boxes,
            parity_limit_px=parity_limit,
        )
        with console.status(Text(f"exporting {source}")):
            report = run(_file(source), output, options)
    size = report.path.stat().st_size / 1e6
    width, height = report.spec.input_size_wh
    console.print(f"{report.name}: {report.spec.task}, input {width}x{height}, {report.spec.precision}, {size:.1f} MB")
    for text in report.assumed:
        console.print(f"  assumed: {text}")
    for comparison in report.parity:
        console.print(f"  {comparison}")
    for note in report.notes:
        console.print(f"  {note}")
    console.print(f"wrote {report.path}")


def _file(source: str) -> Path:
    """Return the file itself, or the one a name of the zoo stands for: its checkpoint where that is here."""
    if Path(source).exists() or Path(source).suffix:
        return Path(source)
    from rtmpose_infer import zoo

    if "pth" in zoo.local_formats(source) or zoo.model_info(source).runnable is None:
        return zoo.fetch(source, format="pth")
    return zoo.resolve(source)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise typer.BadParameter(f"{text!r} is no size like 640x640", param_hint="--input-size")
    return int(width), int(height)
