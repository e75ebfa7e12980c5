"""Fixtures every test may use."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine must not fail a test: hypothesis' limit of 200 ms for an example does not hold here.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Read when an OpenMP library is loaded. Threads that spin while they wait make ncnn twenty times as slow on a busy machine,
# and a test that imports ncnn before the adapter does would leave them so for all that follow.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_ROOT = Path(__file__).resolve().parents[1]
_SHARED = _ROOT.parent / "shared"


class _DoctestsOfExtras:
    """Leaves out the exporter's doctests where the extra that its modules need is not installed.

    Told to pass over what cannot be imported, pytest leaves modules behind that are imported by half.
    """

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        needs_extra = collection_path == _ROOT / "rtmpose_infer" / "export"
        return True if needs_extra and not (find_spec("torch") and find_spec("onnx")) else None


def pytest_configure(config: pytest.Config) -> None:
    """Let the package's own folder be collected by this rule too, for which no conftest lies beside it."""
    config.pluginmanager.register(_DoctestsOfExtras())


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of development models and data beside the checkout; the test is skipped without it."""
    if not (_SHARED / "models" / "SHA256SUMS").is_file():
        pytest.skip(f"development models and data are not at {_SHARED}")
    return _SHARED
