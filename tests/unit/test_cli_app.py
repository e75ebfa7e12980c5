"""What all commands share."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

pytest.importorskip("typer", reason="the commands need typer")

from typer.testing import CliRunner

from rtmpose_infer.cli.app import app
from rtmpose_infer.version import __version__


@pytest.mark.parametrize("options", [[], ["-v"], ["-vv"]])
def test_a_command_leaves_the_programs_logging_as_it_was(options, caplog):
    caplog.set_level(logging.ERROR, logger="rtmpose_infer")
    assert CliRunner().invoke(app, [*options, "models", "list", "--json"]).exit_code == 0
    assert logging.getLogger("rtmpose_infer").level == logging.ERROR


def test_the_version_is_told():
    assert CliRunner().invoke(app, ["--version"]).output.strip() == f"rtmpose-infer {__version__}"


def printed(*arguments: str, **environment: str) -> bytes:
    program = f"import sys; from rtmpose_infer.cli import main; sys.argv[1:] = {arguments}; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True, check=False
    )
    assert b"Traceback" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_the_output_cannot_hold_are_replaced(encoding):
    assert b"rtsp://, http://, ?" in printed("track", "--help", COLUMNS="200", PYTHONIOENCODING=encoding)


@pytest.mark.skipif(sys.platform != "linux", reason="needs names that are no text")
def test_name_that_is_no_text_is_printed_as_its_bytes(tmp_path):
    folder = os.fsencode(tmp_path) + b"/\xff"
    output = printed("doctor", PYTHONIOENCODING="utf-8", COLUMNS="500", RTMPOSE_INFER_CACHE=os.fsdecode(folder))
    assert folder in output
