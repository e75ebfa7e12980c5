"""What every runtime promises behind the seam, with numpy as the judge."""

from __future__ import annotations

import dataclasses
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from rtmpose_infer.backends import BackendConfig, load_backend
from rtmpose_infer.errors import (
    ClosedError,
    DeviceUnavailableError,
    DTypeError,
    InputError,
    ModelError,
    ShapeError,
)
from tests.contract import models

if TYPE_CHECKING:
    from tests.contract.conftest import Runtime

CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # float32 in another order of summation


def check(answer: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert answer.keys() == expected.keys()
    for name, value in expected.items():
        assert answer[name].dtype == np.float32
        assert answer[name].shape == value.shape
        np.testing.assert_allclose(answer[name], value, **CLOSE)


def run_raw(backend, planes: np.ndarray) -> dict[str, np.ndarray]:
    return backend.run({backend.inputs[0].name: planes})


def test_says_what_it_takes_and_gives(runtime: Runtime) -> None:
    backend = runtime.load("raw")
    (source,) = backend.inputs
    assert source.shape == (None, 3, models.HEIGHT, models.WIDTH)
    assert source.dtype == np.float32
    assert {spec.name: spec.shape for spec in backend.outputs} == {
        "simcc_x": (None, models.KEYPOINTS, models.WIDTH),
        "simcc_y": (None, models.KEYPOINTS, models.HEIGHT),
    }
    assert all(spec.dtype == np.float32 for spec in backend.outputs)
    info = backend.describe()
    assert info.runtime == runtime.name
    assert info.version
    assert info.device


def test_computes_what_the_network_computes(runtime: Runtime) -> None:
    planes = models.planes(1)
    check(run_raw(runtime.load("raw"), planes), models.raw_answer(planes))


@pytest.mark.parametrize("count", [2, 3, 16, 37])
def test_takes_any_batch_up_to_and_beyond_the_largest_size(runtime: Runtime, count: int) -> None:
    backend = runtime.load("raw")
    planes = models.planes(count)
    check(run_raw(backend, planes), models.raw_answer(planes))


def test_changing_batches_do_not_disturb_each_other(runtime: Runtime) -> None:
    backend = runtime.load("raw")
    for seed, count in enumerate([1, 5, 2, 16, 1, 3]):
        planes = models.planes(count, seed=seed)
        check(run_raw(backend, planes), models.raw_answer(planes))


def test_a_fixed_batch_is_told_and_kept(runtime: Runtime) -> None:
    if not runtime.takes_graphs_whole:
        pytest.skip(f"{runtime.name} has no batch to fix")
    backend = runtime.load("raw", batch=2)
    assert backend.inputs[0].shape[0] == 2
    planes = models.planes(2)
    check(run_raw(backend, planes), models.raw_answer(planes))
    with pytest.raises(ShapeError):
        run_raw(backend, models.planes(3))


def test_takes_uint8_pictures(runtime: Runtime) -> None:
    if not runtime.takes_graphs_whole:
        pytest.skip(f"{runtime.name} takes float planes only")
    backend = runtime.load("deploy")
    assert backend.inputs[0].dtype == np.uint8
    for count in (1, 4):
        pictures = models.pictures(count)
        check(backend.run({"frames_u8": pictures}), models.deploy_answer(pictures))


def test_a_deploy_graph_gives_the_same_in_any_form(runtime: Runtime) -> None:
    """Runtimes without uint8 input get the bare network out of the deploy graph."""
    backend = runtime.load("deploy")
    picture = models.pictures(1)
    if backend.inputs[0].dtype == np.uint8:
        check(backend.run({"frames_u8": picture}), models.deploy_answer(picture))
    else:
        planes = picture.transpose(0, 3, 1, 2).astype(np.float32)
        answer = run_raw(backend, planes)
        expected = models.deploy_answer(picture)
        places = np.stack([answer["simcc_x"].argmax(axis=2), answer["simcc_y"].argmax(axis=2)], axis=2)
        np.testing.assert_array_equal(places, expected["keypoints"])


def test_takes_views_that_are_not_contiguous_and_arrays_that_cannot_be_written(runtime: Runtime) -> None:
    backend = runtime.load("raw")
    wide = models.planes(1).repeat(2, axis=3)
    view = wide[..., ::2]
    assert not view.flags.c_contiguous
    check(run_raw(backend, view), models.raw_answer(view))
    turned = np.asfortranarray(models.planes(1))
    check(run_raw(backend, turned), models.raw_answer(turned))
    locked = models.planes(1)
    locked.flags.writeable = False
    check(run_raw(backend, locked), models.raw_answer(locked))


def test_refuses_wrong_names(runtime: Runtime) -> None:
    backend = runtime.load("raw")
    name = backend.inputs[0].name
    for feeds in ({}, {"other": models.planes(1)}, {name: models.planes(1), "more": models.planes(1)}):
        with pytest.raises(InputError, match=name):
            backend.run(feeds)


def test_refuses_wrong_types_and_shapes(runtime: Runtime) -> None:
    backend = runtime.load("raw")
    good = models.planes(1)
    for wrong in (good.astype(np.float64), good.astype(np.uint8), good.tolist(), None):
        with pytest.raises(DTypeError):
            run_raw(backend, wrong)
    for wrong in (good[0], good[:, :2], good[..., :-1], good[None]):
        with pytest.raises(ShapeError):
            run_raw(backend, wrong)
    check(run_raw(backend, good), models.raw_answer(good))  # and is none the worse for it


def test_refuses_an_empty_batch(runtime: Runtime) -> None:
    with pytest.raises(ShapeError, match="at least one picture"):
        run_raw(runtime.load("raw"), models.planes(0))


def test_pictures_in_which_more_or_less_is_found_go_in_one_batch(runtime: Runtime, tmp_path: Path) -> None:
    if not runtime.takes_graphs_whole:
        pytest.skip(f"{runtime.name} has no detector with suppression in its graph")
    planes = np.zeros((3, 3, models.HEIGHT, models.WIDTH), np.float32)
    for picture, bright in zip(planes, (3, 7, 1), strict=True):
        picture[:, :, :bright] = 1
    backend = runtime.open(models.bright_columns(tmp_path / "columns.onnx"), batch_sizes=(1, 2))
    answer = run_raw(backend, planes)
    assert answer["dets"].shape == (3, 7, 5)
    assert answer["labels"].sum(axis=1).tolist() == [3, 7, 1]


def test_new_weights_in_a_file_of_their_own_are_not_taken_for_the_old(runtime: Runtime, tmp_path: Path) -> None:
    if not runtime.takes_graphs_whole:
        pytest.skip(f"{runtime.name} reads another form")
    source = runtime.files("raw", None).data
    planes = models.planes(2)
    graphs = []
    for factor in (1.0, 2.0, 1.0):
        file = models.with_weights_beside(source, tmp_path / "beside", factor=factor)
        graphs.append(file.data.read_bytes())
        with runtime.open(file) as backend:
            check(run_raw(backend, planes), {k: factor * v for k, v in models.raw_answer(planes).items()})
    assert len(set(graphs)) == 1


def test_a_closed_network_says_so(runtime: Runtime) -> None:
    backend = runtime.load("raw")
    backend.close()
    backend.close()
    with pytest.raises(ClosedError):
        run_raw(backend, models.planes(1))
    assert backend.describe().runtime == runtime.name


def test_outputs_belong_to_the_caller(runtime: Runtime) -> None:
    backend = runtime.load("raw")
    first, second = models.planes(1, seed=1), models.planes(1, seed=2)
    fed = first.copy()
    answer = run_raw(backend, fed)
    np.testing.assert_array_equal(fed, first)  # the input is only read
    fed[:] = 7
    run_raw(backend, second)
    check(answer, models.raw_answer(first))  # neither the input nor a later call reaches into it
    for value in answer.values():
        value[:] = -1
    check(run_raw(backend, second), models.raw_answer(second))
    backend.close()
    assert all((value == -1).all() for value in answer.values())


def test_two_threads_get_their_own_answers(runtime: Runtime) -> None:
    backend = runtime.load("raw")
    failures: list[BaseException] = []
    start = threading.Barrier(3)

    def work(seed: int) -> None:
        try:
            start.wait()
            for turn in range(15):
                planes = models.planes(1 + turn % 3, seed=100 * seed + turn)
                check(run_raw(backend, planes), models.raw_answer(planes))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_closing_while_another_thread_runs_ends_in_an_answer_or_a_closed_error(runtime: Runtime) -> None:
    backend = runtime.load("raw")
    planes = models.planes(1)
    expected = models.raw_answer(planes)
    started = threading.Event()
    seen: list[object] = []

    def work() -> None:
        try:
            for _ in range(500):
                check(run_raw(backend, planes), expected)
                started.set()
        except Exception as error:
            seen.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    backend.close()
    thread.join()
    assert all(isinstance(error, ClosedError) for error in seen)


def test_two_networks_live_side_by_side(runtime: Runtime) -> None:
    one, other = runtime.load("raw"), runtime.load("raw")
    planes = models.planes(1)
    one.close()
    check(run_raw(other, planes), models.raw_answer(planes))


def test_threads_are_told_and_used(runtime: Runtime) -> None:
    if runtime.name == "tensorrt":
        pytest.skip("threads mean nothing to a GPU")
    backend = runtime.load("raw", threads=1)
    assert backend.describe().threads == 1
    planes = models.planes(1)
    check(run_raw(backend, planes), models.raw_answer(planes))


def test_refuses_unknown_options_and_devices(runtime: Runtime) -> None:
    with pytest.raises(InputError, match="no_such_option"):
        runtime.load("raw", options={"no_such_option": 1})
    with pytest.raises(InputError, match="abacus"):
        runtime.load("raw", device="abacus")


ABSENT = {"onnxruntime": "cuda", "openvino": "gpu.7", "ncnn": "vulkan:97", "tensorrt": "cuda:97"}


def test_an_absent_device_is_an_error_with_the_reason(runtime: Runtime) -> None:
    with pytest.raises(DeviceUnavailableError) as caught:
        runtime.load("raw", device=ABSENT[runtime.name])
    assert "here" in str(caught.value) or "build" in str(caught.value) or "device" in str(caught.value)


def test_falls_back_to_the_cpu_only_when_allowed(runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    if runtime.name == "tensorrt":
        pytest.skip("tensorrt has no CPU to fall back to")
    with caplog.at_level(logging.WARNING, logger="rtmpose_infer"):
        backend = runtime.load("raw", device=ABSENT[runtime.name], allow_fallback=True)
    assert "CPU" in caplog.text
    assert backend.describe().device.lower() == "cpu"
    planes = models.planes(1)
    check(run_raw(backend, planes), models.raw_answer(planes))


def test_a_broken_model_is_a_model_error(runtime: Runtime, tmp_path: Path) -> None:
    file = runtime.files("raw", None)
    assert isinstance(file.data, Path)
    broken = tmp_path / file.data.name
    for content in (b"", b"not a model", file.data.read_bytes()[:-40]):
        broken.write_bytes(content)
        with pytest.raises(ModelError):
            runtime.open(dataclasses.replace(file, data=broken, name=str(broken)))


def test_the_same_model_from_bytes(runtime: Runtime) -> None:
    if runtime.name == "ncnn":
        pytest.skip("ncnn reads two files")
    file = runtime.files("raw", None)
    assert isinstance(file.data, Path)
    backend = runtime.open(dataclasses.replace(file, data=file.data.read_bytes()))
    planes = models.planes(2)
    check(run_raw(backend, planes), models.raw_answer(planes))


def test_prints_nothing(runtime: Runtime, capfd: pytest.CaptureFixture[str]) -> None:
    run_raw(runtime.load("raw"), models.planes(1))
    with pytest.raises(DeviceUnavailableError):
        runtime.load("raw", device=ABSENT[runtime.name])
    assert capfd.readouterr().out == ""


def test_refuses_a_file_of_another_runtime(runtime: Runtime, tmp_path: Path) -> None:
    file = runtime.files("raw", None)
    other = tmp_path / ("model.onnx" if runtime.name == "ncnn" else "model.param")
    other.write_bytes(b"x")
    with pytest.raises(ModelError, match=runtime.name):
        load_backend(
            dataclasses.replace(file, data=other, name=str(other)), backend=runtime.name, config=BackendConfig()
        )
