"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine must not fail a test: hypothesis' limit of 200 ms for an example does not hold here.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Read when an OpenMP library is loaded. Threads that spin while they wait make ncnn twenty times as slow on a busy machine,
# and a test that imports ncnn before the adapter does would leave them so for all that follow.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of development models and data beside the checkout; the test is skipped without it."""
    if not (_SHARED / "models" / "SHA256SUMS").is_file():
        pytest.skip(f"development models and data are not at {_SHARED}")
    return _SHARED
