"""The training pictures packed into flat arrays, and the augmented batches drawn from them.

Decoding thousands of WebP files costs more than a training step of these small networks, so the pictures are decoded
once into one uint8 array per data set that is held in memory afterwards. Every augmentation of a sample is folded into
one affine matrix, hence one `cv2.warpAffine` per sample; batches are made in one background thread, for OpenCV
releases the interpreter lock and the two cores belong to the network.
"""

from __future__ import annotations

import argparse
import json
import queue
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from rtmpose_infer import PoseEstimator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHECKOUT = Path(__file__).resolve().parents[3]
CROP_WH = (180, 240)
PADDING = 1.15  # 1.25 in RTMPose; a larger person is a more precise one, and these boxes are tight enough
FLIP_PAIRS = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
TEACHER_SCORE_THRESHOLD = 0.35
SURE = 0.5  # the stand-in network's score from which its place is better than a click of Leeds
UPPER_BODY = np.arange(17) < 11  # face and arms
MIN_HALF_BODY_JOINTS = 4
EMPTY_SHARE = 0.08  # of the crops show nobody
SOFT, LEEDS = 1, 2  # sources: COCO pictures that had been squashed to 256 px; Leeds
MIN_JOINTS = 2  # labelled ones that make a person worth a crop
ENLARGED = 1.55  # times the person's box is what the given crops show


def pack_pose(shared: Path, work: Path) -> None:
    """Write `pose_images.npy` (N, 240, 180, 3) uint8 BGR and `pose_labels.npz`, labels in packed pixels.

    Behind the given crops come the annotated persons of the whole pictures that have no crop of their own: small ones
    and those of few joints.
    """
    source = shared / "data" / "pose_train"
    labels = dict(np.load(source / "labels.npz"))
    names = [str(name) for name in labels["name"]]
    extra = cut_persons(shared, taken={int(name[2:8]) for name in names if name.startswith("cs")})
    count = len(names)
    width, height = CROP_WH
    images = np.lib.format.open_memmap(
        work / "pose_images.npy", mode="w+", dtype=np.uint8, shape=(count + len(extra["images"]), height, width, 3)
    )
    scales = np.zeros((count, 2), np.float32)
    for index, name in enumerate(names):
        crop = cv2.imread(str(source / "crops" / name))
        scales[index] = width / crop.shape[1], height / crop.shape[0]
        matrix = np.diag([*scales[index].tolist(), 0.0])[:2]
        images[index] = cv2.warpAffine(crop, matrix, CROP_WH, flags=cv2.INTER_LINEAR)
    images[count:] = extra["images"]
    images.flush()
    keypoints = labels["keypoints"].astype(np.float32)
    teacher = labels["teacher"].astype(np.float32)
    keypoints[..., :2] *= scales[:, None]
    teacher[..., :2] *= scales[:, None]
    np.savez(
        work / "pose_labels.npz",
        keypoints=np.concatenate([keypoints, extra["keypoints"]]),
        teacher=np.concatenate([teacher, extra["teacher"]]),
        boxes=np.concatenate([labels["box_xyxy"].astype(np.float32) * np.tile(scales, 2), extra["boxes"]]),
        source=np.concatenate([labels["source"], np.full(len(extra["images"]), SOFT)]),
    )
    print(f"packed {count} person crops and cut {len(extra['images'])} more")


