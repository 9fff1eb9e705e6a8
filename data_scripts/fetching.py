"""What the scripts of this folder share: downloads that go on where they broke off, archives that stay in their folder, and what is missing or odd.

Nothing else of the project reads the network.
"""
import argparse, hashlib, json, os, shutil, stat, subprocess, sys, tarfile, time, zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable

import requests
from tqdm.auto import tqdm

from cgsaliency.core.artefacts import read_json, write_json
from cgsaliency.core.errors import BadInput

BLOCK = 1 << 20
LARGE = 1 << 30      # bytes from which an archive that grows two hundredfold is taken for a bomb
RECORD = "downloads.json"


@dataclass(frozen=True)
class Source:
    "A file that may be downloaded."
    url: str
    file: str            # its name in the data set's folder
    digest: str = ""     # 'sha256:…' or 'md5:…' as published, the whole or its beginning; empty where nobody publishes one: then the first download is recorded, and must not change
    unpack: str = ""     # the folder it is unpacked into, in the data set's; '.' for that itself
    part: str = "all"    # what `--only` chooses by


@dataclass(frozen=True)
class DataSet:
    "A data set: what can be downloaded, what must be asked for, and how a whole one looks."
    name: str
    folder: str                                  # in DATA
    by_hand: str                                 # what cannot be downloaded: who has it, and where it goes
    check: Callable[[Path], Iterable[str]]       # from the data set's folder: what is missing or odd, a line each
    sources: tuple[Source, ...] = ()
    prepare: Callable[[Path], None] | None = None    # from DATA: splits, proposals, features
    prepares: str = ""                           # what that makes
    settle: Callable[[Path], None] | None = None     # from the data set's folder: what is made of the downloads before they are checked


# ---------------------------------------------------------------- downloads

def digest_of(path: Path, kind: str) -> str:
    with path.open("rb") as file: return hashlib.file_digest(file, kind).hexdigest()


def fetch(source: Source, folder: Path, tries: int = 6, wait: float = 1.0) -> Path:
    "The file, whole and verified; a download that broke off goes on. Raises BadInput where the server does not have it, keeps breaking off, or sends other bytes."
    target = folder / source.file
    known = read_json(folder / RECORD) if (folder / RECORD).is_file() else {}
    if target.is_file():
        _verify(target, source, known.get(source.file, {}))
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part, about = folder / f".{source.file}.part", folder / f".{source.file}.json"
    failed, error = 0, None
    while failed < tries:
        before = part.stat().st_size if part.is_file() else 0
        try:
            if _receive(source, part, about): break
            error = "the connection ended early"
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as found: error = type(found).__name__
        failed = 0 if part.is_file() and part.stat().st_size > before else failed + 1     # whatever arrived is progress
        if failed < tries: time.sleep(wait * 2 ** failed)
    else: raise BadInput(source.url, f"cannot be reached or keeps breaking off ({error})", f"Run this again: what arrived is kept. Or fetch it by other means, and put it there as {target}")
    try: _verify(part, source, known.get(source.file, {}))
    except BadInput: part.unlink(); raise
    finally: about.unlink(missing_ok=True)
    size, sha = part.stat().st_size, digest_of(part, "sha256")
    os.replace(part, target)
    write_json(folder / RECORD, known | {source.file: {"url": source.url, "sha256": sha, "bytes": size}})
    return target


