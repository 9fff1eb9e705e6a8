"""The scripts that fetch the official data, against a server on this machine that breaks off, sends wrong bytes, and malicious archives."""
import hashlib, importlib, io, json, os, pickle, shutil, socket, stat, subprocess, sys, tarfile, threading, zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "data_scripts"))
import fetching
from fetching import DataSet, Source, compared, fetch, main, unpack
from faults import refused


class Server:
    "A file, and how it is served: `cut` bytes an answer at most, `plan` of status codes, `tag` of the content, whether ranges are known."
    def __init__(self):
        self.content, self.cut, self.statuses, self.tag, self.ranges, self.asked = bytes(range(256)) * 4096, None, [], '"one"', True, []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            def log_message(self, *_): pass
            def do_GET(self):
                server.asked.append(self.headers.get("Range"))
                if server.statuses and (status := server.statuses.pop(0)) != 200:
                    self.send_response(status); self.send_header("Content-Length", "0"); self.end_headers(); return
                first = int(self.headers["Range"][6:-1]) if server.ranges and self.headers.get("Range") and self.headers.get("If-Range") == server.tag else 0
                if first > len(server.content): self.send_response(416); self.send_header("Content-Length", "0"); self.end_headers(); return
                body = server.content[first:]
                self.send_response(206 if first else 200)
                if first: self.send_header("Content-Range", f"bytes {first}-{len(server.content) - 1}/{len(server.content)}")
                if server.tag: self.send_header("ETag", server.tag)
                self.send_header("Content-Length", str(len(body))); self.end_headers()
                self.wfile.write(body if server.cut is None else body[:server.cut])
                if server.cut is not None and len(body) > server.cut: self.wfile.flush(); self.connection.shutdown(socket.SHUT_RDWR); self.close_connection = True

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def source(self, **more) -> Source: return Source(f"http://127.0.0.1:{self.http.server_port}/pictures.zip", "pictures.zip", **more)


@pytest.fixture
def server():
    one = Server()
    yield one
    one.http.shutdown(); one.http.server_close()


def left(folder: Path) -> set[str]: return {path.name for path in folder.rglob("*")} - {"downloads.json"}
def sha(content: bytes) -> str: return "sha256:" + hashlib.sha256(content).hexdigest()


def test_a_file_arrives_whole_and_is_recorded(server, tmp_path):
    path = fetch(server.source(digest=sha(server.content)), tmp_path)
    assert path.read_bytes() == server.content and left(tmp_path) == {"pictures.zip"}
    assert json.loads((tmp_path / "downloads.json").read_text())["pictures.zip"]["sha256"] == sha(server.content)[7:]
    fetch(server.source(), tmp_path)
    assert len(server.asked) == 1                                     # what is there is not asked for again


def test_a_download_that_breaks_off_goes_on_where_it_was(server, tmp_path):
    server.cut = 300_000
    assert fetch(server.source(digest=sha(server.content)), tmp_path, wait=0.01).read_bytes() == server.content
    starts = [int(asked[6:-1]) for asked in server.asked if asked]
    assert len(server.asked) >= 4 and starts == sorted(starts) and starts[-1] > 600_000


def test_a_killed_download_goes_on_in_the_next_run(server, tmp_path):
    (tmp_path / ".pictures.zip.part").write_bytes(server.content[:700_000])
    (tmp_path / ".pictures.zip.json").write_text('{"validator": "\\"one\\""}')
    server.cut = None
    assert fetch(server.source(digest=sha(server.content)), tmp_path).read_bytes() == server.content and server.asked == ["bytes=700000-"]