def cut_persons(shared: Path, taken: set[int]) -> dict[str, np.ndarray]:
    """Return crops, ground truth, the stand-in network's keypoints and boxes of the pictures' persons not in `taken`."""
    source = shared / "data" / "person_boxes_train"
    document = json.loads((source / "persons.json").read_text())
    records = {record["id"]: record for record in document["images"]}
    persons = [p for p in document["annotations"] if p["id"] not in taken and p["num_keypoints"] >= MIN_JOINTS]
    width, height = CROP_WH
    found: dict[str, list[np.ndarray]] = {"images": [], "keypoints": [], "teacher": [], "boxes": []}
    with PoseEstimator(str(shared / "models" / "tinypose_coco17_256x192_simcc.onnx")) as stand_in:
        for person in persons:
            record = records[person["image_id"]]
            picture = cv2.imread(str(source / "images" / record["file_name"]))
            stretch = np.array([record["orig_width"], record["orig_height"]]) / 256
            corner, size = np.array(person["bbox"][:2]) * stretch, np.array(person["bbox"][2:]) * stretch
            scale = height / (ENLARGED * max(size[1], size[0] * height / width))
            linear = np.diag(scale * stretch)
            offset = np.array(CROP_WH) / 2 - scale * (corner + size / 2)
            crop = cv2.warpAffine(picture, np.hstack([linear, offset[:, None]]), CROP_WH, flags=cv2.INTER_LINEAR)
            box = np.concatenate([scale * corner + offset, scale * (corner + size) + offset]).astype(np.float32)
            points = np.array(person["keypoints"], np.float32).reshape(-1, 3)
            points[:, :2] = points[:, :2] @ linear + offset
            poses = stand_in.predict(crop, box[None])
            found["images"].append(crop)
            found["keypoints"].append(points)
            found["teacher"].append(np.column_stack([poses.keypoints[0], poses.keypoint_scores[0]]))
            found["boxes"].append(box)
    return {name: np.stack(values) for name, values in found.items()}


def pack_pictures(shared: Path, work: Path) -> None:
    """Write `pictures.npy` (N, 256, 256, 3) uint8 BGR, still squashed, their original sizes, and `picture_boxes.npz`.

    The latter holds the persons' boxes (M, 4) x0, y0, x1, y1 in squashed pixels and the picture (M,) each lies in.
    """
    source = shared / "data" / "person_boxes_train"
    document = json.loads((source / "persons.json").read_text())
    records = document["images"]
    rows = {record["id"]: row for row, record in enumerate(records)}
    boxes = np.array([person["bbox"] for person in document["annotations"]], np.float32)
    boxes[:, 2:] += boxes[:, :2]
    owners = np.array([rows[person["image_id"]] for person in document["annotations"]])
    np.savez(work / "picture_boxes.npz", boxes=boxes, pictures=owners)
    pictures = np.lib.format.open_memmap(
        work / "pictures.npy", mode="w+", dtype=np.uint8, shape=(len(records), 256, 256, 3)
    )
    for index, record in enumerate(records):
        pictures[index] = cv2.imread(str(source / "images" / record["file_name"]))
    pictures.flush()
    sizes = np.array([[record["orig_width"], record["orig_height"]] for record in records], np.float32)
    np.save(work / "picture_sizes.npy", sizes)
    print(f"packed {len(records)} pictures")


