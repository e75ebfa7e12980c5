"""The zoo: names, downloads from a server on this machine that misbehaves in every way, archives, the cache."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rtmpose_infer import zoo
from rtmpose_infer.errors import ChecksumError, InputError, ManifestError, ModelError
from rtmpose_infer.skeletons import load_skeleton
from rtmpose_infer.zoo.archive import unpack_sdk
from rtmpose_infer.zoo.download import DownloadPolicy, _Redirects, check_address, download_file
from rtmpose_infer.zoo.manifest import load_manifest, manifest_path
from rtmpose_infer.zoo.store import Store

ROOT = Path(__file__).resolve().parents[2]
NETWORK = bytes(range(256)) * 40
CHECKPOINT = b"checkpoint " * 3000
QUICK = DownloadPolicy(timeout_s=5.0, attempts=3, backoff_s=0.0)

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers a path with the next of its scripted answers; the last one stays."""

    server: Server

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        with self.server.lock:
            self.server.requests[path].append(dict(self.headers))
            answers = self.server.answers.get(path, [missing])
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        with contextlib.suppress(ConnectionError):
            answer(self)

    def log_message(self, *args: object) -> None:
        pass

    def begin(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[Answer]] = {}
        self.requests: dict[str, list[dict[str, str]]] = defaultdict(list)
        self.lock = threading.Lock()
        self.released = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def put(self, path: str, *answers: Answer) -> str:
        self.answers[path] = list(answers)
        return self.url(path)

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but this machine can be looked up, so that no test ever leaves it."""
    real = socket.getaddrinfo

    def only_here(host: str, *args: object, **kwargs: object) -> object:
        host.encode("idna")  # the real one begins with it, and so do its errors
        if host not in {"127.0.0.1", "localhost"}:
            raise socket.gaierror(f"{host} is not looked up in tests")
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", only_here)


def missing(handler: Handler) -> None:
    handler.begin(404, Content_Length=0)


def failing(status: int, **headers: object) -> Answer:
    return lambda handler: handler.begin(status, Content_Length=0, **headers)


def whole(data: bytes, **headers: object) -> Answer:
    def answer(handler: Handler) -> None:
        handler.begin(200, Content_Length=len(data), **headers)
        handler.wfile.write(data)

    return answer


def broken_off(data: bytes, after: int, **headers: object) -> Answer:
    def answer(handler: Handler) -> None:
        handler.begin(200, Content_Length=len(data), **headers)
        handler.wfile.write(data[:after])

    return answer


def with_ranges(data: bytes, tag: str) -> Answer:
    """A server that can go on where a transfer stopped."""

    def answer(handler: Handler) -> None:
        asked = handler.headers.get("Range")
        if asked and handler.headers.get("If-Range") == tag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            rest = data[start:]
            handler.begin(
                206, Content_Length=len(rest), Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}", ETag=tag
            )
            handler.wfile.write(rest)
        else:
            handler.begin(200, Content_Length=len(data), ETag=tag)
            handler.wfile.write(data)

    return answer


def redirected(target: str) -> Answer:
    return lambda handler: handler.begin(302, Location=target, Content_Length=0)


def anything(content: Path) -> None:
    pass


def only(data: bytes) -> Callable[[Path], None]:
    def accept(content: Path) -> None:
        if content.read_bytes() != data:
            raise ChecksumError("another file")

    return accept


class TestDownload:
    def test_writes_the_bytes_and_reports_progress(self, server: Server, tmp_path: Path) -> None:
        seen: list[tuple[int, int | None]] = []
        address = server.put("/a", whole(CHECKPOINT))
        used = download_file(
            [address], tmp_path / "f", accept=anything, progress=lambda *now: seen.append(now), policy=QUICK
        )
        assert used == address
        assert (tmp_path / "f").read_bytes() == CHECKPOINT
        assert seen[0] == (0, len(CHECKPOINT))
        assert seen[-1] == (len(CHECKPOINT), len(CHECKPOINT))
        assert seen == sorted(seen)

    def test_goes_on_where_a_transfer_broke_off(self, server: Server, tmp_path: Path) -> None:
        address = server.put("/a", broken_off(CHECKPOINT, 9000, ETag='"v1"'), with_ranges(CHECKPOINT, '"v1"'))
        download_file([address], tmp_path / "f", accept=only(CHECKPOINT), policy=QUICK)
        first, second = server.requests["/a"]
        assert "Range" not in first
        assert (second["Range"], second["If-Range"]) == ("bytes=9000-", '"v1"')

    def test_starts_again_when_the_file_changed_between_two_tries(self, server: Server, tmp_path: Path) -> None:
        other = b"other " * 5000
        address = server.put("/a", broken_off(CHECKPOINT, 9000, ETag='"v1"'), with_ranges(other, '"v2"'))
        download_file([address], tmp_path / "f", accept=only(other), policy=QUICK)
        assert len(server.requests["/a"]) == 2

    def test_starts_again_when_the_server_gives_no_mark_of_the_version(self, server: Server, tmp_path: Path) -> None:
        address = server.put("/a", broken_off(CHECKPOINT, 9000), whole(CHECKPOINT))
        download_file([address], tmp_path / "f", accept=only(CHECKPOINT), policy=QUICK)
        assert "Range" not in server.requests["/a"][1]

    def test_does_not_join_parts_that_do_not_meet(self, server: Server, tmp_path: Path) -> None:
        def elsewhere(handler: Handler) -> None:
            handler.begin(206, Content_Length=5, Content_Range="bytes 100-104/33000", ETag='"v1"')
            handler.wfile.write(b"wrong")

        address = server.put("/a", broken_off(CHECKPOINT, 9000, ETag='"v1"'), elsewhere, whole(CHECKPOINT))
        download_file([address], tmp_path / "f", accept=only(CHECKPOINT), policy=QUICK)

    def test_does_not_join_parts_of_two_versions(self, server: Server, tmp_path: Path) -> None:
        other = b"other " * 5500

        def regardless(handler: Handler) -> None:
            rest = other[9000:]
            content_range = f"bytes 9000-{len(other) - 1}/{len(other)}"
            handler.begin(206, Content_Length=len(rest), Content_Range=content_range, ETag='"v2"')
            handler.wfile.write(rest)

        address = server.put("/a", broken_off(CHECKPOINT, 9000, ETag='"v1"'), regardless, whole(other))
        download_file([address], tmp_path / "f", accept=anything, policy=QUICK)
        assert (tmp_path / "f").read_bytes() == other

    def test_a_part_is_not_taken_for_the_rest(self, server: Server, tmp_path: Path) -> None:
        def piece(handler: Handler) -> None:
            start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            data = CHECKPOINT[start : start + 15_000]
            content_range = f"bytes {start}-{start + len(data) - 1}/{len(CHECKPOINT)}"
            handler.begin(206, Content_Length=len(data), Content_Range=content_range, ETag='"v1"')
            handler.wfile.write(data)

        address = server.put("/a", broken_off(CHECKPOINT, 9000, ETag='"v1"'), piece)
        download_file([address], tmp_path / "f", accept=anything, policy=QUICK)
        assert (tmp_path / "f").read_bytes() == CHECKPOINT

    def test_starts_again_when_the_range_is_refused(self, server: Server, tmp_path: Path) -> None:
        address = server.put("/a", broken_off(CHECKPOINT, 9000, ETag='"v1"'), failing(416), whole(CHECKPOINT))
        download_file([address], tmp_path / "f", accept=only(CHECKPOINT), policy=QUICK)
        assert "Range" not in server.requests["/a"][2]

    def test_tries_again_after_a_server_error(self, server: Server, tmp_path: Path) -> None:
        address = server.put("/a", failing(500), failing(503, Retry_After=0), whole(CHECKPOINT))
        download_file([address], tmp_path / "f", accept=only(CHECKPOINT), policy=QUICK)
        assert len(server.requests["/a"]) == 3

    def test_waits_as_long_as_the_server_asks_within_the_limit(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waits: list[float] = []
        monkeypatch.setattr("rtmpose_infer.zoo.download.time.sleep", waits.append)
        address = server.put("/a", failing(429, Retry_After=7), failing(503, Retry_After=9999), whole(b"x"))
        download_file(
            [address], tmp_path / "f", accept=anything, policy=DownloadPolicy(backoff_s=0.0, longest_wait_s=20.0)
        )
        assert waits == [7.0, 20.0]

    def test_waits_longer_each_time(self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        waits: list[float] = []
        monkeypatch.setattr("rtmpose_infer.zoo.download.time.sleep", waits.append)
        address = server.put("/a", failing(500), failing(500), failing(500), whole(b"x"))
        download_file([address], tmp_path / "f", accept=anything, policy=DownloadPolicy(attempts=4, backoff_s=1.0))
        assert [0.8 * 2**i <= wait <= 1.2 * 2**i for i, wait in enumerate(waits)] == [True, True, True]

    def test_leaves_a_missing_file_at_once_for_the_next_address(self, server: Server, tmp_path: Path) -> None:
        good = server.put("/b", whole(CHECKPOINT))
        assert download_file([server.url("/a"), good], tmp_path / "f", accept=anything, policy=QUICK) == good
        assert len(server.requests["/a"]) == 1

    def test_says_what_was_wrong_with_each_address(self, server: Server, tmp_path: Path) -> None:
        first, second = server.put("/a", failing(500)), server.put("/b", broken_off(CHECKPOINT, 10))
        with pytest.raises(ModelError) as caught:
            download_file([first, second], tmp_path / "f", accept=anything, policy=QUICK)
        message = str(caught.value)
        assert f"{first}: HTTP 500" in message
        assert f"{second}: the transfer broke off after 10 of {len(CHECKPOINT)} bytes" in message
        assert len(server.requests["/a"]) == QUICK.attempts

    def test_tries_again_when_the_line_goes_dead(self, server: Server, tmp_path: Path) -> None:
        def dead(handler: Handler) -> None:
            handler.begin(200, Content_Length=1000)
            handler.wfile.write(b"x" * 10)
            handler.wfile.flush()
            handler.server.released.wait(20)

        address = server.put("/a", dead, whole(CHECKPOINT))
        policy = DownloadPolicy(timeout_s=0.3, attempts=2, backoff_s=0.0)
        download_file([address], tmp_path / "f", accept=only(CHECKPOINT), policy=policy)

    def test_gives_up_a_trickle(self, server: Server, tmp_path: Path) -> None:
        def trickle(handler: Handler) -> None:
            handler.begin(200, Content_Length=100_000)
            while not handler.server.released.wait(0.01):
                handler.wfile.write(b"x")

        policy = DownloadPolicy(attempts=1, stall_s=0.2, stall_bytes=50_000)
        with pytest.raises(ModelError, match="too slow"):
            download_file([server.put("/a", trickle)], tmp_path / "f", accept=anything, policy=policy)

    def test_refuses_a_file_that_is_announced_as_too_large(self, server: Server, tmp_path: Path) -> None:
        def huge(handler: Handler) -> None:
            handler.begin(200, Content_Length=10**12)

        with pytest.raises(ModelError, match="larger than the limit"):
            download_file([server.put("/a", huge)], tmp_path / "f", accept=anything, policy=QUICK)
        assert (tmp_path / "f").stat().st_size == 0

    def test_stops_reading_a_file_that_never_ends(self, server: Server, tmp_path: Path) -> None:
        def endless(handler: Handler) -> None:
            handler.begin(200)
            while True:
                handler.wfile.write(b"x" * 1000)

        policy = DownloadPolicy(attempts=1, max_bytes=200_000)
        with pytest.raises(ModelError, match="larger than the limit"):
            download_file([server.put("/a", endless)], tmp_path / "f", accept=anything, policy=policy)
        assert (tmp_path / "f").stat().st_size < 300_000

    def test_a_length_that_is_too_short_is_caught_by_the_check(self, server: Server, tmp_path: Path) -> None:
        def short(handler: Handler) -> None:
            handler.begin(200, Content_Length=100)
            handler.wfile.write(CHECKPOINT)

        with pytest.raises(ChecksumError, match="another file"):
            download_file([server.put("/a", short)], tmp_path / "f", accept=only(CHECKPOINT), policy=QUICK)

    def test_an_answer_without_a_length_is_taken(self, server: Server, tmp_path: Path) -> None:
        def unannounced(handler: Handler) -> None:
            handler.begin(200, Connection="close")
            handler.wfile.write(CHECKPOINT)

        seen: list[tuple[int, int | None]] = []
        address = server.put("/a", unannounced)
        download_file(
            [address], tmp_path / "f", accept=only(CHECKPOINT), progress=lambda *now: seen.append(now), policy=QUICK
        )
        assert seen[-1] == (len(CHECKPOINT), None)

    def test_fetches_once_more_what_was_refused(self, server: Server, tmp_path: Path) -> None:
        damaged = CHECKPOINT[:-1] + b"!"
        address = server.put("/a", whole(damaged), whole(CHECKPOINT))
        download_file([address], tmp_path / "f", accept=only(CHECKPOINT), policy=QUICK)

    def test_prefers_the_wrong_hash_over_other_failures_in_its_error(self, server: Server, tmp_path: Path) -> None:
        addresses = [server.put("/a", whole(b"wrong")), server.url("/b")]
        with pytest.raises(ChecksumError, match=r"another file.*HTTP 404"):
            download_file(addresses, tmp_path / "f", accept=only(CHECKPOINT), policy=QUICK)

    def test_a_login_page_is_not_a_model(self, server: Server, tmp_path: Path) -> None:
        address = server.put("/a", whole(b"<html>please log in</html>", Content_Type="text/html; charset=utf-8"))
        with pytest.raises(ModelError, match="web page"):
            download_file([address], tmp_path / "f", accept=anything, policy=QUICK)
        assert len(server.requests["/a"]) == 1

    def test_a_packed_answer_is_refused(self, server: Server, tmp_path: Path) -> None:
        address = server.put("/a", whole(b"\x1f\x8b", Content_Encoding="gzip"))
        with pytest.raises(ModelError, match="encoding"):
            download_file([address], tmp_path / "f", accept=anything, policy=QUICK)

    def test_an_answer_that_is_no_http_is_a_failure(self, server: Server, tmp_path: Path) -> None:
        def nonsense(handler: Handler) -> None:
            handler.wfile.write(b"nonsense\r\n\r\n")

        with pytest.raises(ModelError, match="no answer"):
            download_file([server.put("/a", nonsense)], tmp_path / "f", accept=anything, policy=QUICK)

    @pytest.mark.parametrize(
        ("status", "header", "value"),
        [(200, "Content_Length", "9" * 5000), (206, "Content_Range", f"bytes {'9' * 5000}-/1")],
        ids=["length", "range"],
    )
    def test_numbers_of_absurd_length_lead_to_the_next_address(
        self, server: Server, tmp_path: Path, status: int, header: str, value: str
    ) -> None:
        absurd = server.put("/a", lambda handler: handler.begin(status, **{header: value}))
        good = server.put("/b", whole(CHECKPOINT))
        assert download_file([absurd, good], tmp_path / "f", accept=only(CHECKPOINT), policy=QUICK) == good

    def test_a_closed_port_is_a_failure(self, tmp_path: Path) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        with pytest.raises(ModelError, match="no connection"):
            download_file([f"http://127.0.0.1:{port}/a"], tmp_path / "f", accept=anything, policy=QUICK)

    def test_a_host_that_is_unknown_is_not_asked_for_twice(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="no connection"):
            download_file(
                ["https://models.invalid/a"], tmp_path / "f", accept=anything, policy=DownloadPolicy(backoff_s=60)
            )


class TestAddresses:
    def test_follows_a_redirect_on_this_machine(self, server: Server, tmp_path: Path) -> None:
        server.put("/b", whole(CHECKPOINT))
        address = server.put("/a", redirected("/b"))
        download_file([address], tmp_path / "f", accept=only(CHECKPOINT), policy=QUICK)

    @pytest.mark.parametrize(
        "target", ["http://models.invalid/a", "ftp://127.0.0.1/a", "file:///etc/hostname", "data:,x", "gopher://x/"]
    )
    def test_follows_no_redirect_away_from_https(self, server: Server, tmp_path: Path, target: str) -> None:
        address = server.put("/a", redirected(target))
        with pytest.raises(ModelError, match=r"not https|HTTP 302"):
            download_file([address], tmp_path / "f", accept=anything, policy=QUICK)
        assert (tmp_path / "f").read_bytes() == b""

    @pytest.mark.parametrize(
        "target",
        ["http://[::1", f"https://{'a' * 70}.com/x", "https://a.example:99999999/x", "http://127.0.0.1:99999/"],
    )
    def test_a_redirect_to_no_address_at_all_leads_to_the_next_one(
        self, server: Server, tmp_path: Path, target: str
    ) -> None:
        good = server.put("/b", whole(CHECKPOINT))
        addresses = [server.put("/a", redirected(target)), good]
        assert download_file(addresses, tmp_path / "f", accept=only(CHECKPOINT), policy=QUICK) == good
        assert len(server.requests["/a"]) == 1

    def test_https_is_never_redirected_to_http_even_on_this_machine(self) -> None:
        request = urllib.request.Request("https://models.invalid/a")
        with pytest.raises(urllib.error.URLError, match="not https"):
            _Redirects().redirect_request(request, io.BytesIO(), 302, "", {}, "http://127.0.0.1/a")

    def test_a_circle_of_redirects_ends(self, server: Server, tmp_path: Path) -> None:
        address = server.put("/a", redirected("/a"))
        with pytest.raises(ModelError, match="HTTP 302"):
            download_file([address], tmp_path / "f", accept=anything, policy=QUICK)

    @pytest.mark.parametrize(
        "address", ["https://a.example/x", "http://127.0.0.1:1/x", "http://[::1]/x", "http://localhost/x"]
    )
    def test_allows(self, address: str) -> None:
        check_address(address)

    @pytest.mark.parametrize(
        "address",
        [
            "http://a.example/x",
            "http://localhost.example/x",
            "http://127.0.0.1.example/x",
            "ftp://a.example/x",
            "file:///x",
            "https:///x",
            "x",
            "",
            "https://user:secret@a.example/x",
            "https://user:secret@[a.example/x",
            "https://user:secret@a.example:99999999/x",
            "https://user:secret@a.example\u2100/x",
            "https://[bad/",
        ],
    )
    def test_refuses_without_repeating_a_password(self, address: str) -> None:
        with pytest.raises(InputError) as caught:
            check_address(address)
        assert "secret" not in str(caught.value)


def zipped(members: dict[str, bytes], *, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in members.items():
            # With the time of day in it, the same archive would have another hash two seconds later.
            file.writestr(zipfile.ZipInfo(name, (2023, 8, 31, 0, 0, 0)), data, compression)
    return buffer.getvalue()


def sdk(network: bytes = NETWORK, folder: str = "20230831/rtmpose_onnx/rtmpose-m/") -> bytes:
    return zipped(
        {
            f"{folder}end2end.onnx": network,
            f"{folder}deploy.json": b'{"task": "KeypointDetection"}',
            f"{folder}pipeline.json": b"{}",
            f"{folder}detail.json": b"{}",
        }
    )


class TestArchive:
    def unpack(self, tmp_path: Path, data: bytes) -> Path:
        (tmp_path / "a.zip").write_bytes(data)
        unpack_sdk(tmp_path / "a.zip", tmp_path / "out")
        return tmp_path / "out"

    def refuse(self, tmp_path: Path, data: bytes, match: str) -> None:
        with pytest.raises(ModelError, match=match):
            self.unpack(tmp_path, data)
        written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
        assert written <= {"a.zip", "end2end.onnx", "deploy.json", "pipeline.json", "detail.json"}
        assert not (tmp_path.parent / "escaped").exists()

    @pytest.mark.parametrize("folder", ["", "a/", "20230831/rtmpose_onnx/rtmpose-m/"])
    def test_finds_the_network_however_deep_it_lies(self, tmp_path: Path, folder: str) -> None:
        out = self.unpack(tmp_path, sdk(folder=folder))
        assert sorted(p.name for p in out.iterdir()) == ["deploy.json", "detail.json", "end2end.onnx", "pipeline.json"]
        assert (out / "end2end.onnx").read_bytes() == NETWORK

    def test_leaves_out_everything_else(self, tmp_path: Path) -> None:
        extra = {"a/end2end.onnx": NETWORK, "a/run.py": b"x", "b/deploy.json": b"{}", "__MACOSX/a/._end2end.onnx": b"x"}
        assert [p.name for p in self.unpack(tmp_path, zipped(extra)).iterdir()] == ["end2end.onnx"]

    @pytest.mark.parametrize(
        "name",
        ["../escaped", "a/../../escaped", "/escaped", "C:escaped", "..\\escaped", "a\\..\\..\\escaped", "a\x01b"],
    )
    def test_refuses_a_name_that_points_outside(self, tmp_path: Path, name: str) -> None:
        self.refuse(tmp_path, zipped({"a/end2end.onnx": NETWORK, name: b"x"}), "not safe to unpack")

    def test_refuses_a_link(self, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            link = zipfile.ZipInfo("a/end2end.onnx")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            file.writestr(link, "/etc/hostname")
        self.refuse(tmp_path, buffer.getvalue(), "link")

    def test_refuses_a_bomb(self, tmp_path: Path) -> None:
        self.refuse(tmp_path, zipped({"end2end.onnx": bytes(4 * 2**20)}), "would grow")

    def test_refuses_a_document_of_absurd_size(self, tmp_path: Path) -> None:
        big = os.urandom(5 * 2**20)
        self.refuse(tmp_path, zipped({"end2end.onnx": NETWORK, "pipeline.json": big}), "pipeline.json has")

    def test_does_not_believe_a_size_that_lies(self, tmp_path: Path) -> None:
        data = bytearray(zipped({"end2end.onnx": NETWORK}, compression=zipfile.ZIP_STORED))
        for at in (22, data.index(b"PK\x01\x02") + 24):  # size before packing, in both headers
            data[at : at + 4] = (100).to_bytes(4, "little")
        self.refuse(tmp_path, bytes(data), "no usable zip")

    def test_refuses_a_crowd(self, tmp_path: Path) -> None:
        self.refuse(tmp_path, zipped({f"{i}": b"" for i in range(1001)}), "1001 members")

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_refuses_a_member_that_stands_there_twice(self, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for data in (NETWORK, b"other"):
                file.writestr("end2end.onnx", data)
        self.refuse(tmp_path, buffer.getvalue(), "twice")

    def test_refuses_encryption(self, tmp_path: Path) -> None:
        data = bytearray(zipped({"end2end.onnx": NETWORK}))
        for at in (6, data.index(b"PK\x01\x02") + 8):
            data[at] |= 1
        self.refuse(tmp_path, bytes(data), "encrypted")

    @pytest.mark.parametrize("names", [[], ["a/end2end.onnx", "b/end2end.onnx"], ["end2end.onnx/"], ["model.onnx"]])
    def test_refuses_anything_but_one_network(self, tmp_path: Path, names: list[str]) -> None:
        self.refuse(tmp_path, zipped(dict.fromkeys(names, b"")), "no MMDeploy SDK archive")

    @pytest.mark.parametrize("cut", [0, 10, 500])
    def test_refuses_half_an_archive(self, tmp_path: Path, cut: int) -> None:
        self.refuse(tmp_path, sdk()[:cut], "no usable zip")

    @pytest.mark.parametrize("lost", [1, 40, 500])
    def test_refuses_an_archive_that_lost_its_beginning(self, tmp_path: Path, lost: int) -> None:
        self.refuse(tmp_path, sdk()[lost:], "no usable zip")

    def test_refuses_a_flipped_bit(self, tmp_path: Path) -> None:
        data = bytearray(zipped({"end2end.onnx": NETWORK}, compression=zipfile.ZIP_STORED))
        data[5000] ^= 1
        self.refuse(tmp_path, bytes(data), "no usable zip")

    @pytest.mark.parametrize("compression", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
    def test_refuses_damage_whatever_it_is_packed_with(self, tmp_path: Path, compression: int) -> None:
        self.refuse(tmp_path, damaged(compression), "no usable zip")


def damaged(compression: int) -> bytes:
    data = bytearray(zipped({"end2end.onnx": NETWORK}, compression=compression))
    start = data.index(b"end2end.onnx") + len("end2end.onnx") + 12
    for at in range(start, start + 60):
        data[at] ^= 0x5A
    return bytes(data)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


PAPER = f"paper-{digest(CHECKPOINT)[:8]}.pth"
HEAD = 'schema = 1\n[sources]\npage = "a page"\n'


def entry(name: str, *lines: str, task: str = "pose") -> str:
    skeleton = [] if task == "detection" else ['skeleton = "coco17"']
    fields = [
        f'name = "{name}"',
        f'task = "{task}"',
        'family = "rtmpose"',
        'about = "people"',
        "input_size_wh = [192, 256]",
        'training_data = "none"',
        'licence = "Apache-2.0"',
        'source = "page"',
        *skeleton,
        *lines,
    ]
    return "[[model]]\n" + "\n".join(fields) + "\n"


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small manifest whose hosts do not exist: everything must come from the mirror on this machine."""
    embedded = tmp_path / "models" / "embedded"
    embedded.mkdir(parents=True)
    (embedded / "own.onnx").write_bytes(NETWORK)
    (embedded / "own.md").write_text("card")
    path = tmp_path / "models" / "manifest.toml"
    host = "https://models.invalid/v1"
    path.write_text(
        HEAD
        + f'[[alternatives]]\naddress = "{host}/"\nalso_at = "https://copy.invalid/"\n'
        + entry("first", f'sdk = {{ url = "{host}/first.zip" }}', 'aliases = ["one"]')
        + entry("pinned", f'sdk = {{ url = "{host}/pinned.zip", onnx_sha256 = "{digest(NETWORK)}" }}')
        + entry("plain", f'onnx = {{ url = "{host}/plain.onnx", sha256 = "{digest(NETWORK)}" }}', task="detection")
        + entry(
            "paper",
            f'pth = {{ url = "{host}/{PAPER}", sha256_prefix = "{digest(CHECKPOINT)[:8]}" }}',
        )
        + entry(
            "own",
            f'embedded = {{ path = "embedded/own.onnx", sha256 = "{digest(NETWORK)}", '
            'model_card = "embedded/own.md" }',
        )
    )
    monkeypatch.setattr(zoo, "manifest_path", lambda: path)
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("RTMPOSE_INFER_CACHE", str(folder))
    monkeypatch.delenv("RTMPOSE_INFER_OFFLINE", raising=False)
    monkeypatch.delenv("RTMPOSE_INFER_MIRRORS", raising=False)
    return folder


