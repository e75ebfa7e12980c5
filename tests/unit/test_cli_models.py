"""``rtmpose models``: what it prints, where, and with which exit code."""

from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rtmpose_infer import zoo
from rtmpose_infer.cli.models import app

NETWORK = b"network " * 100
# Before click 8.2 the runner mixes standard error into the output unless it is told not to.
APART = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
ENTRY = """
[[model]]
name = "{name}"
task = "{task}"
family = "rtmpose"
about = "people"
input_size_wh = [192, 256]
training_data = "none"
licence = "Apache-2.0"
source = "a page"
metrics = [{{ name = "AP", value = 71.5, dataset = "COCO" }}]
{rest}
"""


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo of two models without a network; files get in by hand."""
    sha256 = hashlib.sha256(NETWORK).hexdigest()
    path = tmp_path / "manifest.toml"
    path.write_text(
        "schema = 1\n"
        + ENTRY.format(
            name="finder",
            task="detection",
            rest=f'onnx = {{ url = "https://models.invalid/finder.onnx", sha256 = "{sha256}" }}',
        )
        + ENTRY.format(
            name="poser",
            task="pose",
            rest='skeleton = "coco17"\naliases = ["old-poser"]\npth = { url = "https://models.invalid/poser.pth" }',
        )
    )
    monkeypatch.setattr(zoo, "manifest_path", lambda: path)
    monkeypatch.setenv("RTMPOSE_INFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RTMPOSE_INFER_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "200")
    place = tmp_path / "cache" / "models" / "by-hand"
    place.mkdir(parents=True)
    return place


def run(*args: str) -> Result:
    return CliRunner(**APART).invoke(app, list(args))


def test_list_shows_each_model_and_what_is_here(offline: Path) -> None:
    (offline / "finder.onnx").write_bytes(NETWORK)
    run("fetch", "finder")
    result = run("list")
    assert result.exit_code == 0
    header, finder, poser = result.stdout.strip().splitlines()
    assert header.split() == ["name", "finds", "input", "published", "figure", "files", "here"]
    assert finder.split() == ["finder", "people", "192x256", "AP", "71.5", "(COCO)", "onnx", "onnx"]
    assert poser.split()[-1] == "pth"


def test_list_of_one_task() -> None:
    assert "finder" not in run("list", "--task", "pose").stdout
    result = run("list", "--task", "dance")
    assert result.exit_code == 1
    assert "unknown task 'dance'" in result.stderr


def test_list_as_json_has_all_that_is_known() -> None:
    finder, poser = json.loads(run("list", "--json").stdout)
    assert finder["input_size_wh"] == [192, 256]
    assert finder["files"]["onnx"]["sha256"] == hashlib.sha256(NETWORK).hexdigest()
    assert finder["files"]["onnx"]["here"] is False
    assert poser["metrics"] == [{"name": "AP", "value": 71.5, "dataset": "COCO"}]
    assert poser["aliases"] == ["old-poser"]


def test_fetch_prints_the_path_alone_on_standard_output(offline: Path) -> None:
    (offline / "finder.onnx").write_bytes(NETWORK)
    (offline / "poser.pth").write_bytes(b"checkpoint")
    result = run("fetch", "finder", "old-poser")
    assert result.exit_code == 0
    finder, poser = result.stdout.splitlines()
    assert Path(finder).read_bytes() == NETWORK
    assert Path(poser).read_bytes() == b"checkpoint"


def test_fetch_of_something_that_cannot_be_had_is_one_line_and_code_1() -> None:
    result = run("fetch", "finder")
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: finder is not on this machine")


def test_fetch_of_a_kind_that_does_not_exist_names_those_that_do() -> None:
    result = run("fetch", "finder", "--format", "pth")
    assert result.exit_code == 1
    assert "it has onnx" in result.stderr


def test_path_prints_what_is_here_and_fetches_nothing(offline: Path) -> None:
    result = run("path", "finder")
    assert result.exit_code == 1
    assert "rtmpose models fetch finder" in result.stderr
    (offline / "finder.onnx").write_bytes(NETWORK)
    fetched = run("fetch", "finder").stdout
    assert run("path", "finder").stdout == fetched


def test_an_unknown_name_is_answered_with_similar_ones() -> None:
    result = run("path", "fnder")
    assert result.exit_code == 1
    assert "Did you mean finder?" in result.stderr


def test_verify_looks_at_everything_that_is_here(offline: Path) -> None:
    assert "no model" in run("verify").stderr
    (offline / "finder.onnx").write_bytes(NETWORK)
    path = run("fetch", "finder").stdout.strip()
    result = run("verify")
    assert result.exit_code == 0
    assert result.stdout.split() == ["ok", "finder", "onnx", path]


def test_verify_says_when_a_model_that_was_named_is_not_here() -> None:
    result = run("verify", "poser")
    assert result.exit_code == 0
    assert result.stdout.split() == ["not", "here", "poser", "pth"]


def test_verify_ends_with_code_1_where_a_file_is_damaged(offline: Path) -> None:
    (offline / "finder.onnx").write_bytes(NETWORK)
    path = Path(run("fetch", "finder").stdout.strip())
    path.write_bytes(b"x")
    result = run("verify")
    assert result.exit_code == 1
    assert result.stdout.split()[0] == "damaged"
    assert "is damaged: expected sha256" in result.stderr