class PoseCrops:
    """Augmented person crops with one soft-label centre and weight per keypoint.

    Ground truth wins where it exists; where it is missing the stand-in network's keypoint is used at a lower weight. The
    clicks of Leeds are noisy and follow another convention than COCO's (against the stand-in network hips lie 1 % of the
    person's height higher and 2 % further out), so where that network is sure of a place near a click, its place is the
    label; the other clicks count half. A few crops show nobody, for detectors are wrong at times, and a network that
    never saw a wall finds shoulders in it.
    """

    def __init__(self, work: Path, *, coco_share: float = 0.7) -> None:
        self.images = np.load(work / "pose_images.npy", mmap_mode="r")
        labels = np.load(work / "pose_labels.npz")
        truth, teacher, self.boxes = labels["keypoints"], labels["teacher"], labels["boxes"]
        labelled = truth[..., 2] > 0
        taught = ~labelled & (teacher[..., 2] > TEACHER_SCORE_THRESHOLD)
        leeds = labels["source"] == LEEDS
        apart = np.linalg.norm(truth[..., :2] - teacher[..., :2], axis=-1)
        clicked = leeds[:, None] & labelled
        agreed = clicked & (teacher[..., 2] > SURE) & (apart < 0.1 * (self.boxes[:, 3:] - self.boxes[:, 1:2]))
        self.points = np.where((labelled & ~agreed)[..., None], truth[..., :2], teacher[..., :2])
        self.weights = (labelled + 0.5 * taught - 0.5 * (clicked & ~agreed)).astype(np.float32)
        coco = ~leeds
        self.probability = np.where(coco, coco_share / coco.sum(), (1 - coco_share) / (~coco).sum())
        self.pictures = np.load(work / "pictures.npy", mmap_mode="r")
        self.picture_sizes = np.load(work / "picture_sizes.npy")
        persons = np.load(work / "picture_boxes.npz")
        self.persons = [persons["boxes"][persons["pictures"] == row] for row in range(len(self.pictures))]

    def batch(
        self, rng: np.random.Generator, size: int, input_wh: tuple[int, int], strength: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return images (B, H, W, 3) uint8 BGR, keypoints (B, 17, 2) in input pixels and weights (B, 17).

        Args:
            rng: Source of all randomness.
            size: Samples in the batch.
            input_wh: Network input, pixels.
            strength: 0 gives the plain evaluation crop with a flip, 1 the full augmentation; a share of crops shows
                nobody at any strength.
        """
        width, height = input_wh
        chosen = rng.choice(len(self.boxes), size, p=self.probability)
        images = np.empty((size, height, width, 3), np.uint8)
        points = np.empty((size, 17, 2), np.float32)
        weights = np.empty((size, 17), np.float32)
        for row, index in enumerate(chosen):
            x0, y0, x1, y1 = self.boxes[index]
            edges = np.array([0.0, 0.0, *CROP_WH])
            kind = rng.random()
            if kind < 0.2 * strength:
                x0, y0, x1, y1 = self._half_body(index, rng)
            elif kind < 0.45 * strength:
                edges = self._picture_edges(index, rng)
                x0, y0 = np.maximum((x0, y0), edges[:2])
                x1, y1 = np.minimum((x1, y1), edges[2:])
            box_w, box_h = max(x1 - x0, 1.0), max(y1 - y0, 1.0)
            crop_w = PADDING * max(box_w, box_h * width / height)
            crop_w *= np.exp(strength * rng.normal(0, 0.15))
            shift = strength * rng.normal(0, 0.05, 2) * crop_w
            angle = strength * rng.normal(0, 20) if rng.random() < 0.5 else 0.0
            scale = width / crop_w
            cos, sin = scale * np.cos(np.deg2rad(angle)), scale * np.sin(np.deg2rad(angle))
            linear = np.array([[cos, -sin], [sin, cos]]) @ self._warp(rng, strength)
            order: list[int] | slice = slice(None)
            if rng.random() < 0.5:
                linear[0] *= -1
                order = FLIP_PAIRS
            centre = np.array([(x0 + x1) / 2 + shift[0], (y0 + y1) / 2 + shift[1]])
            offset = np.array([width / 2, height / 2]) - linear @ centre
            matrix = np.hstack([linear, offset[:, None]])
            left, top, right, bottom = edges.astype(int)
            part = self.images[index, top:bottom, left:right]
            matrix[:, 2] += linear @ (left, top)
            cv2.warpAffine(part, matrix, input_wh, dst=images[row], flags=cv2.INTER_LINEAR)
            points[row] = (self.points[index] @ linear.T + offset)[order]
            seen = ((self.points[index] >= edges[:2]) & (self.points[index] < edges[2:])).all(-1)
            weights[row] = (self.weights[index] * seen)[order]
            if rng.random() < EMPTY_SHARE and self._draw_nobody(rng, images[row]):
                weights[row] = 0
        cover(images, rng, strength)
        inside = ((points > -0.5) & (points < np.array(input_wh) - 0.5)).all(-1)
        return degrade(colour_jitter(images, rng, strength), rng, strength), points, weights * inside

    def _warp(self, rng: np.random.Generator, strength: float) -> np.ndarray:
        """Return a little shear and a change of the aspect: people of other builds, cameras at other angles."""
        stretch = np.exp(strength * rng.normal(0, 0.06))
        return np.array([[stretch, strength * rng.normal(0, 0.06)], [0.0, 1 / stretch]])

    def _draw_nobody(self, rng: np.random.Generator, out: np.ndarray) -> bool:
        """Fill a crop (H, W, 3) with a part of a picture where nobody is; say whether one was found."""
        height, width = out.shape[:2]
        index = rng.integers(len(self.pictures))
        squash = 256 / self.picture_sizes[index]
        persons = self.persons[index]
        for _ in range(8):
            tall = self.picture_sizes[index][1] * np.exp(rng.uniform(np.log(0.1), np.log(0.7)))
            size = np.array([tall * width / height, tall]) * squash
            corner = rng.random(2) * np.maximum(256 - size, 1)
            shared = (np.minimum(persons[:, 2:], corner + size) - np.maximum(persons[:, :2], corner)).clip(0).prod(1)
            own = (persons[:, 2:] - persons[:, :2]).prod(1)
            if (shared < 0.1 * np.minimum(own, size.prod())).all():
                scale = np.array([width, height]) / size
                matrix = np.hstack([np.diag(scale), (-scale * corner)[:, None]])
                cv2.warpAffine(self.pictures[index], matrix, (width, height), dst=out, flags=cv2.INTER_LINEAR)
                return True
        return False

    def _picture_edges(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """Return edges x0 y0 x1 y1 of a picture that ends somewhere on the person: below in most cases."""
        x0, y0, x1, y1 = self.boxes[index]
        edges = np.array([0.0, 0.0, *CROP_WH])
        share = rng.uniform(0.2, 0.9)
        side = rng.choice(4, p=(0.15, 0.1, 0.15, 0.6))
        if side < 2:
            edges[side] = (x1, y1)[side] - share * (x1 - x0, y1 - y0)[side]
        else:
            edges[side] = (x0, y0)[side - 2] + share * (x1 - x0, y1 - y0)[side - 2]
        return edges.round().clip(0, [*CROP_WH] * 2)

    def _half_body(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """Return a box around the joints above or below the hips, or the whole person where few are labelled.

        People who are cut off by the picture's edge or a table are as common as whole ones.
        """
        half = UPPER_BODY if rng.random() < 0.6 else ~UPPER_BODY
        points = self.points[index][half & (self.weights[index] > 0)]
        if len(points) < MIN_HALF_BODY_JOINTS:
            return self.boxes[index]
        low, high = points.min(0), points.max(0)
        centre, size = (low + high) / 2, np.maximum(1.2 * (high - low), 24)
        return np.concatenate([centre - size / 2, centre + size / 2])


class Pictures:
    """Whole pictures, stretched back and letterboxed at a random scale, for teaching the detector."""

    def __init__(self, work: Path) -> None:
        self.pictures = np.load(work / "pictures.npy")
        self.sizes = np.load(work / "picture_sizes.npy")
        persons = np.load(work / "picture_boxes.npz")
        self.persons = [persons["boxes"][persons["pictures"] == row] for row in range(len(self.pictures))]

    def batch(
        self, rng: np.random.Generator, size: int, input_wh: tuple[int, int], strength: float
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return images (B, H, W, 3) uint8 BGR and the annotated persons' boxes (N, 4) xyxy in input pixels.

        Strength 0 gives the runtime's letterbox with a flip.
        """
        width, height = input_wh
        images = np.empty((size, height, width, 3), np.uint8)
        boxes = []
        for row, index in enumerate(rng.integers(0, len(self.pictures), size)):
            original = self.sizes[index]
            scale = min(width / original[0], height / original[1])
            offset = np.zeros(2)
            if rng.random() < 0.6 * strength:
                scale *= np.exp(rng.uniform(-0.5, 0.8))
                free = np.array(input_wh) - original * scale
                offset = rng.random(2) * free
            stretch = original * scale / 256
            flip = rng.random() < 0.5
            picture = self.pictures[index]
            matrix = np.array([[stretch[0], 0, offset[0]], [0, stretch[1], offset[1]]])
            matrix[:, 2] += 0.5 * stretch - 0.5
            cv2.warpAffine(
                picture[:, ::-1] if flip else picture,
                matrix,
                input_wh,
                dst=images[row],
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=(114, 114, 114),
            )
            persons = self.persons[index]
            if flip:
                persons = np.column_stack([256 - persons[:, 2], persons[:, 1], 256 - persons[:, 0], persons[:, 3]])
            boxes.append((persons * np.tile(stretch, 2) + np.tile(offset, 2)).clip(0, [width, height] * 2))
        return colour_jitter(images, rng, strength), boxes


def cover(images: np.ndarray, rng: np.random.Generator, strength: float) -> None:
    """Cover parts of images (B, H, W, 3) in place: with one colour, or with a piece of another image of the batch."""
    size, height, width = images.shape[:3]
    sources = images.copy()
    for image in images:
        while rng.random() < 0.4 * strength:
            hole = (rng.uniform(0.1, 0.4, 2) * (width, height)).astype(int)
            left, top = (rng.random(2) * (np.array([width, height]) - hole)).astype(int)
            target = image[top : top + hole[1], left : left + hole[0]]
            if rng.random() < 0.3:
                target[:] = rng.integers(0, 256, 3)
            else:
                x, y = (rng.random(2) * (np.array([width, height]) - hole)).astype(int)
                target[:] = sources[rng.integers(size), y : y + hole[1], x : x + hole[0]]


def degrade(images: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Take the colours, the softness or the cleanness of some images (B, H, W, 3).

    Most crops of COCO come from pictures that had been squashed to 256 px and are soft, while the crops of use are cut
    out of whole pictures without a filter, sharp to the point of aliasing: a network that saw only soft ones gains by
    blurring what it is shown (AP 0.333 to 0.344 at a standard deviation of 0.6 px). So a third of them are sharpened.
    """
    height, width = images.shape[1:3]
    for image in images:
        kind = rng.random()
        if kind < 0.08 * strength:
            image[:] = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None]
        elif kind < 0.2 * strength:
            share = rng.uniform(0.3, 0.8)
            small = cv2.resize(image, (int(share * width), int(share * height)), interpolation=cv2.INTER_AREA)
            cv2.resize(small, (width, height), dst=image, interpolation=cv2.INTER_LINEAR)
        elif kind < 0.28 * strength:
            noise = rng.integers(-16, 17, image.shape, dtype=np.int8)
            cv2.add(image, noise, dst=image, dtype=cv2.CV_8U)
        elif kind < 0.6:
            amount = rng.uniform(0.3, 2.0)
            soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.6, 1.3))
            cv2.addWeighted(image, 1 + amount, soft, -amount, 0, dst=image)
    return images


def colour_jitter(images: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Change brightness, contrast and the balance of the channels, by one table look-up per channel."""
    if strength == 0:
        return images
    ramp = np.arange(256, dtype=np.float32)
    for image in images:
        gain = np.exp(strength * (rng.normal(0, 0.18) + rng.normal(0, 0.08, 3)))
        lift = strength * rng.normal(0, 12)
        table = np.clip((ramp[:, None] - 128) * gain + 128 + lift, 0, 255).astype(np.uint8)
        cv2.LUT(image, table[None], dst=image)
    return images


def prefetch(make: Callable[[], object], depth: int = 4) -> Iterator[object]:
    """Yield the results of `make` for ever, computed ahead in one background thread."""
    ready: queue.Queue[object] = queue.Queue(depth)

    def work() -> None:
        while True:
            ready.put(make())

    threading.Thread(target=work, daemon=True).start()
    while True:
        yield ready.get()


def main() -> None:
    """Pack both data sets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=CHECKOUT.parent / "shared")
    parser.add_argument("--work", type=Path, default=CHECKOUT.parent / "training")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    pack_pictures(options.shared, options.work)
    pack_pose(options.shared, options.work)


if __name__ == "__main__":
    main()
