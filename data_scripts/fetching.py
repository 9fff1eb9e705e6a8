"""Functions shared by the scripts of this folder: resumable downloads, safe unpacking of archives, and checks of files.

Nothing else in the project accesses the network.
"""

import argparse
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import requests
from tqdm.auto import tqdm

from cgsaliency.core.errors import InputError
from cgsaliency.core.io import read_json, write_json

BLOCK = 1 << 20
LARGE = 1 << 30  # bytes above which an archive that grows by a factor of 200 is rejected
RECORD = "downloads.json"


@dataclass(frozen=True)
class Source:
    "A file that may be downloaded."

    url: str
    file: str  # its name in the data set's folder
    # published digest or its beginning, 'sha256:…' or 'md5:…'; empty if none is published: then the digest of the first
    # download is recorded, and later ones must match it
    digest: str = ""
    unpack: str = ""  # folder to unpack into, relative to the data set's; empty: not an archive
    part: str = "all"  # name for `--only`


@dataclass(frozen=True)
class DataSet:
    "A data set: its downloads, instructions for files that must be requested, and a check of the result."

    name: str
    folder: str  # in DATA
    by_hand: str  # instructions for files that cannot be downloaded: their source and their place
    check: Callable[[Path], Iterable[str]]  # from the data set's folder to missing or unexpected files, one per line
    sources: tuple[Source, ...] = ()
    prepare: Callable[[Path], None] | None = None  # optional step after the check; takes DATA
    prepares: str = ""  # result of `prepare`, for the help text
    convert: Callable[[Path], None] | None = (
        None  # converts the downloads before the check; takes the data set's folder
    )


# ---------------------------------------------------------------- downloads


def digest_of(path: Path, kind: str) -> str:
    "Return the hexadecimal digest of a file."
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def fetch(source: Source, folder: Path, tries: int = 6, wait: float = 1.0) -> Path:
    """Download the file, verify it and return its path; an interrupted download is resumed.

    Raises InputError if the server does not have it, keeps closing the connection, or sends other bytes."""
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
            if _receive(source, part, about):
                break
            error = "the connection ended early"
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as exception:
            error = type(exception).__name__
        failed = 0 if part.is_file() and part.stat().st_size > before else failed + 1  # any new byte is progress
        if failed < tries:
            time.sleep(wait * 2**failed)
    else:
        raise InputError(
            source.url,
            f"cannot be reached or keeps closing the connection ({error})",
            f"Run this again: it resumes. Or download the file by other means, and save it as {target}",
        )
    try:
        _verify(part, source, known.get(source.file, {}))
    except InputError:
        part.unlink()
        raise
    finally:
        about.unlink(missing_ok=True)
    size, sha = part.stat().st_size, digest_of(part, "sha256")
    os.replace(part, target)
    write_json(folder / RECORD, known | {source.file: {"url": source.url, "sha256": sha, "bytes": size}})
    return target


def _receive(source: Source, part: Path, about: Path) -> bool:
    "Receive the remaining bytes and return whether the file is complete; start again if the server's file has changed."
    received = part.stat().st_size if part.is_file() else 0
    validator = read_json(about).get("validator") if received and about.is_file() else None
    if not validator:
        received = 0
    resume = {"Range": f"bytes={received}-", "If-Range": validator} if received else {}
    with requests.get(source.url, headers={"Accept-Encoding": "identity"} | resume, stream=True, timeout=30) as answer:
        # the partial file is longer than the server's: start again
        if answer.status_code == 416 and received:
            part.unlink()
            return False
        if answer.status_code not in (200, 206):
            raise InputError(
                source.url,
                f"answers {answer.status_code} {answer.reason}",
                f"Download {source.file} by other means and put it there by hand; see --help",
            )
        if answer.status_code == 206 and not answer.headers.get("Content-Range", "").startswith(f"bytes {received}-"):
            part.unlink()
            return False
        if answer.status_code == 200:
            received = 0
        tag = answer.headers.get("ETag", "")
        validator = tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")
        write_json(about, {"validator": validator})
        length = int(answer.headers["Content-Length"]) if answer.headers.get("Content-Length", "").isdigit() else None
        if length is not None and length > (free := shutil.disk_usage(part.parent).free):
            raise InputError(
                part.parent,
                f"has {free:,} bytes free; {source.file} needs {length:,}",
                "Make room, or choose another folder; received bytes are kept",
            )
        # received bytes are kept if the connection closes; the length is checked below
        answer.raw.enforce_content_length = False
        with (
            part.open("ab" if received else "wb") as file,
            tqdm(
                total=length and length + received,
                initial=received,
                unit="B",
                unit_scale=True,
                desc=source.file,
                leave=False,
            ) as bar,
        ):
            for block in answer.iter_content(BLOCK):
                file.write(block)
                bar.update(len(block))
        return length is None or part.stat().st_size == length + received


