"""ncnn's adapter: what it demands of its files, and how it starts the runtime."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ncnn", reason="the ncnn extra is not installed")
pytest.importorskip("onnx", reason="the export extra is not installed")

from rtmpose_infer.backends import BackendConfig, load_backend
from rtmpose_infer.backends import ncnn as adapter
from rtmpose_infer.errors import DeviceUnavailableError, InferenceError, InputError, ModelError, OutputMismatchError
from rtmpose_infer.model_spec import ModelFile, load_model_file
from tests.contract import models

GOOD = "7767517\n3 3\nInput in0 0 1 in0\nReLU r 1 1 in0 a\nReLU s 1 1 a out0\n"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of a tiny pose network: a 1×1 convolution and the maxima of its columns and rows."""
    folder = tmp_path_factory.mktemp("ncnn")
    weights = models._WEIGHTS
    graph = [
        "7767517",
        "5 6",
        "Input in0 0 1 in0",
        f"Convolution c 1 1 in0 maps 0={models.KEYPOINTS} 1=1 5=1 6={weights.size}",
        "Split s 1 2 maps left right",
        "Reduction x 1 1 left out0 0=4 1=0 -23303=1,1 4=0 5=1",
        "Reduction y 1 1 right out1 0=4 1=0 -23303=1,2 4=0 5=1",
    ]
    path = folder / "tiny.param"
    path.write_text("\n".join(graph) + "\n")
    path.with_suffix(".bin").write_bytes(b"\0\0\0\0" + weights.tobytes() + models._BIAS.tobytes())
    path.with_suffix(".json").write_text(models.RAW_SPEC.to_json())
    return path