@pytest.fixture
def mirror(server: Server, manifest: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server as a mirror that holds every file of the small manifest."""
    monkeypatch.setenv("RTMPOSE_INFER_MIRRORS", server.url("/"))
    server.put("/first.zip", whole(sdk()))
    server.put("/pinned.zip", whole(sdk()))
    server.put("/plain.onnx", whole(NETWORK))
    server.put(f"/{PAPER}", whole(CHECKPOINT))
    return server


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class TestResolve:
    def test_returns_a_path_as_it_is(self, tmp_path: Path, manifest: Path, cache: Path) -> None:
        file = tmp_path / "mine.onnx"
        file.write_bytes(b"x")
        assert zoo.resolve(file) == file
        assert zoo.resolve(str(file)) == file
        assert zoo.resolve(tmp_path) == tmp_path

    @pytest.mark.parametrize("model", ["nothing/here", "mine.onnx", "./first", "~/x.onnx", Path("first")])
    def test_a_path_that_is_missing_is_an_error(self, manifest: Path, cache: Path, model: str | Path) -> None:
        with pytest.raises(ModelError, match="there is no model at"):
            zoo.resolve(model)

    def test_a_bare_word_is_a_name_before_it_is_a_folder(
        self, mirror: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "work" / "first").mkdir(parents=True)
        (tmp_path / "work" / "mine").mkdir()
        monkeypatch.chdir(tmp_path / "work")
        assert zoo.resolve("first").is_absolute()
        assert zoo.resolve("./first") == Path("first")
        assert zoo.resolve("mine") == Path("mine")

    def test_an_sdk_archive_becomes_a_folder(self, mirror: Server) -> None:
        folder = zoo.resolve("first", task="pose")
        assert (folder / "end2end.onnx").read_bytes() == NETWORK
        assert (folder / "pipeline.json").is_file()

    @pytest.mark.parametrize("name", ["one", "FIRST", "https://models.invalid/v1/first.zip", "first"])
    def test_knows_aliases_other_spellings_and_published_addresses(self, mirror: Server, name: str) -> None:
        assert (zoo.resolve(name) / "end2end.onnx").is_file()

    def test_an_unknown_name_is_answered_with_similar_ones(self, manifest: Path, cache: Path) -> None:
        with pytest.raises(ManifestError, match=r"no model 'frist'.*first"):
            zoo.resolve("frist")

    def test_an_unknown_address_is_never_opened(self, server: Server, manifest: Path, cache: Path) -> None:
        with pytest.raises(ModelError, match="not an address of the zoo"):
            zoo.resolve(server.put("/x.onnx", whole(NETWORK)))
        assert not server.requests

    def test_a_model_of_another_task_is_refused(self, mirror: Server) -> None:
        with pytest.raises(ModelError, match="plain is a detection model; a pose model is needed"):
            zoo.resolve("plain", task="pose")
        assert not mirror.requests

    def test_a_checkpoint_alone_is_answered_with_how_to_convert_it(self, mirror: Server) -> None:
        with pytest.raises(ModelError, match="rtmpose export paper"):
            zoo.resolve("paper")

    def test_an_embedded_model_needs_no_cache(
        self, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RTMPOSE_INFER_OFFLINE", "1")
        monkeypatch.setenv("RTMPOSE_INFER_CACHE", str(tmp_path / "never"))
        assert zoo.resolve("own") == manifest.parent / "embedded" / "own.onnx"
        assert not (tmp_path / "never").exists()

    @pytest.mark.parametrize("harm", [lambda p: p.write_bytes(b"x"), lambda p: p.unlink()])
    def test_an_embedded_model_that_is_damaged_is_an_error(
        self, manifest: Path, cache: Path, harm: Callable[[Path], object]
    ) -> None:
        harm(manifest.parent / "embedded" / "own.onnx")
        with pytest.raises(ChecksumError, match="reinstall"):
            zoo.resolve("own")


class TestFetch:
    def test_gives_each_kind_of_file(self, mirror: Server) -> None:
        assert zoo.fetch("plain").read_bytes() == NETWORK
        assert zoo.fetch("paper").read_bytes() == CHECKPOINT
        assert zoo.fetch("first", format="sdk").is_dir()
        with pytest.raises(ManifestError, match="has no 'pth' file; it has sdk"):
            zoo.fetch("first", format="pth")

    def test_asks_the_network_once(self, mirror: Server) -> None:
        assert zoo.fetch("first") == zoo.fetch("first") == zoo.resolve("first") == zoo.model_path("first")
        assert len(mirror.requests["/first.zip"]) == 1

    def test_a_model_that_is_here_is_used_without_writing_anything(self, mirror: Server, cache: Path) -> None:
        zoo.fetch("first")
        before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
        zoo.resolve("first")
        assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before

    def test_leaves_nothing_unfinished_behind(self, mirror: Server, cache: Path) -> None:
        zoo.fetch("first")
        zoo.fetch("plain")
        assert list((cache / "models" / "part").iterdir()) == []

    def test_an_interruption_leaves_nothing_behind(self, mirror: Server, cache: Path) -> None:
        def interrupt(done: int, total: int | None) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            zoo.fetch("plain", progress=interrupt)
        assert list((cache / "models" / "part").iterdir()) == []
        assert zoo.fetch("plain").read_bytes() == NETWORK

    def test_what_a_killed_process_left_is_swept_away_in_time(self, mirror: Server, cache: Path) -> None:
        left = cache / "models" / "part" / "left"
        fresh = cache / "models" / "part" / "fresh"
        left.mkdir(parents=True)
        fresh.mkdir()
        os.utime(left, (0, 0))
        zoo.fetch("plain")
        assert not left.exists()
        assert fresh.exists()

    def test_a_checkpoint_must_begin_as_its_name_promises(self, mirror: Server, cache: Path) -> None:
        mirror.put(f"/{PAPER}", whole(b"something else"))
        with pytest.raises(ChecksumError, match=f"begins with {digest(CHECKPOINT)[:8]}"):
            zoo.fetch("paper")
        assert not list(cache.rglob("*.pth"))

    def test_a_file_must_have_the_hash_of_the_manifest(self, mirror: Server, cache: Path) -> None:
        mirror.put("/plain.onnx", whole(b"something else"))
        with pytest.raises(ChecksumError, match=digest(NETWORK)):
            zoo.fetch("plain")
        assert not list(cache.rglob("*.onnx"))

    def test_the_network_in_an_archive_must_have_the_hash_of_the_manifest(self, mirror: Server, cache: Path) -> None:
        mirror.put("/pinned.zip", whole(sdk(b"something else")))
        with pytest.raises(ChecksumError, match="not the published one"):
            zoo.fetch("pinned")
        assert not list(cache.rglob("*.onnx"))
        mirror.put("/pinned.zip", whole(sdk()))
        assert (zoo.fetch("pinned") / "end2end.onnx").read_bytes() == NETWORK

    def test_an_archive_of_unknown_hash_must_stay_the_same(self, mirror: Server, cache: Path) -> None:
        folder = zoo.fetch("first")
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        mirror.put("/first.zip", whole(sdk(b"something else")))
        with pytest.raises(ChecksumError, match="--force"):
            zoo.fetch("first")
        assert (zoo.fetch("first", force=True) / "end2end.onnx").read_bytes() == b"something else"
        assert (zoo.fetch("first") / "end2end.onnx").read_bytes() == b"something else"

    def test_force_does_not_pass_over_a_published_hash(self, mirror: Server) -> None:
        zoo.fetch("plain")
        mirror.put("/plain.onnx", whole(b"something else"))
        with pytest.raises(ChecksumError):
            zoo.fetch("plain", force=True)
        assert zoo.fetch("plain").read_bytes() == NETWORK

    @pytest.mark.parametrize("name", ["first", "plain"])
    def test_a_damaged_model_is_fetched_again(
        self, mirror: Server, caplog: pytest.LogCaptureFixture, name: str
    ) -> None:
        path = zoo.fetch(name)
        victim = path / "end2end.onnx" if path.is_dir() else path
        victim.write_bytes(NETWORK[:-1] + b"!")
        assert zoo.resolve(name) == path
        assert victim.read_bytes() == NETWORK
        assert "is damaged" in caplog.text

    def test_a_missing_document_of_an_archive_is_damage_too(self, mirror: Server) -> None:
        folder = zoo.fetch("first")
        (folder / "pipeline.json").unlink()
        assert (zoo.fetch("first") / "pipeline.json").is_file()

    @pytest.mark.parametrize(
        "text",
        ["", "{", "[]", '{"url": 1}', "\udcff", json.dumps({"a": 1}), "[" * 100_000],
        ids=["empty", "cut", "list", "number", "not text", "another form", "nested"],
    )
    def test_a_record_that_cannot_be_read_is_passed_over(self, mirror: Server, cache: Path, text: str) -> None:
        zoo.fetch("first")
        (record,) = (cache / "models" / "known").iterdir()
        record.write_bytes(text.encode(errors="surrogateescape"))
        assert (zoo.fetch("first") / "end2end.onnx").is_file()

    def test_a_record_of_another_address_is_passed_over(self, mirror: Server, cache: Path) -> None:
        zoo.fetch("first")
        (record,) = (cache / "models" / "known").iterdir()
        record.write_text(json.dumps(json.loads(record.read_text()) | {"url": "https://elsewhere.invalid/first.zip"}))
        zoo.fetch("first")
        assert len(mirror.requests["/first.zip"]) == 2

    def test_a_record_cannot_point_outside_the_cache(self, mirror: Server, cache: Path, tmp_path: Path) -> None:
        zoo.fetch("plain")
        outside = tmp_path / "outside.onnx"
        outside.write_bytes(NETWORK)
        (record,) = (cache / "models" / "known").iterdir()
        record.write_text(json.dumps(json.loads(record.read_text()) | {"path": "../../outside.onnx"}))
        assert zoo.fetch("plain").is_relative_to(cache)

    def test_files_of_one_name_from_two_addresses_stay_apart(
        self, mirror: Server, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = manifest.with_name("other.toml")
        other.write_text(HEAD + entry("first", 'sdk = { url = "https://elsewhere.invalid/first.zip" }'))
        mirror.put("/first.zip", whole(sdk()), whole(sdk(b"another network")))
        one = zoo.fetch("first")
        monkeypatch.setattr(zoo, "manifest_path", lambda: other)
        two = zoo.fetch("first")
        assert (one / "end2end.onnx").read_bytes() == NETWORK
        assert (two / "end2end.onnx").read_bytes() == b"another network"
        monkeypatch.setattr(zoo, "manifest_path", lambda: manifest)
        assert zoo.model_path("first") == one

    @pytest.mark.parametrize("there", [NETWORK, b"damaged"])
    def test_the_right_content_is_in_place_whoever_was_first(
        self, mirror: Server, cache: Path, tmp_path: Path, there: bytes
    ) -> None:
        folder = zoo.fetch("first")
        (folder / "end2end.onnx").write_bytes(there)
        in_use = folder.stat().st_ino
        file = zoo.model_info("first").files["sdk"]
        store = Store(cache / "models")
        (tmp_path / "again.zip").write_bytes(sdk())
        assert store.put(file, tmp_path / "again.zip", digest(sdk())) == folder
        assert (folder.stat().st_ino == in_use) == (there == NETWORK)
        assert (folder / "end2end.onnx").read_bytes() == NETWORK
        assert list((cache / "models" / "part").iterdir()) == []

    def test_a_cache_that_cannot_be_written_is_an_error(
        self, mirror: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("x")
        monkeypatch.setenv("RTMPOSE_INFER_CACHE", str(tmp_path / "file" / "cache"))
        with pytest.raises(ModelError, match="RTMPOSE_INFER_CACHE"):
            zoo.fetch("plain")

    def test_a_full_disk_is_an_error(self, mirror: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("rtmpose_infer.zoo.store.atomic_write", full)
        with pytest.raises(ModelError, match="No space left on device"):
            zoo.fetch("plain")

    def test_the_error_of_a_failed_download_names_the_way_by_hand(self, mirror: Server, cache: Path) -> None:
        mirror.put("/first.zip", failing(404))
        with pytest.raises(ModelError) as caught:
            zoo.fetch("first")
        message = str(caught.value)
        assert str(cache / "models" / "by-hand" / "first.zip") in message
        assert "https://models.invalid/v1/first.zip" in message
        assert "https://copy.invalid/first.zip" in message
        assert "\n" not in message


class TestMirrors:
    def test_are_asked_in_order_before_the_published_address(
        self, mirror: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RTMPOSE_INFER_MIRRORS", f"{mirror.url('/empty/')}, {mirror.url('/full')}")
        mirror.put("/full/plain.onnx", whole(NETWORK))
        assert zoo.fetch("plain").read_bytes() == NETWORK
        assert list(mirror.requests) == ["/empty/plain.onnx", "/full/plain.onnx"]

    @pytest.mark.parametrize(
        ("form", "path"),
        [("/tree/{path}", "/tree/v1/plain.onnx"), ("/get/{file}", "/get/plain.onnx")],
    )
    def test_may_have_a_form(self, mirror: Server, monkeypatch: pytest.MonkeyPatch, form: str, path: str) -> None:
        monkeypatch.setenv("RTMPOSE_INFER_MIRRORS", mirror.url(form))
        mirror.put(path, whole(NETWORK))
        assert zoo.fetch("plain").read_bytes() == NETWORK

    def test_must_be_https(self, mirror: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RTMPOSE_INFER_MIRRORS", "http://mirror.invalid/")
        with pytest.raises(InputError, match="RTMPOSE_INFER_MIRRORS"):
            zoo.fetch("plain")

    def test_must_be_addresses(self, mirror: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RTMPOSE_INFER_MIRRORS", "https://[bad/")
        with pytest.raises(InputError, match=r"RTMPOSE_INFER_MIRRORS: .*bad.* is malformed"):
            zoo.fetch("plain")


class TestOffline:
    @pytest.fixture(autouse=True)
    def offline(self, mirror: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RTMPOSE_INFER_OFFLINE", "1")

    def test_fails_at_once_and_names_the_place_for_the_file(self, mirror: Server, cache: Path) -> None:
        with pytest.raises(ModelError) as caught:
            zoo.resolve("first")
        assert "https://models.invalid/v1/first.zip" in str(caught.value)
        assert str(cache / "models" / "by-hand" / "first.zip") in str(caught.value)
        assert not mirror.requests
        assert not cache.exists()

    @pytest.mark.parametrize(
        ("name", "file", "data"),
        [
            ("first", "first.zip", sdk()),
            ("plain", "plain.onnx", NETWORK),
            ("paper", PAPER, CHECKPOINT),
        ],
    )
    def test_takes_a_file_that_was_put_there(
        self, mirror: Server, cache: Path, name: str, file: str, data: bytes
    ) -> None:
        place = cache / "models" / "by-hand"
        place.mkdir(parents=True)
        (place / file).write_bytes(data)
        path = zoo.fetch(name)
        assert path.is_dir() == (name == "first")
        (place / file).unlink()
        assert zoo.fetch(name) == path
        assert not mirror.requests

    @pytest.mark.parametrize(("name", "file"), [("plain", "plain.onnx"), ("pinned", "pinned.zip")])
    def test_refuses_a_wrong_file_that_was_put_there(self, mirror: Server, cache: Path, name: str, file: str) -> None:
        place = cache / "models" / "by-hand"
        place.mkdir(parents=True)
        (place / file).write_bytes(sdk(b"something else"))
        with pytest.raises(ChecksumError, match=digest(NETWORK)):
            zoo.resolve(name)

    @pytest.mark.parametrize("compression", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
    def test_a_damaged_archive_that_was_put_there_is_not_called_a_full_disk(
        self, mirror: Server, cache: Path, compression: int
    ) -> None:
        place = cache / "models" / "by-hand"
        place.mkdir(parents=True)
        (place / "first.zip").write_bytes(damaged(compression))
        with pytest.raises(ModelError, match="no usable zip archive"):
            zoo.fetch("first")

    def test_uses_what_is_here(self, mirror: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("RTMPOSE_INFER_OFFLINE")
        path = zoo.fetch("first")
        monkeypatch.setenv("RTMPOSE_INFER_OFFLINE", "true")
        assert zoo.resolve("first") == path

    def test_a_damaged_model_is_an_error(self, mirror: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RTMPOSE_INFER_OFFLINE", "0")
        path = zoo.fetch("plain")
        monkeypatch.setenv("RTMPOSE_INFER_OFFLINE", "1")
        path.write_bytes(b"x")
        with pytest.raises(ChecksumError, match=str(path)):
            zoo.resolve("plain")


class TestLocal:
    def test_model_path_never_opens_a_connection(self, mirror: Server) -> None:
        with pytest.raises(ModelError, match="rtmpose models fetch first"):
            zoo.model_path("one")
        assert not mirror.requests
        assert zoo.fetch("first") == zoo.model_path("one")

    def test_verify_tells_present_absent_and_damaged_apart(self, mirror: Server) -> None:
        assert zoo.verify("plain") == (zoo.Verification("plain", "onnx", None),)
        path = zoo.fetch("plain")
        assert zoo.verify("plain") == (zoo.Verification("plain", "onnx", path),)
        path.write_bytes(b"x")
        (found,) = zoo.verify("plain")
        assert found.path == path
        assert "is damaged" in found.problem

    def test_local_formats_tells_what_is_here(self, mirror: Server) -> None:
        assert zoo.local_formats("plain") == ()
        zoo.fetch("plain")
        assert zoo.local_formats("plain") == ("onnx",)
        assert zoo.local_formats("own") == ("embedded",)

    def test_identify_knows_a_network_by_its_content(self, mirror: Server, tmp_path: Path) -> None:
        copy = tmp_path / "renamed.onnx"
        copy.write_bytes(NETWORK)
        found = zoo.identify(copy)
        assert found is not None
        assert found.spec_fields == {"input_size_wh": (192, 256), "skeleton": "coco17"}
        assert zoo.identify(zoo.fetch("first")) == found
        copy.write_bytes(b"x")
        assert zoo.identify(copy) is None

    def test_what_the_zoo_knows_goes_with_a_name_and_with_a_file_of_known_content(
        self, mirror: Server, tmp_path: Path
    ) -> None:
        known = {"input_size_wh": (192, 256), "skeleton": "coco17"}
        folder = zoo.resolve("pinned")
        assert zoo.spec_fields("pinned", folder) == known
        assert zoo.spec_fields(folder, folder) == known
        assert zoo.spec_fields(str(folder / "end2end.onnx"), folder / "end2end.onnx") == known
        assert zoo.spec_fields("plain", zoo.resolve("plain")) == {"input_size_wh": (192, 256)}

    def test_nothing_is_known_of_other_files(self, manifest: Path, cache: Path, tmp_path: Path) -> None:
        (tmp_path / "mine.onnx").write_bytes(b"mine")
        (tmp_path / "mine.param").write_bytes(NETWORK)
        for name in ("mine.onnx", "mine.param", "empty", "gone.onnx"):
            assert zoo.spec_fields(tmp_path / name, tmp_path / name) == {}

    def test_the_published_animal_network_is_not_taken_for_a_person_s(self) -> None:
        # Both have 17 keypoints, so the shapes alone would say the wrong thing.
        assert zoo.model_info("rtmpose-m-animal").spec_fields["skeleton"] == "ap10k17"
        assert zoo.model_info("rtmdet-nano-hand").spec_fields["class_names"] == ("hand",)


PROGRAM = """
import sys
from pathlib import Path
from rtmpose_infer import zoo
import rtmpose_infer.cache
zoo.manifest_path = lambda: Path(sys.argv[1])
if "unlocked" in sys.argv:
    rtmpose_infer.cache._try_lock = lambda handle: True
print(zoo.fetch("first"))
"""


class TestTwoProcesses:
    def start(self, manifest: Path, *args: str) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
        command = [sys.executable, "-c", PROGRAM, str(manifest), *args]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )

    def test_download_once_and_share(self, mirror: Server, manifest: Path) -> None:
        processes = [self.start(manifest) for _ in range(3)]
        results = [process.communicate(timeout=60) for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0], results
        assert len({out for out, _ in results}) == 1
        assert len(mirror.requests["/first.zip"]) == 1

    def test_are_safe_where_the_file_system_has_no_locks(self, mirror: Server, manifest: Path) -> None:
        together = threading.Barrier(3, timeout=60)

        def at_the_same_time(handler: Handler) -> None:
            together.wait()
            whole(sdk())(handler)

        mirror.put("/first.zip", at_the_same_time)
        processes = [self.start(manifest, "unlocked") for _ in range(3)]
        results = [process.communicate(timeout=60) for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0], results
        assert len(mirror.requests["/first.zip"]) == 3
        assert (zoo.model_path("first") / "end2end.onnx").read_bytes() == NETWORK

    @pytest.mark.skipif(sys.platform == "win32", reason="kills with a POSIX signal")
    def test_one_that_is_killed_does_not_block_the_next(self, mirror: Server, manifest: Path) -> None:
        asked = threading.Event()

        def half(handler: Handler) -> None:
            handler.begin(200, Content_Length=len(sdk()))
            handler.wfile.write(sdk()[:100])
            handler.wfile.flush()
            asked.set()
            handler.server.released.wait(60)

        mirror.put("/first.zip", half, whole(sdk()))
        process = self.start(manifest)
        assert asked.wait(60)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert (zoo.fetch("first") / "end2end.onnx").read_bytes() == NETWORK


class TestManifest:
    def load(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "m.toml"
        path.write_text(text)
        load_manifest.__wrapped__(path)

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("schema = ", "no TOML"),
            ("schema = 9", "schema 9"),
            (HEAD + '[[model]]\nname = "a"', "is missing"),
            (HEAD + entry("Bad_Name", 'pth = { url = "https://a/b.pth" }'), "is no name"),
            (HEAD + entry("a", 'pth = { url = "https://a/b.pth" }') * 2, "two entries are called 'a'"),
            (HEAD + entry("a", 'aliases = ["a"]', 'pth = { url = "https://a/b.pth" }'), "two entries"),
            (HEAD + entry("a", 'pth = { url = "http://a/b.pth" }'), "https"),
            (HEAD + entry("a", 'pth = { url = "https://a/b.zip" }'), r"no name of a \.pth file"),
            (HEAD + entry("a", 'pth = { url = "https://a/b c.pth" }'), r"no name of a \.pth file"),
            (HEAD + entry("a", 'pth = { url = "https://a/b.pth", sha256_prefix = "xyz" }'), "hex digits"),
            (HEAD + entry("a", 'pth = { url = "https://a/b.pth", md5 = "1" }'), "unknown fields md5"),
            (HEAD + entry("a", 'pth = { url = "https://a/b.pth" }', "speed = 1"), "unknown fields speed"),
            (HEAD + entry("a", 'pth = { url = "https://a/b.pth" }', "params_m = -1"), "positive number"),
            (HEAD + entry("a", 'pth = { url = "https://a/b.pth" }', "metrics = [{ name = 1 }]"), "metric"),
            (HEAD + entry("a", 'pth = { url = "https://a/b.pth" }', task="dance"), "task 'dance'"),
            (HEAD + entry("a"), "has no file"),
            (HEAD + entry("a", 'embedded = { path = "../x.onnx", sha256 = "' + "0" * 64 + '" }'), "below"),
            (HEAD + entry("a", 'embedded = { path = "x.onnx", model_card = "x.md" }'), "needs its sha256"),
        ],
    )
    def test_a_mistake_is_named(self, tmp_path: Path, text: str, match: str) -> None:
        with pytest.raises(ManifestError, match=match):
            self.load(tmp_path, text)

    def test_a_missing_list_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ManifestError, match="Reinstall"):
            load_manifest(tmp_path / "none.toml")


class TestPublishedFamily:
    """What the committed manifest says."""

    def test_every_skeleton_exists(self) -> None:
        for info in zoo.list_models():
            if info.skeleton:
                assert load_skeleton(info.skeleton).name == info.skeleton

    def test_file_names_are_unique_so_that_a_flat_mirror_can_hold_them(self) -> None:
        names = [file.file_name for info in zoo.list_models() for file in info.files.values()]
        assert len(set(names)) == len(names)

    def test_hash_digits_are_those_in_the_file_names(self) -> None:
        seen = 0
        for info in zoo.list_models():
            file = info.files.get("pth")
            digits = file and (file.sha256_prefix or file.sha256[:8])
            if digits:
                # The hand network's published name lost the first digit of its hash.
                written = digits[1:] if info.name == "rtmpose-m-hand" else digits
                assert f"-{written}" in file.file_name
                seen += 1
        assert seen > 40

    def test_only_checkpoints_without_digits_in_their_name_go_unchecked(self) -> None:
        unchecked = {
            info.name
            for info in zoo.list_models()
            if "pth" in info.files and not (info.files["pth"].sha256_prefix or info.files["pth"].sha256)
        }
        assert unchecked == {"rtmw-m", "rtmw-l", "rtmw-l-384"}

    def test_embedded_files_are_what_the_manifest_says(self) -> None:
        for info in zoo.list_models():
            if "embedded" in info.files:
                assert zoo.resolve(info.name) == info.files["embedded"].path
                assert info.files["embedded"].model_card.is_file()

    @pytest.mark.parametrize(
        "name",
        [
            *(f"rtmpose-{size}" for size in "tsmlx"),
            *(f"rtmpose-{size}-26" for size in "tsmlx"),
            *(f"rtmpose-{size}-133" for size in "tsmlx"),
            *(f"yolox-{size}" for size in ("nano", "tiny", "s", "m", "l", "x")),
            *("rtmdet-nano", "rtmdet-m", "rtmdet-nano-hand"),
            *("rtmpose-m-hand", "rtmpose-m-face", "rtmpose-m-animal"),
            *("rtmw-m", "rtmw-l", "rtmw-x", "rtmw-l-384", "rtmw-x-384"),
            *("rtmo-s", "rtmo-m", "rtmo-l"),
            *("dwpose-t", "dwpose-s", "dwpose-m", "dwpose-l"),
        ],
    )
    def test_the_family_is_complete(self, name: str) -> None:
        assert zoo.model_info(name).files

    @pytest.mark.parametrize(
        ("name", "task", "size", "skeleton"),
        [
            ("rtmdet-nano", "detection", (320, 320), ""),
            ("rtmpose-m", "pose", (192, 256), "coco17"),
            ("rtmpose-m-26", "pose", (192, 256), "halpe26"),
            ("rtmpose-x", "pose", (288, 384), "coco17"),
            ("rtmw-l-384", "pose", (288, 384), "wholebody133"),
            ("rtmo-s", "one_stage", (640, 640), "coco17"),
        ],
    )
    def test_the_short_names_mean_what_can_run(
        self, name: str, task: str, size: tuple[int, int], skeleton: str
    ) -> None:
        info = zoo.model_info(name)
        assert (info.task, info.input_size_wh, info.skeleton) == (task, size, skeleton)
        assert info.runnable is not None

    def test_input_sizes_agree_with_the_published_names(self) -> None:
        for info in zoo.list_models():
            width, height = info.input_size_wh
            for file in info.files.values():
                if info.task == "pose" and file.url:
                    assert f"{height}x{width}" in file.file_name

    def test_listing_by_task(self) -> None:
        assert {info.task for info in zoo.list_models(task="detection")} == {"detection"}
        with pytest.raises(InputError, match="unknown task"):
            zoo.list_models(task="dance")

    def test_addresses_of_openmmlab_have_the_copy_as_second(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("RTMPOSE_INFER_MIRRORS", raising=False)
        file = zoo.model_info("rtmpose-m").files["sdk"]
        first, second = zoo._addresses(file)
        assert first == file.url
        assert second.endswith("/rtmposev1/onnx_sdk/" + file.file_name)
        assert second.startswith("https://")

    def test_addresses_and_figures_are_those_of_the_reference_page(self, shared: Path) -> None:
        page = (shared / "reference" / "model_zoo.md").read_text()
        for info in zoo.list_models():
            if info.source.startswith("RTMPose"):
                assert info.files["pth"].url in page
                rows = [row for row in page.split("\n- ") if info.files["pth"].url in row]
                cells = {cell.strip() for row in rows for cell in re.split(r"[;/\n]", row)}
                numbers = {float(cell) for cell in cells if re.fullmatch(r"\d+(\.\d+)?", cell)}
                assert {metric.value for metric in info.metrics} <= numbers, info.name
                assert {info.params_m, info.gflops} - {None} <= numbers, info.name

    def test_the_manifest_in_use_is_the_checkout_s(self) -> None:
        assert manifest_path() == ROOT / "models" / "manifest.toml"
