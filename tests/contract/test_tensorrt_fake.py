"""TensorRT keeps the contract too, as far as that shows without a GPU: on the fake, in both versions and libraries."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.contract import models
from tests.contract.test_contract import *  # noqa: F403  # the same tests, on another runtime
from tests.fake_cuda import FakeGpu, modules
from tests.fake_tensorrt import fake_tensorrt

if TYPE_CHECKING:
    from rtmpose_infer.model_spec import ModelFile


@pytest.fixture(
    params=[("10.16.1.11", "pycuda"), ("11.4.0.106", "cuda-python")],
    ids="-".join,
)
def runtime_name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    version, library = request.param
    gpu = FakeGpu()
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(version, gpu))
    for name, module in modules(gpu, library).items():
        monkeypatch.setitem(sys.modules, name, module)
    return "tensorrt"


@pytest.fixture
def tiny_files(runtime_name: str, tmp_path: Path) -> Callable[[str, int | None], ModelFile]:
    def get(form: str, batch: int | None) -> ModelFile:
        make = models.raw_pose if form == "raw" else models.deploy_pose
        return make(tmp_path / f"{form}-{batch}.onnx", batch=batch)

    return get