@pytest.fixture
def files(written: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    for suffix in (".param", ".bin", ".json"):
        shutil.copy(written.with_suffix(suffix), tmp_path)
    return tmp_path / written.name


def load(path: Path, **settings: object):
    return load_backend(load_model_file(path, task="pose"), backend="ncnn", config=BackendConfig(**settings))


def check(backend, *, count: int = 1) -> None:
    planes = models.planes(count)
    answer, expected = backend.run({"in0": planes}), models.raw_answer(planes)
    assert answer.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(answer[name], value, rtol=1e-4, atol=1e-4)


def test_a_graph_written_by_hand_runs(written: Path) -> None:
    with load(written, threads=2) as backend:
        check(backend)
        info = backend.describe()
        assert (info.device, info.precision, info.threads) == ("cpu", "fp32", 2)


def test_a_batch_is_computed_where_no_thread_is_to_be_had_as_after_the_end_of_the_main_thread(written: Path) -> None:
    with load(written, threads=2) as backend:
        backend._get_crew().threads.shutdown()
        check(backend, count=3)


def test_half_precision_is_told_and_close(written: Path) -> None:
    with load(written, options={"precision": "fp16"}) as backend:
        assert backend.describe().precision == "fp16"
        planes = models.planes(1)
        for name, value in models.raw_answer(planes).items():
            np.testing.assert_allclose(backend.run({"in0": planes})[name], value, rtol=1e-2, atol=1e-2)


NARROWING = {
    "use_fp16_packed",
    "use_fp16_storage",
    "use_fp16_arithmetic",
    "use_bf16_packed",
    "use_bf16_storage",
}


@pytest.mark.parametrize("precision", [None, "fp32", "fp16"])
def test_numbers_are_narrowed_only_when_asked_whatever_the_machine_can(
    written: Path, monkeypatch: pytest.MonkeyPatch, precision: str | None
) -> None:
    """A CPU with FP16 arithmetic must give what one without it gives, so no option is left to ncnn's defaults."""
    import ncnn

    made: list[ncnn.Net] = []

    def net_of_a_machine_that_can_all() -> ncnn.Net:
        net = ncnn.Net()
        for name in NARROWING & set(dir(net.opt)):  # older versions have not all of them
            setattr(net.opt, name, True)
        made.append(net)
        return net

    class Module:
        Net = staticmethod(net_of_a_machine_that_can_all)

        def __getattr__(self, name: str) -> object:
            return getattr(ncnn, name)

    monkeypatch.setattr(adapter, "import_ncnn", Module)
    with load(written, options={} if precision is None else {"precision": precision}):
        options = made[0].opt
    left = {name for name in dir(options) if "fp16" in name or "bf16" in name} - NARROWING
    assert not left, "an option that this adapter does not know"
    expected = {name for name in NARROWING if precision == "fp16" and "fp16" in name}
    assert {name for name in NARROWING if getattr(options, name, False)} == expected


def test_a_sound_graph_is_accepted() -> None:
    assert adapter.check_param(GOOD, "good.param") == ["Input", "ReLU", "ReLU"]


@pytest.mark.parametrize(
    "layer",
    ["BinaryOp b 1 1 in0 a 0=0 1=1 2=2.0", "Concat b 1 1 in0 a 0=0", "MemoryData b 0 1 a 0=1", "Scale b 1 1 in0 a 0=3"],
)
def test_layers_with_as_many_inputs_as_they_need_are_accepted(layer: str) -> None:
    types = adapter.check_param(GOOD.replace("ReLU r 1 1 in0 a", layer), "good.param")
    assert types == ["Input", layer.partition(" ")[0], "ReLU"]


@pytest.mark.parametrize(
    ("layer", "complaint"),
    [
        ("BinaryOp b 1 1 in0 a 0=0", "a BinaryOp of 1 inputs; expected at least 2"),
        ("BinaryOp b 1 1 in0 a 0=0 1=1 1=0", "at least 2"),
        ("Eltwise b 1 1 in0 a 0=1", "at least 2"),
        ("Scale b 1 1 in0 a 0=-233", "at least 2"),
        ("SDPA b 1 1 in0 a", "at least 3"),
        ("SDPA b 1 1 in0 a 5=1 7=1", "at least 6"),
        ("Concat b 0 1 a 0=0", "a Concat of 0 inputs; expected at least 1"),
    ],
)
def test_a_layer_that_would_read_inputs_it_has_not_is_refused(layer: str, complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        adapter.check_param(GOOD.replace("ReLU r 1 1 in0 a", layer), "bad.param")


@pytest.mark.parametrize(
    ("layer", "complaint"),
    [
        ("Interp b 1 1 in0 a", r"\(Interp\) lacks a way to resize"),
        ("Interp b 1 1 in0 a 1=2.0 2=2.0", "lacks a way to resize"),
        ("Slice b 1 1 in0 a", r"\(Slice\) lacks a size for each of its outputs"),
        ("Slice b 1 1 in0 a 1=1 -23300=0", "lacks a size"),
        ("Slice b 1 1 in0 a -23300=x", "lacks a size"),
        ("Noop b 0 1 a", "at least 1"),
    ],
)
def test_a_layer_without_the_settings_that_ncnn_trusts_to_be_there_is_refused(layer: str, complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        adapter.check_param(GOOD.replace("ReLU r 1 1 in0 a", layer), "bad.param")


def test_a_layer_that_gives_more_than_it_gets_is_refused() -> None:
    text = GOOD.replace("ReLU r 1 1 in0 a", "Noop r 1 2 in0 a spare").replace("3 3", "3 4")
    with pytest.raises(ModelError, match=r"\(Noop\) lacks an input for each"):
        adapter.check_param(text, "bad.param")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "does not begin with 7767517"),
        ("7767518\n1 1\nInput in0 0 1 in0\n", "does not begin with 7767517"),
        (GOOD.replace("3 3", "three 3"), "not a .param file"),
        (GOOD.replace("3 3", "3"), "not a .param file"),
        (GOOD.replace("ReLU r 1 1 in0 a", "ReLU r one 1 in0 a"), "not a .param file"),
        (GOOD.replace("ReLU r 1 1 in0 a", "ReLU r"), "not a .param file"),
        (GOOD.rsplit("\n", 2)[0], "cut off: it announces 3 layers and has 2"),
        (GOOD.replace("3 3", "-1 3"), "cut off"),
        (GOOD.replace("ReLU r 1 1 in0 a", "ReLU r 1 9 in0 a"), "has not the inputs and outputs"),
        (GOOD.replace("ReLU r 1 1 in0 a", "ReLU r -1 1 in0 a"), "has not the inputs and outputs"),
        (GOOD.replace("ReLU r 1 1 in0 a", "ReLU r 1 1 b a"), "reads 'b', which no layer before it makes"),
        (GOOD.replace("3 3", "3 7"), "announces 7 tensors and has 3"),
    ],
)
def test_a_graph_that_does_not_hang_together_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        adapter.check_param(text, "bad.param")


def test_layers_that_ncnn_does_not_know_are_named(files: Path) -> None:
    files.write_text(files.read_text().replace("Split s", "Splice s"))
    with pytest.raises(ModelError, match="does not know: Splice"):
        load(files)


def test_sizes_that_are_computed_need_a_release_that_reads_them(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *rest = files.read_text().rstrip().rsplit("\n", 1)
    files.write_text("\n".join([first, *(f'{line} 6="0w,-1"' for line in rest)]) + "\n")
    monkeypatch.setattr(adapter.import_ncnn(), "__version__", "1.0.20241226")
    with pytest.raises(ModelError, match=r"from 20250428 on; this is 20241226\. Update ncnn\.$"):
        load(files)


@pytest.mark.parametrize(("suffix", "what"), [(".bin", "tiny.bin"), (".json", "tiny.json")])
def test_the_files_beside_it_must_be_there(files: Path, suffix: str, what: str) -> None:
    files.with_suffix(suffix).unlink()
    with pytest.raises(ModelError, match=what):
        load(files)


@pytest.mark.parametrize("keep", [0, 10])
def test_weights_that_are_cut_off_are_refused(files: Path, keep: int) -> None:
    weights = files.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ModelError, match="does not hold its weights"):
        load(files)