@pytest.mark.parametrize("change", ["another file", "no ranges", "no tag", "shorter"])
def test_a_part_is_not_continued_with_other_bytes(server, tmp_path, change):
    (tmp_path / ".pictures.zip.part").write_bytes(b"x" * 2_000_000 if change == "shorter" else b"x" * 500_000)
    (tmp_path / ".pictures.zip.json").write_text('{"validator": null}' if change == "no tag" else '{"validator": "\\"one\\""}')
    if change == "another file": server.tag = '"two"'
    if change == "no ranges": server.ranges = False
    assert fetch(server.source(digest=sha(server.content)), tmp_path, wait=0.01).read_bytes() == server.content and left(tmp_path) == {"pictures.zip"}


def test_wrong_bytes_are_refused_and_not_kept(server, tmp_path):
    refused(lambda: fetch(server.source(digest=sha(b"other")), tmp_path), "pictures.zip", "published")
    assert left(tmp_path) == set()


def test_a_file_that_changed_since_is_refused(server, tmp_path):
    fetch(server.source(), tmp_path).unlink()
    server.content = b"changed" * 1000
    refused(lambda: fetch(server.source(), tmp_path), "of the first download")
    (tmp_path / "pictures.zip").write_bytes(b"spoilt by hand")
    refused(lambda: fetch(server.source(), tmp_path), "of the first download")


@pytest.mark.parametrize("status", [403, 404, 500])
def test_what_the_server_does_not_have_is_said_at_once(server, tmp_path, status):
    server.statuses = [status]
    refused(lambda: fetch(server.source(), tmp_path), f"answers {status}", "by hand")
    assert len(server.asked) == 1


def test_nobody_answers(tmp_path):
    refused(lambda: fetch(Source("http://127.0.0.1:9/none.zip", "none.zip"), tmp_path, tries=2, wait=0.01), "cannot be reached", "what arrived is kept")


def test_no_room(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    refused(lambda: fetch(server.source(), tmp_path), "1,000 bytes free", "Make room")


# ---------------------------------------------------------------- archives

def zipped(path: Path, members: dict) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            if isinstance(content, tuple): info.external_attr, content = (content[0] | 0o777) << 16, content[1]
            packed.writestr(info, content)
    return path


def tarred(path: Path, members: dict, how: str = "w:gz") -> Path:
    with tarfile.open(path, how) as packed:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple): info.type, info.linkname = content
            else: info.size = len(content)
            packed.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


@pytest.mark.parametrize("make, name", [(zipped, "a.zip"), (tarred, "a.tar.gz")])
def test_an_archive_is_unpacked_beside_what_is_there(tmp_path, make, name):
    (tmp_path / "data/pictures").mkdir(parents=True)
    (tmp_path / "data/pictures/0.jpg").write_bytes(b"zero")
    unpack(make(tmp_path / name, {"pictures/1.jpg": b"one", "list.txt": b"1"}), tmp_path / "data")
    assert left(tmp_path / "data") == {"pictures", "0.jpg", "1.jpg", "list.txt"}


BAD = {"above": {"../evil.txt": b"x"}, "deep": {"good.txt": b"x", "a/../../evil.txt": b"x"}, "absolute": {"/evil-of-cgsaliency.txt": b"x"}}

@pytest.mark.parametrize("make, name", [(zipped, "a.zip"), (tarred, "a.tar")])
@pytest.mark.parametrize("kind", BAD)
def test_nothing_of_an_archive_lies_elsewhere(tmp_path, make, name, kind):
    refused(lambda: unpack(make(tmp_path / name, BAD[kind]), tmp_path / "data"), name, "lies outside its folder", "Do not use it")
    assert left(tmp_path) == {name, "data"} and not Path("/evil-of-cgsaliency.txt").exists()


@pytest.mark.parametrize("make, name, members", [(zipped, "a.zip", {"good.txt": b"x", "link": (stat.S_IFLNK, "/etc/passwd")}), (tarred, "a.tar", {"link": (tarfile.SYMTYPE, "/etc/passwd")}), (tarred, "b.tar", {"link": (tarfile.LNKTYPE, "../../x")}),
                                                 (tarred, "c.tar", {"device": (tarfile.CHRTYPE, "")}), (tarred, "d.tar", {"pipe": (tarfile.FIFOTYPE, "")})])
