"""The THUMOS14 loader on broken files, one fault at a time, and on the official annotations."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from assertions import assert_input_error, damage_file
from cgsaliency.core.records import ActionInterval
from cgsaliency.data.media import write_video
from cgsaliency.data.thumos14 import (
    CLASSES20,
    EXCLUDED_VIDEOS,
    LATE_INTERVAL_VIDEOS,
    load_thumos14,
    read_actions,
    read_detection_classes,
    read_intervals,
)
from cgsaliency.data.ucf101 import (
    read_classes,
)

# UCF101: the official files and real clips


@pytest.fixture(scope="module")
def ucf101(shared_data) -> Path:
    return shared_data / "ucf101"


# THUMOS14


@pytest.fixture(scope="module")
def thumos14(shared_data) -> Path:
    return shared_data / "thumos14"


def test_official_annotations_are_complete(thumos14):
    for split, num_videos, num_certain, num_ambiguous in ("test", 213, 3358, 99), ("val", 200, 3007, 89):
        actions = read_actions(thumos14, split)
        counts = Counter(action.ambiguous for video_actions in actions.values() for action in video_actions)
        assert (len(actions), counts[False], counts[True]) == (num_videos, num_certain, num_ambiguous)
        assert {
            action.name for video_actions in actions.values() for action in video_actions if not action.ambiguous
        } == set(CLASSES20)
        order = [*CLASSES20, "Ambiguous"]
        assert all(
            [order.index(action.name) for action in video_actions]
            == sorted(order.index(action.name) for action in video_actions)
            for video_actions in actions.values()
        )
    usable = {
        name: video_actions
        for name, video_actions in read_actions(thumos14).items()
        if not all(action.ambiguous for action in video_actions)
    }
    assert len(usable) == 212 and sum(map(len, usable.values())) == 3454  # as R-C3D counts them
    assert (
        set(EXCLUDED_VIDEOS) <= set(usable)
        and {name for name in LATE_INTERVAL_VIDEOS if "test" in name} <= set(usable)
        and {name for name in LATE_INTERVAL_VIDEOS if "validation" in name} <= set(read_actions(thumos14, "val"))
    )


def test_actions_keep_the_order_of_the_files(thumos14):
    for split in ("val", "test"):
        actions, folder = read_actions(thumos14, split), thumos14 / "annotation" / f"annotation_{split}"
        for name in (*CLASSES20, "Ambiguous"):
            listed = read_intervals(folder / f"{name}_{split}.txt")
            intervals = {
                video: [(action.start, action.end) for action in video_actions if action.name == name]
                for video, video_actions in actions.items()
            }
            assert all(
                intervals[video] == [(start, end) for other, start, end in listed if other == video]
                for video in intervals
            )
        assert any(
            [action.start for action in video_actions] != sorted(action.start for action in video_actions)
            for video_actions in actions.values()
        )  # otherwise the test could not see that they are sorted


def test_every_cliff_diving_is_a_diving_too(thumos14):
    for split in ("val", "test"):
        for video_actions in read_actions(thumos14, split).values():
            dives = {
                name: {(action.start, action.end) for action in video_actions if action.name == name}
                for name in ("CliffDiving", "Diving")
            }
            assert dives["CliffDiving"] <= dives["Diving"]


def test_the_class_list_counts_from_1(thumos14):
    numbers = read_detection_classes(thumos14 / "annotation/annotation_test/detclasslist.txt")
    # this copy counts from 1; the evaluation kit's has the numbers of UCF101
    assert list(numbers) == list(CLASSES20) and list(numbers.values()) == list(range(1, 21))


def test_class_numbers_are_those_of_ucf101(ucf101):
    classes = read_classes(ucf101)
    assert all(classes[number - 1] == name for name, number in CLASSES20.items())


def test_samples_without_videos(thumos14):
    test, val = load_thumos14(thumos14, check_videos=False), load_thumos14(thumos14, "val", check_videos=False)
    assert (len(test.samples), len(val.samples), val.skipped) == (210, 200, ()) and test.skipped_note.startswith(
        "3 of 213 test samples left out: "
    )
    assert {name for name, _ in test.skipped} == {
        "video_test_0000270",
        "video_test_0001292",
        "video_test_0001496",
    } and all(name in reason for name, reason in test.skipped)
    assert [sample.id for sample in test.samples] == sorted(sample.id for sample in test.samples) and all(
        sample.path.name == f"{sample.id}.mp4" for sample in test.samples
    )
    assert_input_error(lambda: load_thumos14(thumos14), "video_test_0000004.mp4: there is no such video")
    assert_input_error(lambda: load_thumos14(thumos14, "train"), "has no temporal annotations of split 'train'")


@pytest.fixture
def dataset(tmp_path) -> Path:
    "One video of 2 s with one instance, and all files of classes."
    folder = tmp_path / "annotation/annotation_val"
    folder.mkdir(parents=True)
    for name in (*CLASSES20, "Ambiguous"):
        (folder / f"{name}_val.txt").write_text("")
    (folder / "GolfSwing_val.txt").write_text("video_validation_0000051  0.2 1.9\n")
    write_video(
        tmp_path / "videos/video_validation_0000051.mp4",
        [Image.new("RGB", (64, 36), (9 * k, 80, 90)) for k in range(20)],
        fps=10,
    )
    return tmp_path


ANNOTATION_FAULTS = {  # file, its content (None: no file), location and text of the error
    "no file of a class": ("Shotput_val.txt", None, "Shotput_val.txt", "is not there"),
    "no ambiguous ones": ("Ambiguous_val.txt", None, "Ambiguous_val.txt", "is not there"),
    "cut off in the name": (
        "GolfSwing_val.txt",
        "video_validation_0000051  0.2 1.9\nvideo_valid",
        "GolfSwing_val.txt, line 2",
        "expected '<video>  <start> <stop>', found 'video_valid'",
    ),
    "cut off in a number": (
        "GolfSwing_val.txt",
        "video_validation_0000051  0.2 1.",
        "GolfSwing_val.txt, line 1",
        "expected '<video>  <start> <stop>'",
    ),
    "cut off before the end": (
        "GolfSwing_val.txt",
        "video_validation_0000051  0.2",
        "GolfSwing_val.txt, line 1",
        "expected '<video>  <start> <stop>'",
    ),
    "end before start": (
        "GolfSwing_val.txt",
        "video_validation_0000051  1.9 0.2\n",
        "GolfSwing_val.txt, line 1",
        "begins at 1.9 s and ends at 0.2 s",
    ),
    "of no length": (
        "GolfSwing_val.txt",
        "video_validation_0000051  1.9 1.9\n",
        "GolfSwing_val.txt, line 1",
        "begins at 1.9 s and ends at 1.9 s",
    ),
    "no number": (
        "GolfSwing_val.txt",
        "video_validation_0000051  0.2 nan\n",
        "GolfSwing_val.txt, line 1",
        "expected '<video>  <start> <stop>'",
    ),
    "of another split": (
        "GolfSwing_val.txt",
        "video_test_0000051  0.2 1.9\n",
        "GolfSwing_val.txt",
        "lists 'video_test_0000051', which is no video of split 'val'",
    ),
    "bytes that are no text": ("GolfSwing_val.txt", b"video\xff", "GolfSwing_val.txt", "is not UTF-8 text"),
    "a class list cut off": (
        "detclasslist.txt",
        "33 GolfSwing\n4",
        "detclasslist.txt, line 2",
        "expected '<number> <Class>', found '4'",
    ),
    "a class list cut to nothing": ("detclasslist.txt", "", "detclasslist.txt", "names no class"),
    "a class without its file": ("detclasslist.txt", "33 GolfSwing\n34 Juggling\n", "Juggling_val.txt", "is not there"),
}


@pytest.mark.parametrize("fault", ANNOTATION_FAULTS)
def test_missing_and_truncated_annotations_are_reported(dataset, fault):
    file, text, location, message = ANNOTATION_FAULTS[fault]
    damage_file(dataset / "annotation/annotation_val" / file, text)
    for arguments in ({}, {"on_error": "skip"}, {"check_videos": False}):
        error = assert_input_error(lambda: load_thumos14(dataset, "val", **arguments), message)
        assert error.location.endswith(location) and error.hint.startswith("Fetch ")


def test_intervals_are_clipped_to_the_video_and_later_ones_are_an_error(dataset):
    file = dataset / "annotation/annotation_val/GolfSwing_val.txt"
    for start, end, expected in (0.2, 1.9, (0.2, 1.9)), (0.2, 2.4, (0.2, 2.0)), (1.9, 9.9, (1.9, 2.0)):
        file.write_text(f"video_validation_0000051  {start} {end}\n")
        assert load_thumos14(dataset, "val").samples[0].actions == (ActionInterval("GolfSwing", *expected),)
    file.write_text("video_validation_0000051  2.0 2.4\n")
    assert_input_error(
        lambda: load_thumos14(dataset, "val"),
        "video_validation_0000051.mp4: lasts 2.0 s, but GolfSwing is annotated from 2.0 s",
    )
    assert_input_error(
        lambda: load_thumos14(dataset, "val", on_error="skip"), "no val sample can be used", "lasts 2.0 s"
    )
    shutil.copy(dataset / "videos/video_validation_0000051.mp4", dataset / "videos/video_validation_0000052.mp4")
    file.write_text("video_validation_0000051  2.0 2.4\nvideo_validation_0000052  0.5 2.4\n")
    assert (
        assert_input_error(lambda: load_thumos14(dataset, "val"), "GolfSwing is annotated from 2.0 s").hint
        == "The video is cut off or another one: fetch it again"
    )
    # one video is skipped, the other's interval is clipped
    remaining = load_thumos14(dataset, "val", on_error="skip")
    assert (
        [(sample.id, sample.actions[0].end) for sample in remaining.samples] == [("video_validation_0000052", 2.0)]
        and remaining.skipped_note.startswith("1 of 2 val samples left out: ")
        and "video_validation_0000051.mp4: lasts 2.0 s" in remaining.skipped_note
    )
    file.write_text("video_validation_0000051  2.0 2.4\n")
    assert load_thumos14(dataset, "val", check_videos=False).samples[0].actions[0].end == 2.4


def test_published_late_intervals_are_dropped_unless_none_is_left(dataset):
    (dataset / "videos/video_validation_0000051.mp4").rename(dataset / "videos/video_validation_0000364.mp4")
    file = dataset / "annotation/annotation_val/GolfSwing_val.txt"
    file.write_text("video_validation_0000364  0.2 1.9\nvideo_validation_0000364  2.1 2.4\n")
    assert load_thumos14(dataset, "val").samples[0].actions == (ActionInterval("GolfSwing", 0.2, 1.9),)
    file.write_text("video_validation_0000364  2.1 2.4\n")
    assert_input_error(
        lambda: load_thumos14(dataset, "val"),
        "video_validation_0000364.mp4: lasts 2.0 s, and all its intervals begin after that",
    )


@pytest.mark.parametrize(
    "fault, message",
    [
        (lambda path: path.unlink(), "there is no such video"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is cut off"),
        (lambda path: path.write_text("text " * 99), "cannot be decoded completely"),
    ],
)
def test_broken_videos_raise_or_are_skipped_and_listed(dataset, fault, message):
    path = dataset / "videos/video_validation_0000051.mp4"
    (dataset / "annotation/annotation_val/Diving_val.txt").write_text("video_validation_0000052  0.5 1.0\n")
    shutil.copy(path, path.with_name("video_validation_0000052.mp4"))
    fault(path)
    assert_input_error(lambda: load_thumos14(dataset, "val"), message, path.name)
    remaining = load_thumos14(dataset, "val", on_error="skip")
    assert (
        [sample.id for sample in remaining.samples] == ["video_validation_0000052"]
        and [name for name, _ in remaining.skipped] == ["video_validation_0000051"]
        and message in remaining.skipped_note
    )
