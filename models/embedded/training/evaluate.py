"""Validation on COCO pictures that no training set contains: keypoint AP on ground-truth boxes, box AP50, recall."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from common import network_input
from data import FLIP_PAIRS, PADDING
from faster_coco_eval import COCO, COCOeval_faster

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

Maps = "tuple[list[np.ndarray], list[np.ndarray]]"
STRIDES = (8, 16, 32)
TALL_PX = 96


class PoseValidation:
    """Crops of the annotated persons, made once, and the OKS-AP of a network on them."""

    def __init__(self, folder: Path, input_wh: tuple[int, int]) -> None:
        self.truth = load_truth(folder / "person_keypoints.json")
        self.input_wh = input_wh
        width, height = input_wh
        self.persons = [
            a for a in self.truth.dataset["annotations"] if not a.get("iscrowd", 0) and a["num_keypoints"] > 0
        ]
        crops, self.scale, self.centre = [], [], []
        for person in self.persons:
            record = self.truth.imgs[person["image_id"]]
            frame = cv2.imread(str(folder / "images" / record["file_name"]))
            x, y, w, h = person["bbox"]
            scale = width / (PADDING * max(w, h * width / height))
            centre = np.array([x + w / 2, y + h / 2])
            offset = np.array(input_wh) / 2 - scale * centre
            matrix = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
            crops.append(cv2.warpAffine(frame, matrix, input_wh, flags=cv2.INTER_LINEAR))
            self.scale.append(scale)
            self.centre.append(centre)
        self.crops = np.stack(crops)

    @torch.no_grad()
    def __call__(self, net: nn.Module, device: torch.device) -> dict[str, float]:
        """Return AP, AP50, AP75 and AR of SimCC vectors decoded by argmax at two bins per pixel, and AP with a flip test."""
        net.eval()
        plain, mirrored = [], []
        for start in range(0, len(self.crops), 64):
            crops = self.crops[start : start + 64]
            plain.append(net(network_input(crops, device, rgb=True)))
            x, y = net(network_input(np.ascontiguousarray(crops[:, :, ::-1]), device, rgb=True))
            # Bin k lies at k/2 px, and pixel p of a mirrored crop at W - 1 - p.
            x = torch.cat([x[:, FLIP_PAIRS, :-1].flip(-1), x[:, FLIP_PAIRS, :1]], -1)
            mirrored.append((x, y[:, FLIP_PAIRS]))
        one, other = ([torch.cat(axis) for axis in zip(*parts, strict=True)] for parts in (plain, mirrored))
        stats = self._precision(*one)
        flipped = self._precision(*((a + b) / 2 for a, b in zip(one, other, strict=True)))
        return dict(zip(("AP", "AP50", "AP75"), stats[:3], strict=True)) | {"AR": stats[5], "AP_flip": flipped[0]}

    def _precision(self, x: torch.Tensor, y: torch.Tensor) -> list[float]:
        points = torch.stack([x.argmax(-1), y.argmax(-1)], -1).cpu().numpy() / 2.0
        scores = torch.minimum(x.amax(-1), y.amax(-1)).cpu().numpy()
        results = []
        for index, person in enumerate(self.persons):
            frame = (points[index] - np.array(self.input_wh) / 2) / self.scale[index] + self.centre[index]
            results.append(
                {
                    "image_id": person["image_id"],
                    "category_id": 1,
                    "keypoints": np.column_stack([frame, scores[index]]).ravel().tolist(),
                    "score": float(scores[index].mean()),
                }
            )
        return average_precision(self.truth, results, "keypoints")


class DetectorValidation:
    """Letterboxed pictures, made once, and the box AP of raw detector maps on them."""

    def __init__(self, folder: Path, input_wh: tuple[int, int]) -> None:
        self.truth = load_truth(folder / "person_keypoints.json")
        width, height = input_wh
        self.records = list(self.truth.imgs.values())
        self.canvas = np.full((len(self.records), height, width, 3), 114, np.uint8)
        self.ratios = []
        for canvas, record in zip(self.canvas, self.records, strict=True):
            frame = cv2.imread(str(folder / "images" / record["file_name"]))
            ratio = min(width / frame.shape[1], height / frame.shape[0])
            resized = cv2.resize(frame, (round(frame.shape[1] * ratio), round(frame.shape[0] * ratio)))
            canvas[: resized.shape[0], : resized.shape[1]] = resized
            self.ratios.append((resized.shape[1] / frame.shape[1], resized.shape[0] / frame.shape[0]))

    def __call__(self, predict: Callable[[np.ndarray], Maps]) -> dict[str, float]:
        """Return AP, AP50 and the recall at score 0.3 and IoU 0.5 of persons taller than 96 px.

        Args:
            predict: Logits and distances per level for canvases (n, H, W, 3) uint8 BGR.
        """
        results = []
        for start in range(0, len(self.canvas), 16):
            logits, distances = predict(self.canvas[start : start + 16])
            for row in range(logits[0].shape[0]):
                index = start + row
                boxes, scores = decode([m[row] for m in logits], [m[row] for m in distances])
                boxes /= np.tile(self.ratios[index], 2).astype(np.float32)
                record = self.records[index]
                boxes = boxes.clip(0, [record["width"], record["height"]] * 2)
                for (x0, y0, x1, y1), score in zip(boxes.tolist(), scores.tolist(), strict=True):
                    results.append(
                        {
                            "image_id": record["id"],
                            "category_id": 1,
                            "bbox": [x0, y0, x1 - x0, y1 - y0],
                            "score": score,
                        }
                    )
        stats = average_precision(self.truth, results, "bbox")
        return {"AP": stats[0], "AP50": stats[1], "recall": tall_recall(self.truth, results)}


def tall_recall(truth: COCO, results: list[dict[str, Any]]) -> float:
    """Return the share of persons taller than 96 px covered at IoU 0.5 by a box with a score above 0.3."""
    found = total = 0
    for person in truth.dataset["annotations"]:
        x, y, w, h = person["bbox"]
        if person.get("iscrowd", 0) or h <= TALL_PX:
            continue
        total += 1
        boxes = np.array(
            [r["bbox"] for r in results if r["image_id"] == person["image_id"] and r["score"] > 0.3]
        ).reshape(-1, 4)
        left, top = np.maximum(boxes[:, 0], x), np.maximum(boxes[:, 1], y)
        right = np.minimum(boxes[:, 0] + boxes[:, 2], x + w)
        bottom = np.minimum(boxes[:, 1] + boxes[:, 3], y + h)
        inter = (right - left).clip(0) * (bottom - top).clip(0)
        iou = inter / (boxes[:, 2] * boxes[:, 3] + w * h - inter)
        found += bool((iou > 0.5).any())
    return found / total


def decode(logits: list[np.ndarray], distances: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes xyxy (M, 4) in input pixels and scores (M,) after NMS at IoU 0.65, at most 100."""
    boxes, scores = [], []
    for logit, distance, stride in zip(logits, distances, STRIDES, strict=True):
        score = 1 / (1 + np.exp(-np.clip(logit[0], -50, 50)))
        rows, columns = np.nonzero(score > 0.02)
        reach = distance[:, rows, columns].T
        corner = np.column_stack([columns, rows]).astype(np.float32) * stride
        boxes.append(np.hstack([corner - reach[:, :2], corner + reach[:, 2:]]))
        scores.append(score[rows, columns])
    box, score = np.concatenate(boxes), np.concatenate(scores)
    xywh = np.hstack([box[:, :2], box[:, 2:] - box[:, :2]])
    keep = np.array(cv2.dnn.NMSBoxes(xywh.tolist(), score.tolist(), 0.02, 0.65), int).ravel()[:100]
    return box[keep], score[keep]


def load_truth(path: Path) -> COCO:
    """Return the annotations, without the chatter of the evaluation code."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(json.loads(path.read_text()))


def average_precision(truth: COCO, results: list[dict[str, Any]], kind: str) -> list[float]:
    """Return the COCO figures of `results`: AP, AP50 and AP75 come first.

    Args:
        truth: The annotations.
        results: In COCO's results format.
        kind: `"keypoints"` or `"bbox"`.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval_faster(truth, truth.loadRes(results), kind, print_function=lambda *_: None)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]
