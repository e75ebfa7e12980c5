"""The benchmark measures the same work everywhere and reports it; no test depends on how long anything took."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from rtmpose_infer.backends import CallableBackend, TensorSpec
from rtmpose_infer.backends.base import BackendInfo
from rtmpose_infer.benchmark import STAGES, BenchmarkConfig, run_benchmark, runner
from rtmpose_infer.benchmark.contestant import Contestant, RecordingBackend
from rtmpose_infer.benchmark.noise import Noise, NoiseMeter
from rtmpose_infer.benchmark.precision import actual_precision, check_precision, precision_options
from rtmpose_infer.benchmark.report import Ratio, Timing, ratio_of_groups, summarise
from rtmpose_infer.benchmark.runner import difference
from rtmpose_infer.benchmark.scene import Scene, sample_pictures
from rtmpose_infer.detector import PersonDetector
from rtmpose_infer.errors import InputError
from rtmpose_infer.geometry import iou_matrix
from rtmpose_infer.machine import Machine
from rtmpose_infer.model_spec import ModelSpec
from rtmpose_infer.workers import Answer

onnx = pytest.importorskip("onnx")
from tests.tiny_onnx import light_detector, light_pose, write  # noqa: E402

QUIET = Noise(foreign_share=0.0, stolen_share=0.0, clock_drift=1.0, throttlings=0)


class TestConfig:
    def test_backends_may_name_their_device(self):
        config = BenchmarkConfig(backends=("ort:cuda:1", "auto"), device="cpu")
        assert config.contestants == (("onnxruntime", "cuda:1"), ("auto", "cpu"))

    def test_scenarios_are_each_number_of_people_once_or_the_video(self, tmp_path):
        assert BenchmarkConfig(persons=(8, 1, 8)).scenarios == (1, 8)
        assert BenchmarkConfig(video=tmp_path / "a.mp4").scenarios == (None,)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"backends": ()}, "at least one"),
            ({"backends": ("ort", "onnxruntime")}, "twice"),
            ({"backends": ("tensorflow",)}, "unknown backend"),
            ({"frames": 0}, "frames must be at least 1"),
            ({"rounds": 0}, "rounds must be at least 1"),
            ({"frames": 3, "rounds": 4}, "3 frames cannot be shared out over 4 rounds"),
            ({"frames": 3, "rounds": 2, "starts": 3}, "2 rounds cannot be shared out over 3 starts"),
            ({"persons": ()}, "persons must be"),
            ({"persons": (0,)}, "persons must be"),
            ({"persons": (1000,)}, "persons must be"),
            ({"precision": "fp8"}, "precision must be one of"),
            ({"batch": 0}, "batch must be at least 1"),
            ({"frame_size_wh": (32, 32)}, "at least 64×64"),
        ],
    )
    def test_what_cannot_be_measured_is_refused(self, options, words):
        with pytest.raises(InputError, match=words):
            BenchmarkConfig(**options)

    def test_reports_name_files_without_their_folders(self, tmp_path):
        config = BenchmarkConfig(detector=str(tmp_path / "d.onnx"), video=tmp_path / "v.mp4")
        shown = json.loads(json.dumps(config.to_dict()))
        assert (shown["detector"], shown["video"]) == ("d.onnx", "v.mp4")
        assert config.load_request("ncnn", "cpu")["detector"] == str(tmp_path / "d.onnx")


class TestScene:
    @pytest.mark.parametrize("persons", [1, 2, 3, 4, 8, 16, 33, 64])
    @pytest.mark.parametrize("size", [(1280, 720), (360, 640)])
    def test_everyone_stays_in_the_frame_and_apart_from_the_others(self, persons, size):
        scene = Scene(persons, size)
        for scene.index in range(0, 200, 7):
            boxes = scene.bboxes()
            assert boxes.shape == (persons, 4)
            assert (boxes[:, :2] >= 0).all()
            assert (boxes[:, 2:] <= size).all()
            assert (iou_matrix(boxes, boxes) - np.eye(persons) < 0.3).all()

    def test_joints_belong_to_the_person_whose_box_it_is(self):
        scene = Scene(4, (640, 480))
        boxes = scene.bboxes()[[2, 0]] + 3
        joints = scene.keypoints(boxes, 17)
        assert joints.shape == (2, 17, 2)
        truth = scene.bboxes()[[2, 0]]
        assert (joints >= truth[:, None, :2]).all()
        assert (joints <= truth[:, None, 2:]).all()

    def test_people_move_and_frames_show_it(self):
        scene = Scene(2, (320, 240))
        first, boxes = scene.draw(), scene.bboxes()
        scene.index = 10
        assert scene.draw().shape == (240, 320, 3)
        assert (scene.draw() != first).any()
        assert (scene.bboxes() != boxes).any()

    def test_sample_pictures_know_where_their_people_are(self):
        for picture, boxes in sample_pictures(None):
            assert picture.dtype == np.uint8
            assert boxes is None or boxes.shape[1] == 4

    def test_without_scikit_image_the_made_up_scene_is_the_sample(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "skimage.data", None)
        ((picture, boxes),) = sample_pictures(None)
        assert picture.shape == (720, 1280, 3)
        assert len(boxes) > 1


class TestRecordingBackend:
    @pytest.fixture
    def seen(self):
        return []

    @pytest.fixture
    def backend(self, seen):
        def function(feeds):
            seen.append(feeds["x"].copy())
            return {"y": feeds["x"] * 2}

        spec = TensorSpec("x", (None, 2), np.dtype(np.float32))
        return CallableBackend(function, [spec], [replace(spec, name="y")])

    def test_calls_are_handed_on_and_can_be_made_again(self, backend, seen):
        recording = RecordingBackend(backend)
        inputs = [np.full((n, 2), n, np.float32) for n in (1, 3)]
        outputs = [recording.run({"x": x})["y"] for x in inputs]
        assert [y.tolist() for y in outputs] == [(2 * x).tolist() for x in inputs]
        assert recording.calls == 2
        assert recording.seconds > 0
        recording.repeat()
        assert [x.tolist() for x in seen] == [x.tolist() for x in inputs + inputs]
        recording.forget()
        assert (recording.calls, recording.seconds) == (0, 0.0)
        recording.repeat()
        assert len(seen) == 4

    @pytest.mark.parametrize(
        ("sizes", "largest", "expected"),
        [
            (None, None, None),
            (None, 3, (1, 2, 3)),
            ((1, 2, 4, 8), 4, (1, 2, 4)),
            ((8,), 4, (4,)),
            ((1, 4), None, (1, 4)),
        ],
    )
    def test_the_largest_batch_bounds_the_sizes_that_are_run(self, backend, sizes, largest, expected):
        backend.batch_sizes = sizes
        assert RecordingBackend(backend, largest_batch=largest).batch_sizes == expected


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("networks")
    detector = write(folder / "detector.onnx", light_detector())
    return [str(detector), str(write(folder / "pose.onnx", light_pose(decoded=True)))]


@pytest.fixture
def config(networks):
    return BenchmarkConfig(
        backends=("onnxruntime:cpu",),
        detector=networks[0],
        pose=networks[1],
        persons=(1, 3),
        frames=10,
        rounds=2,
        starts=2,
        warmup=1,
        threads=1,
        frame_size_wh=(320, 240),
    )


class TestContestant:
    @pytest.fixture
    def loaded(self, config, tmp_path):
        handler = Contestant()
        request = config.load_request("onnxruntime", "cpu") | {"cache_dir": str(tmp_path), "started": time.time()}
        self.facts = handler({"do": "load", **request})
        return handler

    def test_it_says_what_really_runs(self, loaded, networks):
        pose = json.loads(json.dumps(self.facts))["pose"]
        assert pose["model"] == "pose.onnx"
        assert (pose["runtime"], pose["device"], pose["threads"]) == ("onnxruntime", "cpu", 1)
        assert len(pose["sha256"]) == 64
        assert self.facts["seconds"]["total_s"] >= self.facts["seconds"]["load_s"] > 0

    @pytest.mark.parametrize("persons", [1, 3])
    def test_every_frame_tracks_everyone_in_one_call_and_detects_when_due(self, loaded, persons):
        measured = loaded({"do": "round", "persons": persons, "frames": 10, "warmup": 1})
        assert measured["people"] == [persons] * 10
        assert measured["pose_calls"] == [1] * 10
        # the warm-up took the first frame, on which the detector ran
        assert measured["detector_calls"] == [0, 0, 0, 0, 1] * 2
        assert set(measured["stages_s"]) <= set(STAGES)
        assert {"letterbox", "detect", "crop", "pose", "track", "smooth", "draw"} <= set(measured["stages_s"])
        assert [value is not None for value in measured["stages_s"]["detect"]] == [False] * 4 + [True] + [False] * 4 + [
            True
        ]
        json.dumps(measured)

    def test_the_stages_and_the_networks_make_up_the_frame(self, loaded):
        measured = loaded({"do": "round", "persons": 3, "frames": 20, "warmup": 1})
        tracking = set(measured["stages_s"]) - {"draw", "decode"}
        for i, latency in enumerate(measured["latency_s"]):
            parts = sum(measured["stages_s"][name][i] or 0.0 for name in tracking)
            assert 0 < measured["model_s"][i] < latency
            assert parts <= latency * 1.001

    def test_scenarios_take_turns_without_disturbing_each_other(self, loaded):
        for persons in (1, 3, 1, 3):
            assert set(loaded({"do": "round", "persons": persons, "frames": 3, "warmup": 0})["people"]) == {persons}

    def test_the_networks_own_answers_come_out_when_they_are_asked_for(self, loaded):
        loaded({"do": "round", "persons": 3, "frames": 1, "warmup": 0})
        own = loaded({"do": "predict", "bboxes": None})
        assert all(len(picture["detections"]) == 1 for picture in own)  # the light detector's one box
        again = loaded({"do": "predict", "bboxes": [picture["bboxes"] for picture in own]})
        assert again == own
        assert set(loaded({"do": "round", "persons": 3, "frames": 2, "warmup": 0})["people"]) == {3}

    def test_a_video_is_decoded_and_repeated(self, config, tmp_path):
        pytest.importorskip("av")
        from rtmpose_infer.video import open_writer

        path = tmp_path / "three.mp4"
        with open_writer(path, frame_rate=30.0) as writer:
            for i in range(3):
                writer.write(np.full((64, 96, 3), 128, np.uint8), timestamp_s=i / 30)
        handler = Contestant()
        request = replace(config, video=path).load_request("onnxruntime", "cpu")
        handler({"do": "load", **request, "cache_dir": str(tmp_path), "started": time.time()})
        measured = handler({"do": "round", "persons": None, "frames": 7, "warmup": 0})
        assert len(measured["stages_s"]["decode"]) == 7
        assert None not in measured["stages_s"]["decode"]

    def test_people_of_a_frame_can_be_split_into_smaller_calls(self, config, tmp_path):
        handler = Contestant()
        request = replace(config, batch=2).load_request("onnxruntime", "cpu")
        handler({"do": "load", **request, "cache_dir": str(tmp_path), "started": time.time()})
        measured = handler({"do": "round", "persons": 3, "frames": 3, "warmup": 1})
        assert measured["pose_calls"] == [2] * 3
        assert measured["people"] == [3] * 3

    def test_a_precision_that_the_file_does_not_have_is_refused(self, config, tmp_path):
        request = replace(config, precision="fp16").load_request("onnxruntime", "cpu")
        with pytest.raises(InputError, match="computes in fp32 on onnxruntime, not in fp16"):
            Contestant()({"do": "load", **request, "cache_dir": str(tmp_path), "started": time.time()})


class TestPrecision:
    def test_backends_that_can_be_told_are_told(self):
        assert precision_options("openvino", "fp16") == {"precision": "f16"}
        assert precision_options("onnxruntime", "fp16") == {}
        assert precision_options("openvino", None) == {}

    @pytest.fixture
    def network(self):
        """A detector whose file and whose backend say what they compute in."""

        def network(*, file, backend):
            class Saying(CallableBackend):
                def describe(self):
                    return BackendInfo(runtime="openvino", version="1", device="CPU", precision=backend)

            takes = TensorSpec("frames", (None, 64, 64, 3), np.dtype(np.uint8))
            spec = ModelSpec(
                task="detection", head="nms", input_size_wh=(64, 64), input_format="nhwc_uint8", precision=file
            )
            gives = [replace(takes, name="dets", shape=(None, 1, 5)), replace(takes, name="labels", shape=(None, 1))]
            return PersonDetector.from_backend(Saying(dict, [takes], gives), spec)

        return network

    @pytest.mark.parametrize(
        ("file", "backend", "actual"),
        [("fp16", "fp32", "fp32"), ("fp16", "", "fp16"), ("int8", "fp32", "int8"), ("fp32", "bf16", "bf16")],
    )
    def test_what_came_out_is_what_counts(self, network, file, backend, actual):
        made = network(file=file, backend=backend)
        assert actual_precision(made) == actual
        check_precision("detector", made, actual)
        check_precision("detector", made, None)
        other = "fp16" if actual != "fp16" else "int8"
        with pytest.raises(InputError, match=f"the detector computes in {actual} on openvino, not in {other}"):
            check_precision("detector", made, other)


class TestStatistics:
    def test_means_are_over_all_frames_and_percentiles_over_those_with_the_stage(self):
        timing = Timing.of([0.001, None, 0.003, None])
        assert timing.mean_ms == pytest.approx(1.0)
        assert timing.p50_ms == pytest.approx(2.0)
        assert timing.p95_ms == pytest.approx(2.9)
        assert timing.share_of_frames == 0.5

    def test_a_stage_that_never_ran_is_zero(self):
        assert Timing.of([None, None]) == Timing(0.0, 0.0, 0.0, 0.0, 0.0)

    def test_one_bad_moment_does_not_move_the_median_ratio(self):
        floor = [1.0] * 50
        frames = [1.1] * 50
        frames[7] = 100.0
        assert Ratio.of(ratio_of_groups(frames, floor, group=5)).median == pytest.approx(1.1)

    def test_groups_cover_every_frame(self):
        assert ratio_of_groups([1, 1, 1], [1, 1, 1], group=5) == [1.0]
        assert ratio_of_groups([2] * 7, [1] * 7, group=3) == [2.0, 2.0]

    def test_a_scenario_sums_up_its_rounds(self):
        def one(latency, frames):
            return {
                "stages_s": {
                    "pose": [latency / 2] * frames,
                    "draw": [0.01] * frames,
                    "detect": [0.02] + [None] * (frames - 1),
                },
                "latency_s": [latency] * frames,
                "model_s": [latency / 2] * frames,
                "floor_s": [latency / 2] * frames,
                "cpu_s": [latency] * frames,
                "people": [2] * frames,
                "detector_calls": [1] + [0] * (frames - 1),
                "pose_calls": [1] * frames,
            }

        scenario = summarise([one(0.01, 5), one(0.03, 5)], persons=2, group=5)
        assert scenario.frames == 10
        assert scenario.fps == pytest.approx(50)
        assert scenario.fps_with_media == pytest.approx(1 / 0.03)
        assert scenario.overhead.median == pytest.approx(2.0)
        assert scenario.detector_calls == pytest.approx(0.2)
        assert list(scenario.stages) == ["detect", "pose", "draw"]  # the order of a frame
        assert scenario.stages["detect"].mean_ms == pytest.approx(4.0)
        assert scenario.latencies_ms == [10.0] * 5 + [30.0] * 5

    def test_no_rounds_are_no_scenario(self):
        with pytest.raises(InputError):
            summarise([], persons=1, group=5)


class TestNoise:
    def account(self, path, *, user, idle, steal):
        path.write_text(f"cpu  {user} 0 0 {idle} 0 0 0 {steal} 0 0\ncpu0 1 2 3 4\n")

    def test_load_of_others_and_of_the_hypervisor_are_told_apart(self, tmp_path):
        import os

        tick = os.sysconf("SC_CLK_TCK")
        stat = tmp_path / "stat"
        self.account(stat, user=0, idle=0, steal=0)
        meter = NoiseMeter(proc_stat=stat, devices=tmp_path)
        self.account(stat, user=60 * tick, idle=30 * tick, steal=10 * tick)
        meter.add_own(35.0)
        noise = meter.noise()
        assert noise.foreign_share == pytest.approx(0.25, abs=0.02)
        assert noise.stolen_share == pytest.approx(0.1)
        assert "Other processes used 2" in noise.warnings()[0]
        assert "hypervisor took away 10%" in noise.warnings()[1]

    def test_heat_is_counted(self, tmp_path):
        counter = tmp_path / "cpu0" / "thermal_throttle" / "core_throttle_count"
        counter.parent.mkdir(parents=True)
        counter.write_text("3\n")
        meter = NoiseMeter(proc_stat=tmp_path / "absent", devices=tmp_path)
        counter.write_text("5\n")
        noise = meter.noise()
        assert noise.throttlings == 2
        assert "slowed down 2 times because of heat" in noise.warnings()[0]

    def test_a_changed_clock_is_told(self, tmp_path, monkeypatch):
        meter = NoiseMeter(proc_stat=tmp_path / "absent", devices=tmp_path)
        for seconds in (1.0, 1.25):
            monkeypatch.setattr("rtmpose_infer.benchmark.noise._fixed_work", lambda seconds=seconds: seconds)
            meter.check_clock()
        assert meter.noise().clock_drift == pytest.approx(1.25)
        assert "25% longer" in meter.noise().warnings()[0]

    def test_a_quiet_machine_and_an_unknown_one_give_no_warning(self):
        assert QUIET.warnings() == []
        assert Noise(foreign_share=None, stolen_share=None, clock_drift=1.0, throttlings=None).warnings() == []


class TestDifference:
    def picture(self, *, shift=0.0, scores=(0.9, 0.1), box=0.0):
        return {
            "bboxes": [[0, 0, 10, 10]],
            "keypoints": [[[1.0 + shift, 1.0], [5.0 + 100 * shift, 5.0]]],
            "scores": [list(scores)],
            "detections": [[0.0 + box, 0.0, 10.0, 10.0]],
            "detection_scores": [0.9],
        }

    def test_the_same_answers_differ_by_nothing(self):
        found = difference([self.picture()], [self.picture()])
        assert (found.keypoints, found.max_px, found.boxes, found.boxes_missing, found.max_box_px) == (
            1,
            0.0,
            1,
            0,
            0.0,
        )

    def test_only_joints_that_the_reference_is_sure_of_count(self):
        found = difference([self.picture()], [self.picture(shift=2.0, scores=(0.8, 0.1))])
        assert (found.keypoints, found.p99_px, found.max_px) == (1, pytest.approx(2.0), pytest.approx(2.0))
        assert found.max_score == pytest.approx(0.1)

    def test_boxes_are_found_or_missing(self):
        near = difference([self.picture()], [self.picture(box=1.0)])
        assert (near.boxes_missing, near.max_box_px) == (0, 1.0)
        far = difference([self.picture()], [self.picture(box=9.0)])
        assert (far.boxes_missing, far.max_box_px) == (1, 0.0)

    def test_nobody_is_no_difference(self):
        empty = {"bboxes": [], "keypoints": [], "scores": [], "detections": [], "detection_scores": []}
        assert difference([empty], [empty]).keypoints == 0


class FakeWorker:
    """Answers as a contestant's process does; ``world`` says who fails when, and keeps the order of requests."""

    world = None

    def __init__(self, target):
        self.backend = ""

    def call(self, request, *, timeout_s):
        if request["do"] == "load":
            self.backend = request["backend"]
        self.world["asked"].append((self.backend, request["do"]))
        failing = self.world["failing"].get((self.backend, request["do"]))
        if failing is not None:
            return failing
        return Answer(value=self.answers(request))

    def answers(self, request):
        slow = {"onnxruntime": 2.0}.get(self.backend, 1.0)
        if request["do"] == "load":
            starts = sum(what == (self.backend, "load") for what in self.world["asked"])
            seconds = {"import_s": 1.0, "load_s": 2.0 / starts, "first_frame_s": 0.5, "total_s": 1.5 + 2.0 / starts}
            network = {
                "model": "a.onnx", "sha256": "0" * 64, "bytes": 1, "input_size_wh": [48, 64], "precision": "fp32",
                "runtime": self.backend, "version": "1", "device": "cpu", "threads": 1, "details": {},
            }  # fmt: skip
            return {"seconds": seconds, "detector": network, "pose": network, "process_cpu_s": 0.0}
        if request["do"] == "predict":
            return [TestDifference().picture()]
        if request["do"] == "memory":
            return 1000
        n = request["frames"]
        return {
            "stages_s": {"pose": [0.01 * slow] * n}, "latency_s": [0.011 * slow] * n, "model_s": [0.01 * slow] * n,
            "floor_s": [0.01 * slow] * n, "cpu_s": [0.01] * n, "people": [request["persons"]] * n,
            "detector_calls": [0] * n, "pose_calls": [1] * n, "process_cpu_s": 0.1,
        }  # fmt: skip

    def close(self, *, kill=False):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class TestRunner:
    @pytest.fixture
    def world(self, monkeypatch):
        world = {"asked": [], "failing": {}}
        machine = Machine("Linux", "Some CPU", 2, 2.0, (), None, None, "", "3.11")
        monkeypatch.setattr(FakeWorker, "world", world)
        monkeypatch.setattr(runner, "Worker", FakeWorker)
        monkeypatch.setattr(runner, "describe_machine", lambda: machine)
        monkeypatch.setattr(runner.NoiseMeter, "noise", lambda self: QUIET)
        monkeypatch.setattr(runner.NoiseMeter, "check_clock", lambda self: None)
        return world

    def run(self, **options):
        backends = options.pop("backends", ("onnxruntime", "openvino"))
        return run_benchmark(BenchmarkConfig(backends=backends, persons=(2,), frames=40, rounds=4, starts=2, **options))

    def test_contestants_take_turns_and_each_begins_as_often(self, world):
        self.run()
        rounds = [who for who, what in world["asked"] if what == "round"]
        assert rounds == ["onnxruntime", "openvino", "openvino", "onnxruntime"] * 2

    def test_each_is_started_anew_for_its_share_of_the_rounds(self, world):
        report = self.run()
        first = report.contestants[0]
        # and once more as the reference, which is ONNX Runtime's first process after the contestants' own
        assert [w for w, what in world["asked"] if what == "load"].count("openvino") == 2
        assert first.cold.total_s > first.warm.total_s
        assert first.scenarios[0].frames == 40

    def test_speed_ups_are_over_the_first_backend(self, world):
        (comparison,) = self.run().comparisons
        assert (comparison.backend, comparison.against, comparison.persons) == ("openvino", "onnxruntime", 2)
        assert comparison.speedup.median == pytest.approx(2.0)
        assert comparison.speedup.count == 4

    def test_overhead_is_over_the_networks_alone(self, world):
        assert self.run().contestants[0].scenarios[0].overhead.median == pytest.approx(1.1)

    @pytest.mark.parametrize("when", ["load", "predict", "round", "memory"])
    def test_who_fails_is_out_with_the_reason_and_the_others_go_on(self, world, when):
        world["failing"][("openvino", when)] = Answer(
            failure="OpenVINO is not installed: pip install 'rtmpose-infer[openvino]'.",
            kind="raised",
            error_type="BackendUnavailableError",
        )
        report = self.run()
        assert not report.ok
        assert "rtmpose-infer[openvino]" in report.contestants[1].failure
        assert report.contestants[0].failure == ""
        assert report.contestants[0].scenarios[0].frames == 40

    def test_a_crash_tells_what_the_process_said_last(self, world):
        world["failing"][("openvino", "round")] = Answer(
            failure="the process was ended by SIGSEGV", kind="crashed", log="driver exploded"
        )
        assert "SIGSEGV. It said: driver exploded" in self.run().contestants[1].failure

    def test_without_a_reference_the_answers_are_not_compared_and_the_report_says_so(self, world):
        world["failing"][("onnxruntime", "load")] = Answer(failure="not installed", kind="raised")
        report = self.run(backends=("openvino",))
        assert report.contestants[0].difference is None
        assert "not compared with ONNX Runtime" in report.warnings[0]

    def test_a_scene_that_was_not_tracked_whole_is_doubted(self, world, monkeypatch):
        answers = FakeWorker.answers

        def losing(self, request):
            answer = answers(self, request)
            return answer | {"people": [1] * request["frames"]} if request["do"] == "round" else answer

        monkeypatch.setattr(FakeWorker, "answers", losing)
        assert "1.00 people were tracked where the scene shows 2" in self.run().warnings[0]

    def test_where_nothing_was_measured_no_noise_is_complained_of(self, world, monkeypatch):
        loud = Noise(0.9, 0.5, 2.0, 3)
        monkeypatch.setattr(runner.NoiseMeter, "noise", lambda self: loud)
        assert self.run().warnings == loud.warnings()
        for backend in ("onnxruntime", "openvino"):
            world["failing"][(backend, "round")] = Answer(failure="device lost", kind="raised")
        assert self.run().warnings == []

    def test_progress_runs_from_start_to_done(self, world):
        told = []
        run_benchmark(
            BenchmarkConfig(backends=("openvino",), persons=(1,), frames=4, rounds=2, starts=2),
            progress=lambda text, share: told.append((text, share)),
        )
        shares = [share for _, share in told]
        assert shares == sorted(shares)
        assert told[-1] == ("done", 1.0)

    def test_the_report_is_json(self, world):
        data = json.loads(json.dumps(self.run().to_dict()))
        assert data["contestants"][0]["scenarios"][0]["fps"] == pytest.approx(1 / 0.022)
