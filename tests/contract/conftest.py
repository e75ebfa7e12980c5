"""The runtimes under contract: each is loaded as a user would load it, with what it reads."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rtmpose_infer.backends import Backend, BackendConfig, backend_names, load_backend
from rtmpose_infer.model_spec import ModelFile, load_model_file
from tests.contract import models

REQUIRED = "RTMPOSE_INFER_REQUIRE_BACKENDS"


def absent(name: str, why: str) -> None:
    """Skip the test for want of a runtime; where the environment requires that runtime, fail it."""
    required = {n.strip() for n in os.environ.get(REQUIRED, "").split(",")}
    if name in required:
        pytest.fail(f"{REQUIRED} names {name}, and {why}")
    pytest.skip(why)


@dataclass
class Runtime:
    """One runtime, with the tiny networks in the form it reads."""

    name: str
    files: Callable[[str, int | None], ModelFile]
    cache_dir: Path
    closing: ExitStack

    @property
    def takes_graphs_whole(self) -> bool:
        """Whether it runs a graph as it is, with a fixed batch and with uint8 pictures."""
        return self.name != "ncnn"

    def config(self, **settings: Any) -> BackendConfig:
        return BackendConfig(cache_dir=self.cache_dir, **settings)

    def load(self, form: str = "raw", *, batch: int | None = None, **settings: Any) -> Backend:
        """Return a tiny network, loaded; ``form`` is ``"raw"`` or ``"deploy"``. It is closed after the test."""
        return self.open(self.files(form, batch), **settings)

    def open(self, file: ModelFile, **settings: Any) -> Backend:
        """Return any network, loaded."""
        return self.closing.enter_context(load_backend(file, backend=self.name, config=self.config(**settings)))


@pytest.fixture(scope="session", params=backend_names())
def runtime_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    for package in (name, "pnnx") if name == "ncnn" else (name,):
        if importlib.util.find_spec(package) is None:
            absent(name, f"{package} is not installed")
    return name


@pytest.fixture(scope="session")
def tiny_files(runtime_name: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int | None], ModelFile]:
    folder = tmp_path_factory.mktemp(f"tiny-{runtime_name}")
    made: dict[tuple[str, int | None], ModelFile] = {}

    def get(form: str, batch: int | None) -> ModelFile:
        key = (form, batch)
        if key not in made:
            make = models.raw_pose if form == "raw" else models.deploy_pose
            made[key] = make(folder / f"{form}-{batch}.onnx", batch=batch)
            if runtime_name == "ncnn":
                from rtmpose_infer.export.ncnn import ncnn_from_onnx

                written = ncnn_from_onnx(folder / f"{form}-{batch}.onnx", folder / f"{form}-{batch}.param", half=False)
                made[key] = load_model_file(written.param, task="pose")
        return made[key]

    return get


@pytest.fixture
def runtime(runtime_name: str, tiny_files: Callable[[str, int | None], ModelFile], tmp_path: Path) -> Iterator[Runtime]:
    with ExitStack() as closing:
        yield Runtime(runtime_name, tiny_files, tmp_path / "cache", closing)
