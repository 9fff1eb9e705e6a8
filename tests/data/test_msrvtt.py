"""The MSR-VTT loader on broken lists, one fault at a time, and on the official files."""

import io
import json
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from assertions import assert_input_error
from cgsaliency.data.msrvtt import load_msrvtt, msrvtt_split, read_msrvtt
from cgsaliency.synth.write_msvd_msrvtt import write_msrvtt

# Broken lists


def edit_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def msrvtt(tmp_path) -> Path:
    return write_msrvtt(tmp_path / "msrvtt", 1, 1, 3, seed=11)


LIST_FAULTS = {  # change of the test list, location and text of the error
    "the re-release": (lambda content: content.update(sentences=[]), "test_videodatainfo.json", "re-release of 2017"),
    "the re-release without even the list": (
        lambda content: content.pop("sentences"),
        "test_videodatainfo.json",
        "has no list 'sentences'",
    ),
    "videos that are no list": (
        lambda content: content.update(videos={}),
        "test_videodatainfo.json",
        "has no list 'videos'",
    ),
    "a clip twice": (
        lambda content: content["videos"].append(content["videos"][0]),
        "test_videodatainfo.json, video 3",
        "'video7010' is listed twice",
    ),
    "a clip of a number": (
        lambda content: content["videos"][1].update(video_id=7011),
        "test_videodatainfo.json, video 1",
        "no field 'video_id'",
    ),
    "a sentence about another clip": (
        lambda content: content["sentences"][5].update(video_id="video7099"),
        "test_videodatainfo.json, sentence 5",
        "'video7099', which is not among its videos",
    ),
    "a sentence without text": (
        lambda content: content["sentences"][5].update(caption=None),
        "test_videodatainfo.json, sentence 5",
        "field 'caption'",
    ),
    "an empty sentence": (
        lambda content: content["sentences"][5].update(caption="  "),
        "test_videodatainfo.json, sentence 5",
        "field 'caption' is empty",
    ),
    "a sentence without number": (
        lambda content: content["sentences"][5].pop("sen_id"),
        "test_videodatainfo.json, sentence 5",
        "field 'sen_id'",
    ),
    "a number twice": (
        lambda content: [entry.update(sen_id=7) for entry in content["sentences"][:2]],
        "test_videodatainfo.json, sentence 1",
        "another sentence with sen_id 7",
    ),
    "no sentence of one clip": (
        lambda content: content.update(
            sentences=[entry for entry in content["sentences"] if entry["video_id"] != "video7012"]
        ),
        "test_videodatainfo.json",
        "1 clips have no caption, such as video7012",
    ),
    "a clip of no split": (
        lambda content: [
            entry.update(video_id="video10000")
            for entry in content["videos"] + content["sentences"]
            if entry["video_id"] == "video7012"
        ],
        "video10000",
        "is not named video0 to video9999",
    ),
}


@pytest.mark.parametrize("fault", LIST_FAULTS)
def test_inconsistent_lists_are_reported(msrvtt, fault):
    change, location, message = LIST_FAULTS[fault]
    edit_json(msrvtt / "test_videodatainfo.json", change)
    # broken lists are never skipped, only broken clips
    for split in ("test", "train"):
        assert location in assert_input_error(lambda: load_msrvtt(msrvtt, split, on_error="skip"), message).location


def test_the_release_of_2017_is_rejected_alone_and_beside_that_of_2016(msrvtt):
    released = {
        "info": {},
        "videos": [{"video_id": f"video{k}", "id": k} for k in range(10000, 10003)],
        "sentences": [],
    }
    (msrvtt / "test_2017_videodatainfo.json").write_text(json.dumps(released))
    assert_input_error(
        lambda: load_msrvtt(msrvtt), "test_2017_videodatainfo.json", "re-release of 2017", "JSON files of 2016"
    )
    for path in msrvtt.glob("*_videodatainfo.json"):
        if "2017" not in path.name:
            path.unlink()
    assert_input_error(lambda: load_msrvtt(msrvtt), "test_2017_videodatainfo.json", "re-release of 2017")


def test_a_clip_in_two_lists_is_reported(msrvtt):
    content = json.loads((msrvtt / "test_videodatainfo.json").read_text())
    duplicate = {
        "videos": content["videos"][:1],
        "sentences": [
            caption for caption in content["sentences"] if caption["video_id"] == content["videos"][0]["video_id"]
        ],
    }
    (msrvtt / "extra_videodatainfo.json").write_text(json.dumps(duplicate))
    assert_input_error(
        lambda: load_msrvtt(msrvtt),
        "test_videodatainfo.json: lists 'video7010', as another file does",
        "Remove one of them",
    )


def test_archives_are_read_and_broken_ones_reported(msrvtt):
    captions = read_msrvtt(msrvtt)
    archive = msrvtt / "annotation.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(msrvtt.glob("*_videodatainfo.json")):
            packed.write(path, f"lists/{path.name}")
    assert read_msrvtt(msrvtt) == captions  # the unpacked ones count once
    for path in msrvtt.glob("*_videodatainfo.json"):
        path.unlink()
    assert read_msrvtt(msrvtt) == captions
    content = archive.read_bytes()
    for broken_content in (
        content[: len(content) // 2],
        b"",
        b"no archive",
        content[:200] + bytes(200) + content[400:],
    ):
        archive.write_bytes(broken_content)
        assert_input_error(
            lambda: read_msrvtt(msrvtt), "annotation.zip: cannot be read completely", "Fetch the archive again"
        )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive_file:
        archive_file.writestr("test_videodatainfo.json", '{"videos": [')
    archive.write_bytes(packed.getvalue())
    assert_input_error(lambda: read_msrvtt(msrvtt), "annotation.zip, test_videodatainfo.json: is not valid JSON")
    archive.unlink()
    assert_input_error(lambda: read_msrvtt(msrvtt), "holds no *_videodatainfo.json")


@pytest.mark.parametrize("content", [b"", b'{"videos": [{"video_id": "vid', b"\xff\xfe\x00", b"[]", b"null"])
def test_malformed_json_is_reported(msrvtt, content):
    (msrvtt / "test_videodatainfo.json").write_bytes(content)
    assert_input_error(lambda: load_msrvtt(msrvtt, "train"), "test_videodatainfo.json")


# The official files


def test_official_counts(shared_data):
    captions = read_msrvtt(shared_data / "msrvtt")
    assert Counter(msrvtt_split(name) for name in captions) == {"train": 6513, "val": 497, "test": 2990}
    assert all(len(video_captions) == 20 for video_captions in captions.values())


def test_truncated_archives_and_missing_videos_are_reported(shared_data, tmp_path):
    content = (shared_data / "msrvtt/test_videodatainfo.json.zip").read_bytes()
    (tmp_path / "test_videodatainfo.json.zip").write_bytes(content)
    assert_input_error(lambda: load_msrvtt(tmp_path), "TestVideo/video7010.mp4: there is no such video")
    assert_input_error(lambda: load_msrvtt(tmp_path, on_error="skip"), "no test sample can be used; the first")
    (tmp_path / "test_videodatainfo.json.zip").write_bytes(content[: len(content) // 2])
    assert_input_error(lambda: load_msrvtt(tmp_path), "test_videodatainfo.json.zip: cannot be read completely")
