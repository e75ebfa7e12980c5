"""What all commands share."""

from __future__ import annotations

import logging

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
