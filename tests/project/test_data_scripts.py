"""The scripts that download the official data: against a local server that breaks off and sends wrong bytes, and with
malicious archives."""

import hashlib
import importlib
import io
import json
import os
import pickle
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
import fetching  # noqa: E402
from assertions import assert_input_error  # noqa: E402
from fetching import DataSet, Source, fetch, file_problems, main, unpack  # noqa: E402


class Server:
    """A server of one file: at most `max_bytes` in each response, status codes to send first, the ETag of the content,
    and whether ranges are supported."""

    def __init__(self):
        self.content, self.max_bytes, self.statuses, self.tag, self.ranges, self.requested_ranges = (
            bytes(range(256)) * 4096,
            None,
            [],
            '"one"',
            True,
            [],
        )
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                server.requested_ranges.append(self.headers.get("Range"))
                if server.statuses and (status := server.statuses.pop(0)) != 200:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                first = (
                    int(self.headers["Range"][6:-1])
                    if server.ranges and self.headers.get("Range") and self.headers.get("If-Range") == server.tag
                    else 0
                )
                if first > len(server.content):
                    self.send_response(416)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                body = server.content[first:]
                self.send_response(206 if first else 200)
                if first:
                    self.send_header("Content-Range", f"bytes {first}-{len(server.content) - 1}/{len(server.content)}")
                if server.tag:
                    self.send_header("ETag", server.tag)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body if server.max_bytes is None else body[: server.max_bytes])
                if server.max_bytes is not None and len(body) > server.max_bytes:
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def source(self, **options) -> Source:
        return Source(f"http://127.0.0.1:{self.http.server_port}/images.zip", "images.zip", **options)


@pytest.fixture
def server():
    file_server = Server()
    yield file_server
    file_server.http.shutdown()
    file_server.http.server_close()


def file_names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")} - {"downloads.json"}


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def test_a_file_is_downloaded_once_and_recorded(server, tmp_path):
    path = fetch(server.source(digest=digest_of(server.content)), tmp_path)
    assert path.read_bytes() == server.content and file_names(tmp_path) == {"images.zip"}
    assert (
        json.loads((tmp_path / "downloads.json").read_text())["images.zip"]["sha256"] == digest_of(server.content)[7:]
    )
    fetch(server.source(), tmp_path)
    assert len(server.requested_ranges) == 1  # an existing file is not requested again


def test_interrupted_downloads_are_continued(server, tmp_path):
    server.max_bytes = 300_000
    assert fetch(server.source(digest=digest_of(server.content)), tmp_path, wait=0.01).read_bytes() == server.content
    starts = [int(range_header[6:-1]) for range_header in server.requested_ranges if range_header]
    assert len(server.requested_ranges) >= 4 and starts == sorted(starts) and starts[-1] > 600_000


def test_killed_downloads_are_continued_in_the_next_run(server, tmp_path):
    (tmp_path / ".images.zip.part").write_bytes(server.content[:700_000])
    (tmp_path / ".images.zip.json").write_text('{"validator": "\\"one\\""}')
    server.max_bytes = None
    assert fetch(
        server.source(digest=digest_of(server.content)), tmp_path
    ).read_bytes() == server.content and server.requested_ranges == ["bytes=700000-"]


@pytest.mark.parametrize("change", ["another file", "no ranges", "no tag", "shorter"])
def test_partial_files_are_not_continued_with_another_file(server, tmp_path, change):
    (tmp_path / ".images.zip.part").write_bytes(b"x" * 2_000_000 if change == "shorter" else b"x" * 500_000)
    (tmp_path / ".images.zip.json").write_text(
        '{"validator": null}' if change == "no tag" else '{"validator": "\\"one\\""}'
    )
    if change == "another file":
        server.tag = '"two"'
    if change == "no ranges":
        server.ranges = False
    assert fetch(
        server.source(digest=digest_of(server.content)), tmp_path, wait=0.01
    ).read_bytes() == server.content and file_names(tmp_path) == {"images.zip"}


