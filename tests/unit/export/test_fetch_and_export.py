"""From a name of the zoo to a file that runs: the checkpoint is fetched from a server on this machine, then exported."""

from __future__ import annotations

import functools
import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the exporter needs the export extra")
pytest.importorskip("onnx", reason="the exporter needs the export extra")
pytest.importorskip("onnxruntime", reason="exported models are run with ONNX Runtime")

from typer.testing import CliRunner, Result  # noqa: E402

from rtmpose_infer import PoseEstimator, zoo  # noqa: E402
from rtmpose_infer.cli.app import app  # noqa: E402
from rtmpose_infer.export.networks.rtmpose import RTMPose  # noqa: E402
from rtmpose_infer.skeletons import load_skeleton  # noqa: E402
from rtmpose_infer.zoo.manifest import load_manifest, manifest_path  # noqa: E402

ZOO = load_manifest(manifest_path()).models
ENTRY = """schema = 1
[[model]]
name = "small-hand"
task = "pose"
family = "rtmpose"
about = "hands"
input_size_wh = [64, 64]
skeleton = "hand21"
training_data = "none"
licence = "Apache-2.0"
source = "a page"
pth = {{ url = "https://models.invalid/small-hand-{prefix}.pth", sha256_prefix = "{prefix}" }}
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def checkpoint_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A zoo of one checkpoint, whose host is a folder served on this machine."""
    folder = tmp_path / "host"
    folder.mkdir()
    file = folder / "network.pth"
    torch.manual_seed(0)
    network = RTMPose(deepen_factor=0.167, widen_factor=0.125, num_keypoints=21, input_size_wh=(64, 64))
    torch.save({"state_dict": network.state_dict(), "meta": {}}, file)
    prefix = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    file.rename(folder / f"small-hand-{prefix}.pth")
    manifest = tmp_path / "manifest.toml"
    manifest.write_text(ENTRY.format(prefix=prefix))
    monkeypatch.setattr(zoo, "manifest_path", lambda: manifest)
    monkeypatch.setenv("RTMPOSE_INFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RTMPOSE_INFER_OFFLINE", raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        monkeypatch.setenv("RTMPOSE_INFER_MIRRORS", f"http://127.0.0.1:{server.server_address[1]}/")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder
        server.shutdown()
        thread.join()


def rtmpose(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_a_checkpoint_is_fetched_by_name_and_exported(checkpoint_host: Path, tmp_path: Path) -> None:
    fetched = rtmpose("models", "fetch", "small-hand", "--format", "pth")
    assert fetched.exit_code == 0, fetched.output
    (published,) = checkpoint_host.iterdir()
    assert Path(fetched.stdout.strip()).read_bytes() == published.read_bytes()
    published.unlink()  # what follows needs no network any more
    output = tmp_path / "hand.onnx"
    exported = rtmpose("export", "small-hand", "-o", str(output))
    assert exported.exit_code == 0, exported.output
    frame = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    with PoseEstimator(output, backend="ort") as estimator:
        assert estimator.spec.skeleton is not None
        assert estimator.spec.skeleton.name == "hand21"
        assert estimator.spec.source_sha256 == hashlib.sha256(Path(fetched.stdout.strip()).read_bytes()).hexdigest()
        assert estimator.predict(frame, [[10, 10, 80, 80]]).keypoints.shape == (1, 21, 2)


def test_a_checkpoint_that_was_changed_on_its_way_is_not_exported(checkpoint_host: Path, tmp_path: Path) -> None:
    (published,) = checkpoint_host.iterdir()
    published.write_bytes(published.read_bytes() + b"x")
    assert rtmpose("models", "fetch", "small-hand", "--format", "pth").exit_code == 1
    assert rtmpose("export", "small-hand", "-o", str(tmp_path / "hand.onnx")).exit_code == 1
    assert not (tmp_path / "hand.onnx").exists()


@pytest.mark.parametrize("name", [name for name, info in ZOO.items() if "pth" in info.files])
def test_the_zoo_says_what_the_export_of_each_checkpoint_yields(name: str) -> None:
    info = ZOO[name]
    width, height = info.input_size_wh
    inputs, outputs = info.files["pth"].yields.split("; ")[0].split(" to ")
    assert inputs == f"frames_u8 [n, {height}, {width}, 3]"
    shapes = {name: sizes.split(", ") for name, sizes in re.findall(r"(\w+) \[([^]]+)\]", outputs)}
    if info.skeleton:
        assert shapes["keypoints"][-2:] == [str(load_skeleton(info.skeleton).num_keypoints), "2"]
    assert (
        set(shapes)
        == {
            "pose": {"keypoints", "scores"},
            "detection": {"dets", "labels"},
            "one_stage": {"dets", "labels", "keypoints", "scores"},
        }[info.task]
    )


def test_brackets_in_a_name_are_no_markup(tmp_path: Path) -> None:
    result = rtmpose("export", str(tmp_path / "a[/b].pth"), "-o", str(tmp_path / "c.onnx"))
    assert result.exit_code == 1
    assert "a[/b].pth" in result.output
