"""`rtmpose-bench` turns options into a benchmark, and its report into a table, JSON and a page."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

typer = pytest.importorskip("typer")
pytest.importorskip("rich")

from typer.testing import CliRunner  # noqa: E402

from rtmpose_infer.benchmark import ContestantReport  # noqa: E402
from rtmpose_infer.cli import bench as command  # noqa: E402
from tests.unit.test_benchmark_page import make_report  # noqa: E402


@pytest.fixture
def run(monkeypatch):
    def run(*arguments, report=None):
        def measure(config, *, progress):
            run.config = config
            progress("round 1 of 1", 0.5)
            return report or make_report()

        run.config = None
        monkeypatch.setattr(command, "run_benchmark", measure)
        app = typer.Typer()
        app.command()(command.bench)
        return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100"})

    return run


def test_figures_stages_and_warnings_are_printed(run):
    result = run()
    assert result.exit_code == 0, result.output
    for words in ("FPS", "onnxruntime", "overhead", "letterbox", "1.20×", "Trust the ratios", "128 MiB"):
        assert words in result.output
    assert "Stages with 8 people, p50 / p95 / p99 ms\n" in result.output


def test_one_backend_is_faster_than_nobody(run):
    alone = make_report(backends=("onnxruntime",), persons=(1,))
    output = run(report=alone).output
    assert "speed-up" not in output
    assert "Stages with 1 person," in output


def test_options_become_the_configuration(run, tmp_path):
    video = tmp_path / "a.mp4"
    video.touch()
    run(
        *("--compare", "ort, openvino:gpu", "--device", "cpu", "--detector", "d.onnx", "--pose", "p.onnx"),
        *("--frames", "50", "--video", str(video), "--batch", "4", "--det-interval", "auto"),
        *("--threads", "3", "--precision", "fp16", "--warmup", "0", "--rounds", "10", "--starts", "2"),
    )
    config = run.config
    assert config.contestants == (("onnxruntime", "cpu"), ("openvino", "gpu"))
    assert (config.detector, config.pose, config.frames) == ("d.onnx", "p.onnx", 50)
    assert (config.video, config.batch, config.det_interval, config.threads) == (video, 4, "auto", 3)
    assert (config.precision, config.warmup, config.rounds, config.starts) == ("fp16", 0, 10, 2)
    run("--persons", "2,16")
    assert run.config.persons == (2, 16)


def test_what_cannot_be_measured_is_refused_before_anything_is_loaded(run, tmp_path):
    video = tmp_path / "a.mp4"
    video.touch()
    for arguments, words in (
        (["--det-interval", "0"], "--det-interval"),
        (["--video", str(video), "--persons", "3"], "--persons"),
        (["--video", str(video), "--json", str(video)], "is an input already"),
        (["--json", str(tmp_path / "a"), "--html", str(tmp_path / "a")], "--html"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        assert words in result.output
        assert run.config is None


@pytest.mark.parametrize(
    ("arguments", "backends"),
    [
        ([], ("auto",)),
        (["--backend", "trt"], ("trt",)),
        (["--compare", "ort,ov"], ("ort", "ov")),
        (["--backend", "ort", "--compare", "ov,ncnn"], ("ort", "ov", "ncnn")),
        (["--backend", "ort", "--compare", "ort,ov"], ("ort", "ov")),
    ],
)
def test_backends_to_compare_are_collected(run, arguments, backends):
    run(*arguments)
    assert run.config.backends == backends


def test_few_frames_need_no_further_options(run):
    run("--frames", "2")
    assert (run.config.frames, run.config.rounds, run.config.starts) == (2, 2, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backend", "tensorflow"], "unknown backend 'tensorflow'"),
        (["--persons", "many"], "'many' is no whole number"),
        (["--det-interval", "often"], "or 'auto', got 'often'"),
        (["--persons", "0"], "persons must be"),
        (["--video", "/nowhere.mp4"], "does not exist"),
    ],
)
def test_what_cannot_be_measured_is_a_usage_error(run, arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.output.replace("│", " ").split())


def test_the_report_is_written_as_json_and_as_a_page(run, tmp_path):
    result = run("--json", str(tmp_path / "out.json"), "--html", str(tmp_path / "out.html"))
    assert result.exit_code == 0
    data = json.loads((tmp_path / "out.json").read_text())
    assert data["contestants"][0]["scenarios"][0]["persons"] == 1
    assert data["machine"]["cpu"] == "Some CPU"
    assert "<svg" in (tmp_path / "out.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_folder_that_is_not_there_is_told_before_anything_is_measured(run, tmp_path, option):
    result = run(option, str(tmp_path / "absent" / "out"))
    assert result.exit_code == 2
    assert run.config is None
    assert "there is no folder" in result.output


def test_a_file_that_cannot_be_written_is_told_after_the_table(run, tmp_path, monkeypatch):
    whole = command.Path.write_text

    def full(path, *text, **more):
        if path.suffix == ".json":
            raise OSError(28, "No space left on device")
        return whole(path, *text, **more)

    monkeypatch.setattr(command.Path, "write_text", full)
    result = run("--json", str(tmp_path / "out.json"), "--html", str(tmp_path / "out.html"))
    assert result.exit_code == 1
    assert "FPS" in result.output
    assert "out.json: cannot be written: No space left on device" in " ".join(result.output.split())
    assert (tmp_path / "out.html").exists()  # the other one is not lost with it


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_file_without_permission_is_told_before_anything_is_measured(run, tmp_path, monkeypatch, option):
    monkeypatch.setattr(command.os, "access", lambda path, _: path != tmp_path)
    result = run(option, str(tmp_path / "out"))
    assert (result.exit_code, run.config) == (2, None)
    assert "no permission" in result.output


def test_the_short_name_of_help_is_known_to_both_scripts(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["rtmpose-bench", "-h"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 0
    assert "--det-interval" in capsys.readouterr().out


def test_a_backend_that_failed_is_told_and_decides_the_exit_code(run):
    report = make_report()
    failed = ContestantReport(backend="tensorrt", failure="install it: pip install 'rtmpose-infer[tensorrt]'")
    result = run(report=replace(report, contestants=[*report.contestants, failed]))
    assert result.exit_code == 1
    assert "rtmpose-infer[tensorrt]" in result.output
    only = run(report=replace(report, contestants=[failed], comparisons=[]))
    assert only.exit_code == 1
    assert "rtmpose-infer[tensorrt]" in only.output