def test_wrong_bytes_are_rejected_and_deleted(server, tmp_path):
    assert_input_error(lambda: fetch(server.source(digest=digest_of(b"other")), tmp_path), "images.zip", "published")
    assert file_names(tmp_path) == set()


def test_files_that_changed_since_the_first_download_are_rejected(server, tmp_path):
    fetch(server.source(), tmp_path).unlink()
    server.content = b"changed" * 1000
    assert_input_error(lambda: fetch(server.source(), tmp_path), "of the first download")
    (tmp_path / "images.zip").write_bytes(b"changed by hand")
    assert_input_error(lambda: fetch(server.source(), tmp_path), "of the first download")


@pytest.mark.parametrize("status", [403, 404, 500])
def test_errors_of_the_server_are_reported_at_once(server, tmp_path, status):
    server.statuses = [status]
    assert_input_error(lambda: fetch(server.source(), tmp_path), f"answers {status}", "by hand")
    assert len(server.requested_ranges) == 1


def test_unreachable_servers_are_reported(tmp_path):
    assert_input_error(
        lambda: fetch(Source("http://127.0.0.1:9/none.zip", "none.zip"), tmp_path, tries=2, wait=0.01),
        "cannot be reached",
        "it resumes",
    )


def test_missing_disk_space_is_reported(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    assert_input_error(lambda: fetch(server.source(), tmp_path), "1,000 bytes free", "Make room")


# Archives


def make_zip(path: Path, members: dict) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            if isinstance(content, tuple):
                info.external_attr, content = (content[0] | 0o777) << 16, content[1]
            archive.writestr(info, content)
    return path


def make_tar(path: Path, members: dict, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


@pytest.mark.parametrize("make, name", [(make_zip, "a.zip"), (make_tar, "a.tar.gz")])
def test_archives_are_unpacked_beside_existing_files(tmp_path, make, name):
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "data/images/0.jpg").write_bytes(b"zero")
    unpack(make(tmp_path / name, {"images/1.jpg": b"one", "list.txt": b"1"}), tmp_path / "data")
    assert file_names(tmp_path / "data") == {"images", "0.jpg", "1.jpg", "list.txt"}


PATHS_OUTSIDE = {
    "above": {"../evil.txt": b"x"},
    "deep": {"good.txt": b"x", "a/../../evil.txt": b"x"},
    "absolute": {"/evil-of-cgsaliency.txt": b"x"},
}


@pytest.mark.parametrize("make, name", [(make_zip, "a.zip"), (make_tar, "a.tar")])
@pytest.mark.parametrize("kind", PATHS_OUTSIDE)
def test_archives_with_paths_outside_the_folder_are_rejected(tmp_path, make, name, kind):
    assert_input_error(
        lambda: unpack(make(tmp_path / name, PATHS_OUTSIDE[kind]), tmp_path / "data"),
        name,
        "lies outside its folder",
        "Do not use it",
    )
    assert file_names(tmp_path) == {name, "data"} and not Path("/evil-of-cgsaliency.txt").exists()


@pytest.mark.parametrize(
    "make, name, members",
    [
        (make_zip, "a.zip", {"good.txt": b"x", "link": (stat.S_IFLNK, "/etc/passwd")}),
        (make_tar, "a.tar", {"link": (tarfile.SYMTYPE, "/etc/passwd")}),
        (make_tar, "b.tar", {"link": (tarfile.LNKTYPE, "../../x")}),
        (make_tar, "c.tar", {"device": (tarfile.CHRTYPE, "")}),
        (make_tar, "d.tar", {"pipe": (tarfile.FIFOTYPE, "")}),
    ],
)
def test_archives_with_links_and_devices_are_rejected(tmp_path, make, name, members):
    assert_input_error(lambda: unpack(make(tmp_path / name, members), tmp_path / "data"), "a link, a device")
    assert file_names(tmp_path) == {name, "data"}


def test_archive_bombs_are_rejected_before_unpacking(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "LARGE", 1 << 20)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("zeros", "w", force_zip64=True) as file:
            for _ in range(20):
                file.write(bytes(1 << 20))
    assert_input_error(lambda: unpack(path, tmp_path / "data"), "would become", "Do not use it")
    assert file_names(tmp_path) == {"bomb.zip", "data"}


@pytest.mark.parametrize(
    "name, content",
    [
        ("cut.zip", b"PK\x03\x04 and no more"),
        ("cut.tar.gz", b"\x1f\x8b\x08 and no more"),
        ("text.tar", b"a page that says not found"),
    ],
)
def test_broken_archives_leave_no_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert_input_error(lambda: unpack(tmp_path / name, tmp_path / "data"), name, "cannot be unpacked")
    assert file_names(tmp_path) == {name, "data"}


def test_truncated_archives_leave_no_files(tmp_path):
    path = make_tar(tmp_path / "a.tar.gz", {f"{k}.bin": os.urandom(50_000) for k in range(4)})
    path.write_bytes(path.read_bytes()[:120_000])
    assert_input_error(lambda: unpack(path, tmp_path / "data"), "cannot be unpacked")
    assert file_names(tmp_path) == {"a.tar.gz", "data"}


def test_rar_without_a_tool_is_reported_with_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.rar").write_bytes(b"Rar!\x1a\x07\x00")
    monkeypatch.setattr(fetching.shutil, "which", lambda name: None)
    assert_input_error(lambda: unpack(tmp_path / "a.rar", tmp_path / "data"), "RAR", "libarchive-tools")


# The command


def test_missing_empty_and_unknown_files_are_listed(tmp_path):
    (tmp_path / "a").mkdir()
    for name, content in (("1.jpg", b"x"), ("2.jpg", b""), ("9.jpg", b"x")):
        (tmp_path / "a" / name).write_bytes(content)
    assert file_problems(tmp_path / "a", ["1.jpg", "2.jpg", "3.jpg"], ".jpg") == [
        f"{tmp_path}/a/3.jpg: missing",
        f"{tmp_path}/a/9.jpg: not of the data set",
        f"{tmp_path}/a/2.jpg: is empty",
    ]
    assert file_problems(tmp_path / "none", ["1.jpg"], ".jpg") == [f"{tmp_path}/none/1.jpg: missing"]


def test_main_downloads_checks_and_repairs(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fetching.time, "sleep", lambda seconds: None)
    server.content = make_zip(tmp_path / "source.zip", {"images/1.jpg": b"one", "images/2.jpg": b"two"}).read_bytes()
    data_set = DataSet(
        "Toy",
        "toy",
        "Nothing has to be asked for.",
        lambda folder: file_problems(folder / "images", ["1.jpg", "2.jpg"], ".jpg"),
        (server.source(digest=digest_of(server.content), unpack="."),),
    )
    assert main(data_set, [str(tmp_path / "DATA"), "--check"]) == 1
    assert "2.jpg: missing" in capsys.readouterr().out and not (tmp_path / "DATA").exists()
    server.max_bytes = 100
    assert main(data_set, [str(tmp_path / "DATA")]) == 0 and "complete" in capsys.readouterr().out
    num_requests = len(server.requested_ranges)
    assert main(data_set, [str(tmp_path / "DATA")]) == 0 and len(server.requested_ranges) == num_requests
    (tmp_path / "DATA/toy/images/1.jpg").unlink()
    assert main(data_set, [str(tmp_path / "DATA"), "--check"]) == 1 and "1.jpg: missing" in capsys.readouterr().out
    with pytest.raises(SystemExit) as raised:
        main(data_set, [])
    assert raised.value.code == 2


SCRIPTS = ("flickr30k", "flickr30k_entities", "coco", "msvd", "msrvtt", "ucf101", "thumos14", "weights")


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_describes_its_steps_and_missing_files(tmp_path, name, capsys):
    data_set = getattr(importlib.import_module(name), name.upper())
    with pytest.raises(SystemExit) as raised:
        main(data_set, ["--help"])
    assert raised.value.code == 0 and "DATA" in capsys.readouterr().out
    assert main(data_set, [str(tmp_path / "DATA"), "--check"]) == 1
    printed = capsys.readouterr()
    assert (
        printed.out
        and "missing or unexpected" in printed.err
        and data_set.by_hand in printed.err
        and not (tmp_path / "DATA").exists()
    )


@pytest.mark.slow
def test_scripts_run_from_any_folder(tmp_path):
    completed = subprocess.run(
        [sys.executable, str(ROOT / "data_scripts/thumos14.py"), str(tmp_path / "DATA"), "--check"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (
        completed.returncode == 1
        and "Traceback" not in completed.stderr
        and "missing or unexpected" in completed.stderr
    )


def test_synthetic_data_sets_pass_the_checks(toybox):
    import flickr30k
    import flickr30k_entities

    assert (
        list(flickr30k.check(toybox / "flickr30k", 12)) == []
        and list(flickr30k_entities.check(toybox / "flickr30k_entities", {"train": 8, "val": 2, "test": 2})) == []
    )
    assert any("31,783" in problem for problem in flickr30k.check(toybox / "flickr30k"))


@pytest.mark.slow
def test_official_annotations_pass_the_checks(shared_data):
    import flickr30k_entities
    import thumos14

    assert list(flickr30k_entities.check(shared_data / "flickr30k_entities")) == []
    assert all("mp4: missing" in problem for problem in thumos14.check(shared_data / "thumos14"))


SQUEEZENET = {"squeezenet1_1": "squeezenet1_1-00000000.pth"}


def test_weights_are_converted_without_changes(tmp_path):
    import weights

    network = torchvision.models.squeezenet1_1()
    torch.save(network.state_dict(), tmp_path / SQUEEZENET["squeezenet1_1"])
    weights.convert(tmp_path, SQUEEZENET)
    assert list(weights.check(tmp_path, SQUEEZENET)) == []
    converted = load_file(weights.imagenet_path(tmp_path, "squeezenet1_1"))
    assert converted.keys() == network.state_dict().keys() and all(
        torch.equal(converted[name], value) for name, value in network.state_dict().items()
    )


@pytest.mark.parametrize("content", [b"", b"words", pickle.dumps(os.getcwd, 2)], ids=["empty", "words", "code"])
def test_files_without_weights_are_rejected(tmp_path, content):
    import weights

    (tmp_path / SQUEEZENET["squeezenet1_1"]).write_bytes(content)
    assert_input_error(lambda: weights.convert(tmp_path, SQUEEZENET), "holds no weights", "Delete it")
    assert (
        not weights.imagenet_path(tmp_path, "squeezenet1_1").exists()
        and len(list(weights.check(tmp_path, SQUEEZENET))) == 1
    )


def test_published_digests_may_be_truncated(server, tmp_path):
    assert fetch(server.source(digest=digest_of(server.content)[:15]), tmp_path).is_file()
    assert_input_error(lambda: fetch(server.source(digest="sha256:00000000"), tmp_path / "other"), "00000000")


def test_karpathy_splits_become_lists(toybox, tmp_path):
    import flickr30k_entities

    data = Path(shutil.copytree(toybox, tmp_path / "data"))
    lists = data / "flickr30k_entities/karpathy"
    before = {path.name: path.read_text() for path in lists.glob("imgs_*.txt")}
    images = [
        {"filename": f"{name.removesuffix('.jpg')}.jpg", "split": path.stem.removeprefix("imgs_")}
        for path in lists.glob("imgs_*.txt")
        for name in path.read_text().split()
    ]
    for path in lists.glob("imgs_*.txt"):
        path.unlink()
    (lists / "dataset_flickr30k.json").write_text(json.dumps({"images": images}))
    flickr30k_entities.prepare(data)
    assert {name: path.read_text().replace(".jpg", "").split() for name in before for path in [lists / name]} == {
        name: text.replace(".jpg", "").split() for name, text in before.items()
    }