def test_a_network_that_gives_nan_is_refused_when_it_is_loaded(files: Path) -> None:
    weights = files.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:-4] + np.float32(np.nan).tobytes())
    with pytest.raises(OutputMismatchError, match=r"computed in fp32 on the CPU.*float32 weights"):
        load(files)
    with pytest.raises(OutputMismatchError, match="precision='fp32'"):
        load(files, options={"precision": "fp16"})


def test_a_spec_with_uint8_input_is_refused(files: Path) -> None:
    files.with_suffix(".json").write_text(models.DEPLOY_SPEC.to_json())
    with pytest.raises(ModelError, match="takes float planes"):
        load(files)


def test_a_graph_with_another_number_of_outputs_is_refused(files: Path) -> None:
    lines = files.read_text().splitlines()
    files.write_text("\n".join(["7767517", "3 3", *lines[2:4], lines[5].replace("left", "maps")]) + "\n")
    with pytest.raises(ModelError, match="expected the two SimCC vectors"):
        load(files)


def test_outputs_keep_the_converters_numbering_beyond_ten() -> None:
    names = [f"out{i}" for i in (10, 2, 0, 11, 1)]
    assert sorted(names, key=adapter._natural) == ["out0", "out1", "out2", "out10", "out11"]


def test_a_call_that_ncnn_gives_up_is_an_inference_error_and_the_next_works(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with load(written) as backend:
        check(backend)
        monkeypatch.setattr(backend, "_blobs", ("out0", "no_such_blob"))
        with pytest.raises(InferenceError, match="no_such_blob"):
            backend.run({"in0": models.planes(1)})
        monkeypatch.undo()
        check(backend)


@pytest.mark.parametrize("device", ["cuda", "cpu:1", "gpu:x", "vulkan:", ""])
def test_other_device_names_are_refused(written: Path, device: str) -> None:
    with pytest.raises(InputError, match="unknown device"):
        load(written, device=device)


@pytest.mark.parametrize("options", [{"precision": "int8"}, {"fast": True}])
def test_options_that_mean_nothing_are_refused(written: Path, options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        load(written, options=options)


class FakeVulkan:
    """ncnn's list of Vulkan devices: (name, kind), kind 3 being software."""

    def __init__(self, *devices: tuple[str, int]) -> None:
        self._devices = devices

    def get_gpu_count(self) -> int:
        return len(self._devices)

    def get_gpu_info(self, number: int) -> FakeVulkan:
        self._one = self._devices[number]
        return FakeVulkan(self._devices[number])

    def device_name(self) -> str:
        return self._devices[0][0]

    def type(self) -> int:
        return self._devices[0][1]


def test_a_software_renderer_is_no_gpu() -> None:
    fake = FakeVulkan(("llvmpipe", 3), ("Adreno", 1), ("GeForce", 0))
    assert adapter._vulkan_device(fake, "gpu", 0) == 1
    assert adapter._vulkan_device(fake, "gpu", 1) == 2
    assert adapter._vulkan_device(fake, "vulkan", 0) == 0
    for kind, number, devices in (
        ("gpu", 2, fake),
        ("gpu", 0, FakeVulkan(("llvmpipe", 3))),
        ("vulkan", 0, FakeVulkan()),
    ):
        with pytest.raises(DeviceUnavailableError, match="Vulkan devices: "):
            adapter._vulkan_device(devices, kind, number)


def test_its_threads_are_told_to_sleep_unless_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    monkeypatch.delitem(sys.modules, "ncnn", raising=False)
    monkeypatch.setattr(adapter.importlib, "import_module", lambda _: seen.append(os.environ.get("OMP_WAIT_POLICY")))
    monkeypatch.setattr(adapter, "_told", [])
    for name in adapter._WAITING:
        monkeypatch.delenv(name, raising=False)
    adapter.import_ncnn()
    assert "OMP_WAIT_POLICY" not in os.environ
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    adapter.import_ncnn()
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    adapter.import_ncnn()
    assert seen == ["PASSIVE", None, "ACTIVE"]
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_threads_that_could_not_be_told_are_a_warning_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(adapter, "_told", [])
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    adapter.import_ncnn()
    assert not caplog.text
    for name in adapter._WAITING:
        monkeypatch.delenv(name, raising=False)
    for _ in range(2):
        adapter.import_ncnn()
    assert caplog.text.count("set OMP_WAIT_POLICY=PASSIVE") == 1


def test_a_detectors_maps_keep_their_names(tmp_path: Path) -> None:
    graph = [
        "7767517",
        "3 4",
        "Input in0 0 1 in0",
        "Split s 1 2 in0 a b",
        "ReLU r 1 1 a out0",
    ]
    path = tmp_path / "maps.param"
    path.write_text("\n".join(graph) + "\n")
    path.with_suffix(".bin").write_bytes(b"\0\0\0\0")
    spec = dataclasses.replace(models.RAW_SPEC, task="detection", head="rtmdet", skeleton=None)
    with load_backend(ModelFile(path, spec, None, "maps"), backend="ncnn") as backend:
        assert {t.name for t in backend.outputs} == {"out0", "b"}
        assert all(t.shape == (None, 3, models.HEIGHT, models.WIDTH) for t in backend.outputs)