def _receive(source: Source, part: Path, about: Path) -> bool:
    "Whether the part is whole now. The rest is asked for only where the server says that the file is still the same."
    have = part.stat().st_size if part.is_file() else 0
    validator = read_json(about).get("validator") if have and about.is_file() else None
    if not validator: have = 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-", "If-Range": validator} if have else {})
    with requests.get(source.url, headers=headers, stream=True, timeout=30) as answer:
        if answer.status_code == 416 and have: part.unlink(); return False      # longer than what the server has: from the start
        if answer.status_code not in (200, 206): raise BadInput(source.url, f"answers {answer.status_code} {answer.reason}", f"Fetch {source.file} by other means and put it there by hand; --help says what else is known")
        if answer.status_code == 206 and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"): part.unlink(); return False
        if answer.status_code == 200: have = 0
        tag = answer.headers.get("ETag", "")
        write_json(about, {"validator": tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")})
        length = int(answer.headers["Content-Length"]) if answer.headers.get("Content-Length", "").isdigit() else None
        if length is not None and length > (free := shutil.disk_usage(part.parent).free): raise BadInput(part.parent, f"has {free:,} bytes free; {source.file} needs {length:,}", "Make room, or choose another folder; what arrived is kept")
        answer.raw.enforce_content_length = False      # what arrived before a break is kept; the length is looked at below
        with part.open("ab" if have else "wb") as file, tqdm(total=length and length + have, initial=have, unit="B", unit_scale=True, desc=source.file, leave=False) as bar:
            for block in answer.iter_content(BLOCK):
                file.write(block); bar.update(len(block))
        return length is None or part.stat().st_size == length + have


def _verify(path: Path, source: Source, known: dict) -> None:
    wanted = [(*source.digest.split(":"), "published")] if source.digest else []
    if "sha256" in known: wanted.append(("sha256", known["sha256"], "of the first download"))
    for kind, wanted, who in wanted:
        if not (found := digest_of(path, kind)).startswith(wanted):
            raise BadInput(path.parent / source.file, f"has the {kind} {found}; {who}: {wanted}", "Delete it and run this again; where that does not help, the file has changed at its place")


# ---------------------------------------------------------------- archives

def unpack(archive: Path, folder: Path) -> Path:
    "The folder, with everything of the archive in it. Nothing is left of an archive that is broken, or that holds what would lie elsewhere, links, or devices (BadInput)."
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / f".unpacking.{archive.name}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        if zipfile.is_zipfile(archive): _unzip(archive, work)
        elif archive.suffix == ".rar": _unrar(archive, work)
        else: _untar(archive, work)
        for path in work.rglob("*"):
            if path.is_symlink() or not (path.is_dir() or path.is_file()): raise _malicious(archive, path.relative_to(work))
        for top in sorted(work.iterdir()): _merge(top, folder / top.name)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, tarfile.FilterError): raise _malicious(archive, error.tarinfo.name) from None
        raise BadInput(archive, f"cannot be unpacked ({error})", "Delete it and run this again; make room where the disk is full") from None
    finally: shutil.rmtree(work, ignore_errors=True)
    return folder


def _malicious(archive: Path, name: object) -> BadInput: return BadInput(archive, f"holds '{name}', which is a link, a device, or lies outside its folder", "Do not use it: it is not the file that the data set's authors made")


def _leaves(name: str) -> bool:
    path = Path(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or ":" in (path.parts or ("",))[0]


def _room(archive: Path, work: Path, size: int) -> None:
    if size > max(200 * archive.stat().st_size, LARGE): raise BadInput(archive, f"would become {size:,} bytes of {archive.stat().st_size:,}", "Do not use it: no archive of pictures or texts grows like that")
    if size > (free := shutil.disk_usage(work).free): raise BadInput(work.parent, f"has {free:,} bytes free; {archive.name} needs {size:,}", "Make room, or choose another folder")


def _unzip(archive: Path, work: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            if _leaves(member.filename) or stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR): raise _malicious(archive, member.filename)
        _room(archive, work, sum(member.file_size for member in packed.infolist()))
        packed.extractall(work)


def _untar(archive: Path, work: Path) -> None:
    with tarfile.open(archive) as packed:
        members = packed.getmembers()
        for member in members:
            if _leaves(member.name) or not (member.isfile() or member.isdir()): raise _malicious(archive, member.name)
        _room(archive, work, sum(member.size for member in members))
        packed.extractall(work, members, filter="data")


def _unrar(archive: Path, work: Path) -> None:
    tools = {"bsdtar": ["-xf", str(archive), "-C", str(work)], "unrar": ["x", "-inul", "-o+", str(archive), f"{work}/"], "7z": ["x", "-y", f"-o{work}", str(archive)]}
    tool = next((name for name in tools if shutil.which(name)), None)
    if tool is None: raise BadInput(archive, "is a RAR archive, and none of bsdtar, unrar and 7z is installed", "Install one of them (Debian: apt install libarchive-tools)")
    done = subprocess.run([tool, *tools[tool]], capture_output=True, text=True)
    if done.returncode: raise BadInput(archive, f"cannot be unpacked ({' '.join((done.stderr or done.stdout).split())[:200]})", "Delete it and run this again")


def _merge(path: Path, target: Path) -> None:
    if path.is_dir() and target.is_dir():
        for own in sorted(path.iterdir()): _merge(own, target / own.name)
    else: os.replace(path, target)


# ---------------------------------------------------------------- layout

def compared(folder: Path, wanted: Iterable[str], ending: str) -> list[str]:
    "What is missing, empty, or not of the data set among the files of a folder, below it, with this ending."
    wanted, there = set(wanted), {path.relative_to(folder).as_posix(): path for path in folder.rglob(f"*{ending}")} if folder.is_dir() else {}
    return [*(f"{folder / name}: missing" for name in sorted(wanted - there.keys())), *(f"{there[name]}: not of the data set" for name in sorted(there.keys() - wanted)),
            *(f"{there[name]}: is empty" for name in sorted(wanted & there.keys()) if there[name].stat().st_size == 0)]


def counted(where: object, what: str, found: int, wanted: int) -> list[str]:
    "That there are as many as the data set has."
    return [] if found == wanted else [f"{where}: {found:,} {what}; the whole data set has {wanted:,}"]


def read_by(read: Callable[[], object]) -> list[str]:
    "What the project's own loader says against it."
    try: read()
    except BadInput as error: return [str(error)]
    return []


# ---------------------------------------------------------------- command

def main(data_set: DataSet, arguments: list[str] | None = None) -> int:
    "The exit code: 0 where the data set is whole, 1 where something is missing or odd, 2 for a wrong call."
    parser = argparse.ArgumentParser(description=f"{data_set.name}: download what may be downloaded, verify, prepare.\n\n{data_set.by_hand}", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the data sets, the DATA of make reproduce")
    parser.add_argument("--check", action="store_true", help="only say what is missing or odd; downloads nothing")
    parser.add_argument("--only", choices=sorted({source.part for source in data_set.sources} | {"all"}), default="all", help="download a part only")
    if data_set.prepare: parser.add_argument("--prepare", action="store_true", help=f"then make {data_set.prepares}")
    given = parser.parse_args(arguments)
    folder = given.data / data_set.folder
    try:
        if not given.check:
            for source in data_set.sources:
                if given.only not in ("all", source.part): continue
                path = fetch(source, folder)
                if source.unpack and not _unpacked(folder, source):
                    unpack(path, folder / source.unpack)
                    write_json(folder / RECORD, (known := read_json(folder / RECORD) if (folder / RECORD).is_file() else {}) | {source.file: known.get(source.file, {}) | {"unpacked": True}})
            if data_set.settle: data_set.settle(folder)
        problems = list(data_set.check(folder))
        for problem in problems: print(problem)
        if problems: print(f"{data_set.name} in {folder}: {len(problems)} missing or odd.\n\n{data_set.by_hand}", file=sys.stderr); return 1
        print(f"{data_set.name} in {folder}: whole")
        if data_set.prepare and given.prepare: data_set.prepare(given.data)
    except BadInput as error: print(error, file=sys.stderr); return 1
    return 0


def _unpacked(folder: Path, source: Source) -> bool: return (folder / RECORD).is_file() and read_json(folder / RECORD).get(source.file, {}).get("unpacked", False)
