"""Leads the contestants through the benchmark: all start, all take turns, and all over again in new processes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmpose_infer.benchmark.noise import NoiseMeter
from rtmpose_infer.benchmark.report import (
    Comparison,
    ContestantReport,
    Difference,
    Network,
    Ratio,
    Report,
    Start,
    summarise,
)
from rtmpose_infer.geometry import iou_matrix
from rtmpose_infer.machine import describe_machine, git_revision, installed_versions
from rtmpose_infer.version import __version__
from rtmpose_infer.workers import Answer, Worker

if TYPE_CHECKING:
    from rtmpose_infer.benchmark.config import BenchmarkConfig

__all__ = ["Progress", "run_benchmark"]

Progress = Callable[[str, float], None]
Json = dict[str, Any]

_TARGET = "rtmpose_infer.benchmark.contestant:Contestant"
_LOAD_TIMEOUT_S = 900.0  # an engine may have to be built
_ROUND_TIMEOUT_S = 1800.0
_SURE = 0.3
_SAME_BOX = 0.5
_AUTO_GROUP = 10
_REFERENCE = ("onnxruntime", "cpu")


def run_benchmark(config: BenchmarkConfig, *, progress: Progress | None = None) -> Report:
    """Measure, and return the report. A backend that fails is reported with its reason; the others go on.

    Args:
        config: What to measure.
        progress: Is told what happens now, and how much of the whole is done (0 to 1).

    Raises:
        InputError: The configuration names an unknown backend.
    """
    tell = progress or _silent
    machine, versions = describe_machine(), installed_versions()
    entrants = [_Entrant(backend, device) for backend, device in config.contestants]
    meter = NoiseMeter()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        missing_reference = _run_all(config, entrants, Path(folder), meter, tell)
    noise = meter.noise()
    reports = [entrant.report(config) for entrant in entrants]
    warnings = [*([missing_reference] if missing_reference else []), *_doubts(config, reports)]
    if any(report.scenarios for report in reports):
        warnings = [*noise.warnings(), *warnings]
    tell("done", 1.0)
    return Report(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        package_version=__version__,
        git_revision=git_revision(),
        config=config.to_dict(),
        machine=machine,
        versions=versions,
        contestants=reports,
        comparisons=list(_comparisons(config, entrants)),
        noise=noise,
        warnings=warnings,
    )


class _Entrant:
    """A contestant: its process of the moment, and what all its processes have answered so far."""

    def __init__(self, backend: str, device: str) -> None:
        self.backend = backend
        self.device = device
        self.label = backend if device == "auto" else f"{backend}:{device}"
        self.failure = ""
        self.difference: Difference | None = None
        self.rounds: dict[int | None, list[Json]] = {}
        self._worker: Worker | None = None
        self._loaded: Json = {}
        self._starts: list[Start] = []
        self._memory: list[int] = []

    def start(self, config: BenchmarkConfig, cache: Path) -> float:
        """Start a new process and load the networks in it; return the processor time of that."""
        if self.failure:
            return 0.0
        request = {"do": "load", **config.load_request(self.backend, self.device)}
        request |= {"cache_dir": str(cache), "started": time.time()}
        self._worker = Worker(_TARGET)
        loaded = self.ask(request, _LOAD_TIMEOUT_S)
        if loaded is None:
            return 0.0
        cpu_s: float = loaded.pop("process_cpu_s")
        self._starts.append(Start(**loaded.pop("seconds")))
        self._loaded = loaded
        return cpu_s

    def ask(self, request: Json, timeout_s: float) -> Any:
        """Return the answer, or None after noting why there is none; then the contestant is out."""
        if self._worker is None:
            return None
        answer = self._worker.call(request, timeout_s=timeout_s)
        if not answer.ok:
            self.failure = _reason(answer)
            self._worker.close(kill=True)
            self._worker = None
        return answer.value

    def end(self) -> None:
        """Note the memory peak and end the process."""
        if self._worker is not None:
            if (peak := self.ask({"do": "memory"}, _LOAD_TIMEOUT_S)) is not None:
                self._memory.append(peak)
            self.abandon()

    def abandon(self) -> None:
        """End the process, whatever it is doing."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close(kill=True)

    def report(self, config: BenchmarkConfig) -> ContestantReport:
        """Return what there is to say."""
        group = config.det_interval if isinstance(config.det_interval, int) else _AUTO_GROUP
        warm = sorted(self._starts[1:], key=lambda start: start.total_s)
        return ContestantReport(
            backend=self.label,
            failure=self.failure,
            detector=Network(**self._loaded["detector"]) if self._loaded else None,
            pose=Network(**self._loaded["pose"]) if self._loaded else None,
            cold=self._starts[0] if self._starts else None,
            warm=warm[len(warm) // 2] if warm else None,
            peak_memory_bytes=max(self._memory, default=None),
            difference=self.difference,
            scenarios=[
                summarise(rounds, persons=persons, group=group) for persons, rounds in self.rounds.items() if rounds
            ],
        )


def _run_all(
    config: BenchmarkConfig, entrants: Sequence[_Entrant], folder: Path, meter: NoiseMeter, tell: Progress
) -> str:
    """Start everybody several times and measure; return why the answers were not compared, if they were not.

    On a busy machine the kernel may place the threads of one process well for as long as it runs, which then is steadily
    faster than another one like it. So each contestant is measured in several processes, one after the other.
    """
    problem = ""
    try:
        for number in range(config.starts):
            for place, entrant in enumerate(entrants):
                tell(f"starting {entrant.label}", number / config.starts)
                meter.add_own(entrant.start(config, folder / str(place)))
            if number == 0:
                tell("comparing the answers", 0.0)
                problem = _compare_answers(config, entrants, folder / "reference")
            _take_turns(config, entrants, number, meter, tell)
            for entrant in entrants:
                entrant.end()
    finally:
        for entrant in entrants:
            entrant.abandon()
    return problem


def _take_turns(
    config: BenchmarkConfig, entrants: Sequence[_Entrant], start: int, meter: NoiseMeter, tell: Progress
) -> None:
    """Measure the rounds that belong to one start of the contestants."""
    for number in range(config.rounds * start // config.starts, config.rounds * (start + 1) // config.starts):
        frames = config.frames * (number + 1) // config.rounds - config.frames * number // config.rounds
        tell(f"round {number + 1} of {config.rounds}", number / config.rounds)
        for persons in config.scenarios:
            request = {"do": "round", "persons": persons, "frames": frames, "warmup": config.warmup}
            # Every contestant comes first as often as last.
            turn = number % len(entrants)
            for entrant in [*entrants[turn:], *entrants[:turn]]:
                meter.check_clock()
                answer = entrant.ask(request, _ROUND_TIMEOUT_S)
                if answer is not None:
                    meter.add_own(answer.pop("process_cpu_s"))
                    entrant.rounds.setdefault(persons, []).append(answer)
    meter.check_clock()


def _compare_answers(config: BenchmarkConfig, entrants: Sequence[_Entrant], cache: Path) -> str:
    """Let all networks answer on the same pictures; return why not, where that cannot be done."""
    with Worker(_TARGET) as worker:
        request: Json = {
            "do": "load",
            **config.load_request(*_REFERENCE),
            "cache_dir": str(cache),
            "started": time.time(),
        }
        request |= {"precision": None, "batch": None}
        answer = worker.call(request, timeout_s=_LOAD_TIMEOUT_S)
        if answer.ok:
            answer = worker.call({"do": "predict", "bboxes": None}, timeout_s=_LOAD_TIMEOUT_S)
    if not answer.ok:
        return f"The answers were not compared with ONNX Runtime's on the CPU: {_reason(answer)}"
    bboxes = [picture["bboxes"] for picture in answer.value]
    for entrant in entrants:
        found = entrant.ask({"do": "predict", "bboxes": bboxes}, _LOAD_TIMEOUT_S)
        if found is not None:
            entrant.difference = difference(answer.value, found)
    return ""


def difference(reference: Sequence[Json], found: Sequence[Json]) -> Difference:
    """Return how far the answers on the same pictures and boxes are apart."""
    distances: list[float] = []
    scores: list[float] = [0.0]
    edges: list[float] = [0.0]
    boxes = missing = 0
    for ours, theirs in zip(found, reference, strict=True):
        sure = np.array(theirs["scores"]) >= _SURE
        if sure.size:
            apart = np.linalg.norm(np.array(ours["keypoints"]) - np.array(theirs["keypoints"]), axis=-1)
            distances += apart[sure].tolist()
            scores.append(float(np.abs(np.array(ours["scores"]) - np.array(theirs["scores"])).max()))
        wanted = np.array(theirs["detections"], np.float32).reshape(-1, 4)
        wanted = wanted[np.array(theirs["detection_scores"], np.float32) > _SURE]
        offered = np.array(ours["detections"], np.float32).reshape(-1, 4)
        overlap = np.concatenate([iou_matrix(wanted, offered), np.zeros((len(wanted), 1), np.float32)], axis=1)
        near = overlap.max(axis=1) > _SAME_BOX
        boxes += len(wanted)
        missing += int(np.count_nonzero(~near))
        if near.any():
            edges.append(float(np.abs(offered[overlap.argmax(axis=1)[near]] - wanted[near]).max()))
    return Difference(
        keypoints=len(distances),
        median_px=float(np.median(distances)) if distances else 0.0,
        p99_px=float(np.percentile(distances, 99)) if distances else 0.0,
        max_px=max(distances, default=0.0),
        max_score=max(scores),
        boxes=boxes,
        boxes_missing=missing,
        max_box_px=max(edges),
    )


def _comparisons(config: BenchmarkConfig, entrants: Sequence[_Entrant]) -> Iterator[Comparison]:
    first, *others = entrants
    for other in others:
        for persons in config.scenarios:
            pairs = list(zip(first.rounds.get(persons, ()), other.rounds.get(persons, ()), strict=False))
            ratios = [float(np.median(a["latency_s"]) / np.median(b["latency_s"])) for a, b in pairs]
            if ratios:
                yield Comparison(other.label, first.label, persons, Ratio.of(ratios))


def _doubts(config: BenchmarkConfig, reports: Sequence[ContestantReport]) -> Iterator[str]:
    for report in reports:
        compared = report.difference
        if compared is not None and not compared.keypoints:
            yield f"{report.backend}: no joint was sure enough to compare its place with ONNX Runtime's."
        for scenario in report.scenarios:
            if scenario.persons is not None and abs(scenario.people - scenario.persons) > 0.01 * scenario.persons:
                yield (
                    f"{report.backend}: {scenario.people:.2f} people were tracked where the scene shows "
                    f"{scenario.persons}."
                )
        if report.pose is not None and config.threads is not None and report.pose.threads not in {None, config.threads}:
            yield f"{report.backend} runs with {report.pose.threads} threads; {config.threads} were asked for."


def _silent(text: str, share: float) -> None:
    """Tell nobody."""


def _reason(answer: Answer) -> str:
    words = answer.failure if not answer.error_type.endswith("Error") else f"{answer.error_type}: {answer.failure}"
    return words if answer.kind == "raised" or not answer.log else f"{words}. It said: {answer.log[-500:]}"
