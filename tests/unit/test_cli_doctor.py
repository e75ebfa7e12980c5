"""`rtmpose doctor` prints what was found and leaves the verdict in the exit code."""

from __future__ import annotations

import json

import pytest

typer = pytest.importorskip("typer")
pytest.importorskip("rich")

from typer.testing import CliRunner  # noqa: E402

from rtmpose_infer.cli import doctor as command  # noqa: E402
from rtmpose_infer.doctor import Examination, Finding  # noqa: E402
from rtmpose_infer.errors import InputError  # noqa: E402
from rtmpose_infer.machine import Machine  # noqa: E402

MACHINE = Machine("Linux", "Some CPU", 8, 8.0, (), None, None, "", "3.11")
FINE = Finding("onnxruntime:cpu", "ok", "answers on cpu")
WARNING = Finding("opencv", "warning", "two flavours", "pip uninstall -y opencv-python")
ERROR = Finding("cache", "error", "the cache is a file", "set RTMPOSE_INFER_CACHE")


@pytest.fixture
def run(monkeypatch):
    def run(findings, *arguments):
        def examine(*, require):
            run.required = list(require)
            return Examination(tuple(findings), MACHINE, {"numpy": "2.0"})

        monkeypatch.setattr(command, "examine", examine)
        app = typer.Typer()
        app.command()(command.doctor)
        return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "120"})

    return run


def test_findings_are_printed_with_their_fixes(run):
    result = run([FINE, ERROR])
    assert result.exit_code == 1
    assert "answers on cpu" in result.output
    assert "→ set RTMPOSE_INFER_CACHE" in result.output
    assert "1 error." in result.output


@pytest.mark.parametrize(
    ("findings", "arguments", "code"),
    [([FINE], [], 0), ([FINE, WARNING], [], 0), ([FINE, WARNING], ["--strict"], 1), ([ERROR], [], 1)],
)
def test_the_exit_code_is_the_verdict(run, findings, arguments, code):
    assert run(findings, *arguments).exit_code == code
    assert run(findings, *arguments, "--json").exit_code == code


def test_json_is_nothing_but_json(run):
    data = json.loads(run([FINE, WARNING], "--json").stdout)
    assert data["healthy"] is True
    assert data["findings"][1]["fix"] == "pip uninstall -y opencv-python"
    assert data["machine"]["cpu"] == "Some CPU"


def test_required_backends_are_handed_on(run):
    run([FINE], "--require", "openvino", "--require", "onnxruntime:cuda")
    assert run.required == ["openvino", "onnxruntime:cuda"]


def test_an_unknown_backend_is_a_usage_error(run, monkeypatch):
    run([FINE])

    def examine(*, require):
        raise InputError("unknown backend 'x'; known are auto, onnxruntime.")

    monkeypatch.setattr(command, "examine", examine)
    app = typer.Typer()
    app.command()(command.doctor)
    result = CliRunner().invoke(app, ["--require", "x"])
    assert result.exit_code == 2
    assert "unknown backend 'x'" in result.output
