"""What `import rtmpose_infer` gives, and what it must not bring along."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import rtmpose_infer

ROOT = Path(__file__).resolve().parents[1]
# Everything that the package may use and the core must do without.
OPTIONAL = (
    "av", "coremltools", "cuda", "faster_coco_eval", "ncnn", "onnx", "onnxruntime", "openvino", "pnnx", "pycuda",
    "rich", "scipy", "skimage", "supervision", "tensorrt", "torch", "typer", "typing_extensions",
)  # fmt: skip
REFUSE = f"""
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
"""


def run_python(code: str) -> str:
    """Run code in a fresh interpreter at the root of the checkout; return what it printed on either stream."""
    arguments = [sys.executable, "-W", "error", "-c", f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{code}"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_names_are_sorted_and_exist():
    assert list(rtmpose_infer.__all__) == sorted(rtmpose_infer.__all__)
    assert len(set(rtmpose_infer.__all__)) == len(rtmpose_infer.__all__)
    for name in set(rtmpose_infer.__all__) - {"__version__"}:
        assert getattr(rtmpose_infer, name).__doc__, f"{name} has no docstring"


def test_the_promised_names_are_there():
    promised = {"PoseTracker", "PoseEstimator", "PersonDetector", "PosePipeline", "Poses", "Detections"}
    assert promised <= set(rtmpose_infer.__all__)


def test_every_public_name_of_the_top_is_listed():
    public = {
        name for name, value in vars(rtmpose_infer).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == set(rtmpose_infer.__all__) - {"__version__"}


def test_the_package_is_marked_as_typed():
    assert (Path(rtmpose_infer.__file__).parent / "py.typed").is_file()


def test_importing_needs_only_the_core_and_prints_nothing():
    assert run_python(REFUSE + "from rtmpose_infer import *\n") == ""


def test_importing_loads_no_runtime_even_when_it_is_installed():
    code = (
        "import rtmpose_infer\n"
        f"found = sorted(set({OPTIONAL!r}) & {{m.partition('.')[0] for m in sys.modules}})\n"
        "print(found)"
    )
    assert run_python(code).strip() == "[]"


def test_the_core_works_without_any_optional_package():
    code = (
        REFUSE
        + """
import numpy as np
from rtmpose_infer import CallableBackend, PoseEstimator, PosePipeline, PoseTracker, TensorSpec, load_skeleton
from rtmpose_infer.model_spec import ModelSpec

spec = ModelSpec(task="pose", head="simcc", input_size_wh=(48, 64), skeleton=load_skeleton("coco17"))
network = CallableBackend(
    lambda feeds: {f"simcc_{a}": np.ones((len(feeds["input"]), 17, bins)) for a, bins in (("x", 96), ("y", 128))},
    [TensorSpec("input", (None, 3, 64, 48), np.dtype("float32"))],
    [TensorSpec(f"simcc_{a}", (None, 17, None), np.dtype("float32")) for a in "xy"],
)
tracker = PoseTracker(PosePipeline(detector=None, pose=PoseEstimator.from_backend(network, spec)))
for _ in range(3):
    poses = tracker(np.zeros((90, 120, 3), np.uint8), bboxes_xyxy=[[10, 10, 60, 80]])
assert poses.track_ids.tolist() == [1]
"""
    )
    assert run_python(code) == ""


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "tensorrt", "ncnn"])
def test_a_runtime_that_is_not_installed_names_the_extra(backend):
    code = (
        REFUSE
        + f"""
from rtmpose_infer.backends import BackendConfig, backend_names, load_backend
from rtmpose_infer.errors import BackendUnavailableError
from rtmpose_infer.model_spec import ModelFile, ModelSpec
from pathlib import Path

spec = ModelSpec(task="detection", head="nms", input_size_wh=(64, 64))
file = ModelFile(Path("m.param" if {backend!r} == "ncnn" else "m.onnx"), spec, None, "m")
try:
    load_backend(file, backend={backend!r}) if {backend!r} in backend_names() else None
except BackendUnavailableError as error:
    assert "rtmpose-infer[" in str(error), error
    assert isinstance(error, ImportError)
else:
    assert {backend!r} not in backend_names()
"""
    )
    assert run_python(code) == ""


def listed_names() -> dict[str, list[str]]:
    """Return the names that each module of the package lists, without importing it."""
    package = Path(rtmpose_infer.__file__).parent
    listed = {}
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "__all__" for t in node.targets):
                listed[name] = ast.literal_eval(node.value)
    return listed


@pytest.mark.parametrize(("name", "names"), listed_names().items())
def test_every_module_has_the_names_that_it_lists(name, names):
    try:
        module = importlib.import_module(name)
        missing = [n for n in names if not hasattr(module, n)]
    except ImportError as error:  # a module may also import what a name needs when it is asked for
        pytest.skip(f"needs an optional package: {error}")
    assert missing == []
    assert len(set(names)) == len(names)


def test_nothing_in_the_package_prints():
    package = Path(rtmpose_infer.__file__).parent
    printing = []
    for path in package.rglob("*.py"):
        if "cli" in path.relative_to(package).parts:
            continue
        calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
        printing += [f"{path.name}:{c.lineno}" for c in calls if getattr(c.func, "id", "") == "print"]
    assert printing == []
