"""The MSVD loader on broken lists, one fault at a time, and on the official mapping."""

from pathlib import Path

import pytest

from assertions import assert_input_error
from cgsaliency.data.media import (
    write_video,
)
from cgsaliency.data.msvd import MSVD_SPLITS, load_msvd, read_descriptions, read_mapping
from video_helpers import frame_with_square

# Broken lists

TABLE_HEADER = "VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description\n"


@pytest.fixture
def msvd(tmp_path) -> Path:
    "Three test clips with captions in a table as Microsoft published it; the second clip has no English caption."
    root = tmp_path / "msvd"
    names = ["ab-_c_d_1_15", "x1_0_4", "NA_3_9"]
    for name in names:
        write_video(root / f"YouTubeClips/{name}.avi", [frame_with_square(k) for k in range(3)])
    (root / "youtube_mapping.txt").write_text("".join(f"{name} vid{1301 + k}\n" for k, name in enumerate(names)))
    (root / "MSR Video Description Corpus.csv").write_text(
        TABLE_HEADER
        + "".join(
            f"{row}\n"
            for row in (
                "ab-_c_d,1,15,7,clean,9,English,A dog's ball rolls.",
                "ab-_c_d,1,15,7,clean,9,German,Ein Ball rollt.",
                'ab-_c_d,1,15,7,clean,9,English,"A ball, red, rolls"',
                "ab-_c_d,1,15,8,clean,9,English,",
                "x1,0,4,7,unverified,9,Serbian,Лопта.",
                "x1,0,4,7,clean,9,English,",
                "x1,0,4,7,clean,9,English,...",
                "NA,3,9,7,clean,9,English,null",
                "NA,3,9,7,clean,9,Hindi,",
            )
        )
    )
    return root


def test_captions_in_other_languages_and_empty_ones_are_skipped(msvd):
    assert read_descriptions(msvd) == {
        "ab-_c_d_1_15": ("A dog's ball rolls.", "A ball, red, rolls"),
        "x1_0_4": ("...",),
        "NA_3_9": ("null",),
    }  # names and words that a table reader may take for missing values
    assert_input_error(
        lambda: load_msvd(msvd),
        "descriptions of clip x1_0_4 (vid1302): there is no English caption",
        "on_error='skip'",
    )
    remaining = load_msvd(msvd, on_error="skip")
    assert [(sample.id, [str(caption) for caption in sample.captions]) for sample in remaining.samples] == [
        ("vid1301", ["a dog's ball rolls", "a ball red rolls"]),
        ("vid1303", ["null"]),
    ]
    assert [clip for clip, _ in remaining.skipped] == [
        "x1_0_4"
    ] and "1 of 3 test samples left out" in remaining.skipped_note


ROW_FAULTS = {  # last line of a table, and text of the error
    "too few fields": ("ab-_c_d,1", "row 3: has neither Language nor Description"),
    "too many fields": ("ab-_c_d,1,15,7,clean,9,English,A dog, runs", "cannot be read"),
    "a quote that stays open": ('ab-_c_d,1,15,7,clean,9,English,"A dog', "cannot be read"),
    "a start of words": (
        "ab-_c_d,one,15,7,clean,9,English,A dog",
        "row 3: VideoID, Start and End are 'ab-_c_d', 'one', '15'",
    ),
    "no start": ("ab-_c_d,,15,7,clean,9,English,A dog", "row 3: VideoID, Start and End are"),
    "half seconds": ("ab-_c_d,1.5,15,7,clean,9,English,A dog", "expected a name and two integers"),
    "no video": (",1,15,7,clean,9,English,A dog", "row 3: VideoID, Start and End are ''"),
}


@pytest.mark.parametrize("fault", ROW_FAULTS)
def test_malformed_rows_are_reported(msvd, fault):
    row, message = ROW_FAULTS[fault]
    (msvd / "MSR Video Description Corpus.csv").write_text(
        f"{TABLE_HEADER}ab-_c_d,1,15,7,clean,9,English,A ball\n{row}\n"
    )
    assert_input_error(lambda: load_msvd(msvd, on_error="skip"), "MSR Video Description Corpus.csv", message)


def test_malformed_tables_are_reported(msvd):
    table = msvd / "MSR Video Description Corpus.csv"
    for content, message in [
        (b"VideoID,Start,End\nx,1,4\n", "cannot be read"),
        (b"", "cannot be read"),
        (b"\xff\xfe" + TABLE_HEADER.encode("utf-16-le"), "cannot be read"),
        ((TABLE_HEADER + "x1,0,4,7,clean,9,German,Ein Ball\n").encode(), "has no English caption"),
    ]:
        table.write_bytes(content)
        assert_input_error(lambda: load_msvd(msvd), message)
    table.unlink()
    assert_input_error(lambda: load_msvd(msvd), "holds neither AllVideoDescriptions.txt nor")


def test_the_older_text_format(msvd):
    text = msvd / "AllVideoDescriptions.txt"  # it is preferred if both exist
    for content, message in [
        ("# by people\n\nab-_c_d_1_15 A ball\nx1_0_4\n", "AllVideoDescriptions.txt, line 4"),
        ("x1_0_4    \n", "AllVideoDescriptions.txt, line 1"),
        ("x1 A ball\n", "expected '<video>_<start>_<end> <sentence>', found 'x1 A ball'"),
        ("# nothing but this\n", "has no English caption"),
    ]:
        text.write_text(content)
        assert_input_error(lambda: load_msvd(msvd, on_error="skip"), message)
    text.write_bytes(b"x1_0_4 A \xff ball\n")
    assert_input_error(lambda: load_msvd(msvd), "AllVideoDescriptions.txt: is not UTF-8 text")
    text.write_text("x1_0_4 A ball!\n")
    assert [sample.id for sample in load_msvd(msvd, on_error="skip").samples] == ["vid1302"]


MAPPING_FAULTS = {
    "a clip twice": (
        "ab-_c_d_1_15 vid1301\nab-_c_d_1_15 vid1302\nNA_3_9 vid1303\nx1_0_4 vid1304\n",
        "youtube_mapping.txt, line 2",
        "listed twice",
    ),
    "a number twice": (
        "ab-_c_d_1_15 vid1301\nx1_0_4 vid1301\n",
        "youtube_mapping.txt, line 2",
        "vid1301 is listed twice",
    ),
    "a line of another form": (
        "ab-_c_d_1_15 vid1301\nx1_0_4 1302\n",
        "youtube_mapping.txt, line 2",
        "expected '<clip> vid<N>'",
    ),
    "a clip with sentences left out": (
        "ab-_c_d_1_15 vid1301\nx1_0_4 vid1302\n",
        "youtube_mapping.txt",
        "lacks 1 clips that have captions, such as NA_3_9",
    ),
    "empty": ("", "youtube_mapping.txt", "lacks 3 clips"),
}


@pytest.mark.parametrize("fault", MAPPING_FAULTS)
def test_inconsistent_mappings_are_reported(msvd, fault):
    content, location, message = MAPPING_FAULTS[fault]
    (msvd / "youtube_mapping.txt").write_text(content)
    assert assert_input_error(lambda: load_msvd(msvd, on_error="skip"), message).location.endswith(location)
    (msvd / "youtube_mapping.txt").unlink()
    assert_input_error(lambda: load_msvd(msvd), "youtube_mapping.txt: is not there")


def test_official_mapping(shared_data):
    numbers = read_mapping(shared_data / "msvd/captions/youtube_video_to_id_mapping.txt")
    assert sorted(numbers.values()) == [index for split in MSVD_SPLITS.values() for index in split]