def _verify(path: Path, source: Source, known: dict) -> None:
    wanted = [(*source.digest.split(":"), "published")] if source.digest else []
    if "sha256" in known:
        wanted.append(("sha256", known["sha256"], "of the first download"))
    for kind, expected, origin in wanted:
        if not (digest := digest_of(path, kind)).startswith(expected):
            raise InputError(
                path.parent / source.file,
                f"has the {kind} {digest}; {origin}: {expected}",
                "Delete it and run this again; if that does not help, the published file has changed",
            )


# ---------------------------------------------------------------- archives


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack the archive into the folder and return the folder.

    Raises InputError, and leaves no file, if the archive is broken or contains links, devices, or paths outside the
    folder."""
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / f".unpacking.{archive.name}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        if zipfile.is_zipfile(archive):
            _unzip(archive, work)
        elif archive.suffix == ".rar":
            _unrar(archive, work)
        else:
            _untar(archive, work)
        for path in work.rglob("*"):
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise _malicious(archive, path.relative_to(work))
        for top in sorted(work.iterdir()):
            _merge(top, folder / top.name)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, tarfile.FilterError):
            raise _malicious(archive, error.tarinfo.name) from None
        raise InputError(
            archive, f"cannot be unpacked ({error})", "Delete it and run this again; make room where the disk is full"
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _malicious(archive: Path, name: object) -> InputError:
    return InputError(
        archive,
        f"holds '{name}', which is a link, a device, or lies outside its folder",
        "Do not use it: it is not the file of the data set's authors",
    )


def _is_outside(name: str) -> bool:
    path = Path(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or ":" in (path.parts or ("",))[0]


def _check_size(archive: Path, work: Path, size: int) -> None:
    if size > max(200 * archive.stat().st_size, LARGE):
        raise InputError(
            archive,
            f"would become {size:,} bytes of {archive.stat().st_size:,}",
            "Do not use it: an archive of images or texts does not grow by this factor",
        )
    if size > (free := shutil.disk_usage(work).free):
        raise InputError(
            work.parent,
            f"has {free:,} bytes free; {archive.name} needs {size:,}",
            "Make room, or choose another folder",
        )


def _unzip(archive: Path, work: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            if _is_outside(member.filename) or stat.S_IFMT(member.external_attr >> 16) not in (
                0,
                stat.S_IFREG,
                stat.S_IFDIR,
            ):
                raise _malicious(archive, member.filename)
        _check_size(archive, work, sum(member.file_size for member in packed.infolist()))
        packed.extractall(work)


def _untar(archive: Path, work: Path) -> None:
    with tarfile.open(archive) as packed:
        members = packed.getmembers()
        for member in members:
            if _is_outside(member.name) or not (member.isfile() or member.isdir()):
                raise _malicious(archive, member.name)
        _check_size(archive, work, sum(member.size for member in members))
        packed.extractall(work, members, filter="data")


def _unrar(archive: Path, work: Path) -> None:
    tools = {
        "bsdtar": ["-xf", str(archive), "-C", str(work)],
        "unrar": ["x", "-inul", "-o+", str(archive), f"{work}/"],
        "7z": ["x", "-y", f"-o{work}", str(archive)],
    }
    tool = next((name for name in tools if shutil.which(name)), None)
    if tool is None:
        raise InputError(
            archive,
            "is a RAR archive, and none of bsdtar, unrar and 7z is installed",
            "Install one of them (Debian: apt install libarchive-tools)",
        )
    done = subprocess.run([tool, *tools[tool]], capture_output=True, text=True)
    if done.returncode:
        raise InputError(
            archive,
            f"cannot be unpacked ({' '.join((done.stderr or done.stdout).split())[:200]})",
            "Delete it and run this again",
        )


def _merge(path: Path, target: Path) -> None:
    if path.is_dir() and target.is_dir():
        for child in sorted(path.iterdir()):
            _merge(child, target / child.name)
    else:
        os.replace(path, target)


# ---------------------------------------------------------------- layout


def file_problems(folder: Path, expected: Iterable[str], suffix: str) -> list[str]:
    "List files below the folder, with this suffix, that are missing, empty, or not part of the data set."
    expected = set(expected)
    existing = {}
    if folder.is_dir():
        existing = {path.relative_to(folder).as_posix(): path for path in folder.rglob(f"*{suffix}")}
    empty = [name for name in sorted(expected & existing.keys()) if existing[name].stat().st_size == 0]
    return [
        *(f"{folder / name}: missing" for name in sorted(expected - existing.keys())),
        *(f"{existing[name]}: not of the data set" for name in sorted(existing.keys() - expected)),
        *(f"{existing[name]}: is empty" for name in empty),
    ]


def count_problems(location: object, items: str, count: int, expected: int) -> list[str]:
    "Report a number of items that differs from that of the complete data set."
    if count == expected:
        return []
    return [f"{location}: {count:,} {items}; the complete data set has {expected:,}"]


def loader_problems(load: Callable[[], object]) -> list[str]:
    "Report the error that the package's loader raises, if any."
    try:
        load()
    except InputError as error:
        return [str(error)]
    return []


# ---------------------------------------------------------------- command


def main(data_set: DataSet, arguments: list[str] | None = None) -> int:
    "Run the command; return 0 for a complete data set, 1 for missing or unexpected files, 2 for a usage error."
    parser = argparse.ArgumentParser(
        description=f"{data_set.name}: download the public files, verify and prepare them.\n\n{data_set.by_hand}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, help="folder of the data sets, the DATA of make reproduce")
    parser.add_argument("--check", action="store_true", help="only list missing or unexpected files; download nothing")
    parser.add_argument(
        "--only",
        choices=sorted({source.part for source in data_set.sources} | {"all"}),
        default="all",
        help="download only this part",
    )
    if data_set.prepare:
        parser.add_argument("--prepare", action="store_true", help=f"then write {data_set.prepares}")
    args = parser.parse_args(arguments)
    folder = args.data / data_set.folder
    try:
        if not args.check:
            for source in data_set.sources:
                if args.only in ("all", source.part):
                    _fetch_and_unpack(source, folder)
            if data_set.convert:
                data_set.convert(folder)
        problems = list(data_set.check(folder))
        for problem in problems:
            print(problem)
        if problems:
            message = f"{data_set.name} in {folder}: {len(problems)} missing or unexpected.\n\n{data_set.by_hand}"
            print(message, file=sys.stderr)
            return 1
        print(f"{data_set.name} in {folder}: complete")
        if data_set.prepare and args.prepare:
            data_set.prepare(args.data)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _fetch_and_unpack(source: Source, folder: Path) -> None:
    path = fetch(source, folder)
    records = read_json(folder / RECORD) if (folder / RECORD).is_file() else {}
    record = records.get(source.file, {})
    if source.unpack and not record.get("unpacked", False):
        unpack(path, folder / source.unpack)
        write_json(folder / RECORD, records | {source.file: record | {"unpacked": True}})