def test_links_and_devices_are_refused(tmp_path, make, name, members):
    refused(lambda: unpack(make(tmp_path / name, members), tmp_path / "data"), "a link, a device")
    assert left(tmp_path) == {name, "data"}


def test_a_bomb_is_refused_before_it_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "LARGE", 1 << 20)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        with packed.open("zeros", "w", force_zip64=True) as file:
            for _ in range(20): file.write(bytes(1 << 20))
    refused(lambda: unpack(path, tmp_path / "data"), "would become", "Do not use it")
    assert left(tmp_path) == {"bomb.zip", "data"}


@pytest.mark.parametrize("name, content", [("cut.zip", b"PK\x03\x04 and no more"), ("cut.tar.gz", b"\x1f\x8b\x08 and no more"), ("text.tar", b"a page that says not found")])
def test_a_broken_archive_leaves_nothing(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refused(lambda: unpack(tmp_path / name, tmp_path / "data"), name, "cannot be unpacked")
    assert left(tmp_path) == {name, "data"}


def test_an_archive_that_is_cut_leaves_nothing(tmp_path):
    path = tarred(tmp_path / "a.tar.gz", {f"{k}.bin": os.urandom(50_000) for k in range(4)})
    path.write_bytes(path.read_bytes()[:120_000])
    refused(lambda: unpack(path, tmp_path / "data"), "cannot be unpacked")
    assert left(tmp_path) == {"a.tar.gz", "data"}


def test_rar_without_a_tool_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.rar").write_bytes(b"Rar!\x1a\x07\x00")
    monkeypatch.setattr(fetching.shutil, "which", lambda name: None)
    refused(lambda: unpack(tmp_path / "a.rar", tmp_path / "data"), "RAR", "libarchive-tools")


# ---------------------------------------------------------------- the command

def test_what_is_missing_empty_or_odd_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    for name, content in (("1.jpg", b"x"), ("2.jpg", b""), ("9.jpg", b"x")): (tmp_path / "a" / name).write_bytes(content)
    assert compared(tmp_path / "a", ["1.jpg", "2.jpg", "3.jpg"], ".jpg") == [f"{tmp_path}/a/3.jpg: missing", f"{tmp_path}/a/9.jpg: not of the data set", f"{tmp_path}/a/2.jpg: is empty"]
    assert compared(tmp_path / "none", ["1.jpg"], ".jpg") == [f"{tmp_path}/none/1.jpg: missing"]


def test_from_nothing_to_whole_and_again(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fetching.time, "sleep", lambda seconds: None)
    server.content = zipped(tmp_path / "made.zip", {"pictures/1.jpg": b"one", "pictures/2.jpg": b"two"}).read_bytes()
    data_set = DataSet("Toy", "toy", "Nothing has to be asked for.", lambda folder: compared(folder / "pictures", ["1.jpg", "2.jpg"], ".jpg"), (server.source(digest=sha(server.content), unpack="."),))
    assert main(data_set, [str(tmp_path / "DATA"), "--check"]) == 1
    assert "2.jpg: missing" in capsys.readouterr().out and not (tmp_path / "DATA").exists()
    server.cut = 100
    assert main(data_set, [str(tmp_path / "DATA")]) == 0 and "whole" in capsys.readouterr().out
    asked = len(server.asked)
    assert main(data_set, [str(tmp_path / "DATA")]) == 0 and len(server.asked) == asked
    (tmp_path / "DATA/toy/pictures/1.jpg").unlink()
    assert main(data_set, [str(tmp_path / "DATA"), "--check"]) == 1 and "1.jpg: missing" in capsys.readouterr().out
    with pytest.raises(SystemExit) as wrong: main(data_set, [])
    assert wrong.value.code == 2


SCRIPTS = ("flickr30k", "flickr30k_entities", "coco", "msvd", "msrvtt", "ucf101", "thumos14", "weights")

@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_says_what_to_do_and_what_is_missing(tmp_path, name, capsys):
    data_set = getattr(importlib.import_module(name), name.upper())
    with pytest.raises(SystemExit) as told: main(data_set, ["--help"])
    assert told.value.code == 0 and "DATA" in capsys.readouterr().out
    assert main(data_set, [str(tmp_path / "DATA"), "--check"]) == 1
    printed = capsys.readouterr()
    assert printed.out and "missing or odd" in printed.err and data_set.by_hand in printed.err and not (tmp_path / "DATA").exists()


def test_a_script_runs_from_anywhere(tmp_path):
    checked = subprocess.run([sys.executable, str(ROOT / "data_scripts/thumos14.py"), str(tmp_path / "DATA"), "--check"], capture_output=True, text=True, cwd=tmp_path)
    assert checked.returncode == 1 and "Traceback" not in checked.stderr and "missing or odd" in checked.stderr


def test_the_drawn_data_sets_are_whole_by_the_same_checks(toybox):
    import flickr30k, flickr30k_entities
    assert list(flickr30k.check(toybox / "flickr30k", 12)) == [] and list(flickr30k_entities.check(toybox / "flickr30k_entities", {"train": 8, "val": 2, "test": 2})) == []
    assert any("31,783" in problem for problem in flickr30k.check(toybox / "flickr30k"))


def test_real_annotations_are_whole(shared_data):
    import flickr30k_entities, thumos14
    assert list(flickr30k_entities.check(shared_data / "flickr30k_entities")) == []
    assert all("mp4: missing" in problem for problem in thumos14.check(shared_data / "thumos14"))


SQUEEZE = {"squeezenet1_1": "squeezenet1_1-00000000.pth"}

def test_weights_are_kept_as_they_were_published(tmp_path):
    import weights
    network = torchvision.models.squeezenet1_1()
    torch.save(network.state_dict(), tmp_path / SQUEEZE["squeezenet1_1"])
    weights.convert(tmp_path, SQUEEZE)
    assert list(weights.check(tmp_path, SQUEEZE)) == []
    found = load_file(weights.kept(tmp_path, "squeezenet1_1"))
    assert found.keys() == network.state_dict().keys() and all(torch.equal(found[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"words", pickle.dumps(os.getcwd, 2)], ids=["empty", "words", "code"])
def test_what_are_no_weights(tmp_path, content):
    import weights
    (tmp_path / SQUEEZE["squeezenet1_1"]).write_bytes(content)
    refused(lambda: weights.convert(tmp_path, SQUEEZE), "holds no weights", "Delete it")
    assert not weights.kept(tmp_path, "squeezenet1_1").exists() and len(list(weights.check(tmp_path, SQUEEZE))) == 1


def test_a_published_digest_may_be_its_beginning(server, tmp_path):
    assert fetch(server.source(digest=sha(server.content)[:15]), tmp_path).is_file()
    refused(lambda: fetch(server.source(digest="sha256:00000000"), tmp_path / "other"), "00000000")


def test_karpathys_split_becomes_lists(toybox, tmp_path):
    import flickr30k_entities
    data = Path(shutil.copytree(toybox, tmp_path / "data"))
    lists = data / "flickr30k_entities/karpathy"
    before = {path.name: path.read_text() for path in lists.glob("imgs_*.txt")}
    images = [{"filename": f"{name.removesuffix('.jpg')}.jpg", "split": path.stem.removeprefix("imgs_")} for path in lists.glob("imgs_*.txt") for name in path.read_text().split()]
    for path in lists.glob("imgs_*.txt"): path.unlink()
    (lists / "dataset_flickr30k.json").write_text(json.dumps({"images": images}))
    flickr30k_entities.prepare(data)
    assert {name: path.read_text().replace(".jpg", "").split() for name in before for path in [lists / name]} == {name: text.replace(".jpg", "").split() for name, text in before.items()}
