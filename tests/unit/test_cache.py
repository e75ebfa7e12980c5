"""The cache folder, writing without halves, locking."""

from __future__ import annotations

import hashlib
import sys
import threading
from pathlib import Path

import pytest

from rtmpose_infer import cache
from rtmpose_infer.errors import InputError


class TestCacheDir:
    def test_is_the_one_that_was_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RTMPOSE_INFER_CACHE", str(tmp_path / "here"))
        assert cache.cache_dir() == tmp_path / "here"
        assert not (tmp_path / "here").exists()

    def test_may_be_named_relative_to_home_or_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        monkeypatch.setenv("RTMPOSE_INFER_CACHE", "~/mine")
        assert cache.cache_dir() == tmp_path / "mine"
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("RTMPOSE_INFER_CACHE", "there")
        assert cache.cache_dir() == tmp_path / "there"

    @pytest.mark.skipif(sys.platform != "linux", reason="the place differs between systems")
    @pytest.mark.parametrize(("named", "place"), [("/x/y", "/x/y"), ("", "~/.cache"), ("not/absolute", "~/.cache")])
    def test_follows_the_xdg_rules(self, monkeypatch: pytest.MonkeyPatch, named: str, place: str) -> None:
        monkeypatch.delenv("RTMPOSE_INFER_CACHE", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", named)
        assert cache.cache_dir() == Path(place).expanduser() / "rtmpose_infer"

    def test_without_a_home_names_the_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("RTMPOSE_INFER_CACHE", raising=False)
        monkeypatch.setattr(cache, "_user_cache_dir", homeless)
        with pytest.raises(InputError, match="RTMPOSE_INFER_CACHE"):
            cache.cache_dir()


class TestAtomicWrite:
    def test_writes_and_replaces(self, tmp_path: Path) -> None:
        path = tmp_path / "a" / "b" / "file"
        cache.atomic_write(path, b"one")
        cache.atomic_write(path, b"two")
        assert path.read_bytes() == b"two"
        assert list(path.parent.iterdir()) == [path]

    def test_a_failure_leaves_the_old_content_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "file"
        cache.atomic_write(path, b"one")

        def full(handle: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            cache.atomic_write(path, b"two")
        assert path.read_bytes() == b"one"
        assert list(tmp_path.iterdir()) == [path]


def test_sha256_of_a_file_of_several_blocks(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    (tmp_path / "f").write_bytes(data)
    assert cache.sha256_of(tmp_path / "f") == hashlib.sha256(data).hexdigest()


class TestLocked:
    def test_keeps_others_out_until_it_is_released(self, tmp_path: Path) -> None:
        inside: list[str] = []
        entered = threading.Event()

        def other() -> None:
            with cache.locked(tmp_path / "lock", poll_s=0.001):
                inside.append("other")
                entered.set()

        with cache.locked(tmp_path / "lock"):
            thread = threading.Thread(target=other)
            thread.start()
            assert not entered.wait(0.1)
            inside.append("this")
        thread.join(10)
        assert inside == ["this", "other"]

    def test_is_released_when_the_work_fails(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="work"), cache.locked(tmp_path / "lock"):
            raise ValueError("work")
        with cache.locked(tmp_path / "lock"):
            pass

    @pytest.mark.skipif(sys.platform == "win32", reason="uses fcntl")
    def test_goes_on_where_there_are_no_locks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def none(*_: object) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr("fcntl.flock", none)
        with cache.locked(tmp_path / "lock"), cache.locked(tmp_path / "lock"):
            pass
