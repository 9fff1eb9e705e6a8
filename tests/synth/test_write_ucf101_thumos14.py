"""Synthetic action videos in the layouts of UCF101 and THUMOS14: the annotations are those of the drawn actors."""

import hashlib
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from assertions import file_digests
from cgsaliency.core.errors import InputError
from cgsaliency.data.media import frame_timestamps, read_frames
from cgsaliency.synth.action_videos import render_video, sample_action_clip, sample_untrimmed_video
from cgsaliency.synth.actors import MOTIONS
from cgsaliency.synth.scenes import render
from cgsaliency.synth.write_ucf101_thumos14 import XGTF_NAMES, write_thumos14, write_ucf101

WRITERS = {
    "ucf101": (write_ucf101, {"train_groups": 1, "test_groups": 1, "clips": 2}),
    "thumos14": (write_thumos14, {"val": 2, "test": 1}),
}
VIPER, DATA = "{http://lamp.cfar.umd.edu/viper#}", "{http://lamp.cfar.umd.edu/viperdata#}"


@pytest.fixture(scope="module", params=WRITERS)
def dataset_name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def dataset_roots(tmp_path_factory) -> dict[str, Path]:
    return {
        name: write(tmp_path_factory.mktemp("actions") / name, **counts, seed=3)
        for name, (write, counts) in WRITERS.items()
    }


def read_persons(path: Path) -> list[tuple[set[str], dict[int, tuple[int, ...]]]]:
    persons = []
    for person in (
        ElementTree.parse(path).getroot().find(f"{VIPER}data").find(f"{VIPER}sourcefile").iter(f"{VIPER}object")
    ):
        location, *flags = person.iter(f"{VIPER}attribute")
        assert person.get("name") == "PERSON" and location.get("name") == "Location"
        boxes = {}
        for box in location:
            start, end = map(int, box.get("framespan").split(":"))
            x, y, w, h = (int(box.get(side)) for side in ("x", "y", "width", "height"))
            for frame in range(start - 1, end):
                assert boxes.setdefault(frame, (x, y, x + w, y + h)) == (x, y, x + w, y + h)
        persons.append(
            (
                {
                    flag.get("name")
                    for flag in flags
                    for value in flag.iter(f"{DATA}bvalue")
                    if value.get("value") == "true"
                },
                boxes,
            )
        )
    return persons


@pytest.mark.slow
def test_boxes_of_every_clip_are_those_of_the_drawn_actors(dataset_roots):
    files, num_with_bystanders = sorted((dataset_roots["ucf101"] / "UCF101_24_Annotations").rglob("*.xgtf")), 0
    assert len(files) == 8 * 2 * 2
    for path in files:
        _, label, group, clip = path.stem.split("_")
        script = sample_action_clip(3, label, int(group[1:]), int(clip[1:]))
        bystanders = [other for other in script.others if other.category == ("people",)]
        assert read_persons(path) == [
            ({XGTF_NAMES.get(label, label)}, dict(zip(script.actor.frames, script.actor.boxes))),
            *((set(), dict(zip(other.frames, other.boxes))) for other in bystanders),
        ]
        num_with_bystanders += bool(bystanders)
        attributes = {
            attribute.get("name"): attribute[0].get("value")
            for attribute in ElementTree.parse(path).getroot().find(f".//{VIPER}file")
        }
        assert (attributes["NUMFRAMES"], attributes["H-FRAME-SIZE"], attributes["V-FRAME-SIZE"]) == (
            str(len(script.frames)),
            "160",
            "120",
        )
        assert len(frame_timestamps(dataset_roots["ucf101"] / f"UCF-101/{label}/{path.stem}.avi")) == len(script.frames)
    assert 0 < num_with_bystanders < len(files)


@pytest.mark.slow
def test_lists_have_every_clip_once_with_its_class(dataset_roots):
    folder = dataset_roots["ucf101"] / "ucfTrainTestlist"
    numbers = dict(reversed(line.split()) for line in (folder / "classInd.txt").read_text().splitlines())
    train, test = (
        [line.split() for line in (folder / f"{split}list01.txt").read_text().splitlines()]
        for split in ("train", "test")
    )
    assert (
        list(numbers) == sorted(MOTIONS)
        and all(numbers[clip.split("/")[0]] == label for clip, label in train)
        and {len(line) for line in test} == {1}
    )
    listed = [line[0] for line in train + test]
    assert sorted(listed) == sorted(
        path.relative_to(dataset_roots["ucf101"] / "UCF-101").as_posix()
        for path in (dataset_roots["ucf101"] / "UCF-101").rglob("*.avi")
    )


@pytest.mark.slow
def test_intervals_of_every_video_are_those_of_the_drawn_actions(dataset_roots):
    for split, prefix, offset, count in (("val", "validation", 0, 2), ("test", "test", 10000, 1)):
        intervals = {}
        for path in (dataset_roots["thumos14"] / f"annotation/annotation_{split}").glob(f"*_{split}.txt"):
            for line in path.read_text().splitlines():
                video, span = line.split("  ")
                intervals.setdefault(video, set()).add(
                    (path.name.removesuffix(f"_{split}.txt"), *map(float, span.split(" ")))
                )
        assert sorted(intervals) == [f"video_{prefix}_{k:07}" for k in range(1, count + 1)]
        for k, video in enumerate(sorted(intervals), 1):
            script, times = (
                sample_untrimmed_video(3, offset + k),
                frame_timestamps(dataset_roots["thumos14"] / f"videos/{video}.mp4"),
            )
            assert (
                intervals[video] == {(action.name, action.start, action.end) for action in script.actions}
                and len(times) == len(script.frames)
                and abs(times[1] - 1 / script.fps) < 0.001
            )


def test_rendered_videos_equal_their_rendered_scenes():
    for scenes in (sample_action_clip(0, "Diving", 1, 1).frames, sample_untrimmed_video(0, 4).frames[:30]):
        assert [image.tobytes() for image in render_video(scenes)] == [render(scene).tobytes() for scene in scenes]


@pytest.mark.slow
def test_decoded_frames_are_near_the_rendered_ones(dataset_roots):
    import numpy as np

    for path in sorted((dataset_roots["ucf101"] / "UCF-101").rglob("*g01_c01.avi")):
        rendered = render_video(sample_action_clip(3, path.parent.name, 1, 1).frames)
        assert (
            max(
                np.abs(np.asarray(decoded).astype(float) - np.asarray(original)).mean()
                for decoded, original in zip(read_frames(path, None).frames, rendered, strict=True)
            )
            < 6
        )


@pytest.mark.slow
def test_the_seed_decides_the_files_in_every_process(dataset_name, dataset_roots, tmp_path):
    write, counts = WRITERS[dataset_name]
    code = (
        "import sys; from pathlib import Path; "
        f"from cgsaliency.synth.write_ucf101_thumos14 import {write.__name__} as make;"
        f" make(Path(sys.argv[1]), **{counts}, seed=3)"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "again")], check=True, cwd=Path(__file__).resolve().parents[2]
    )
    before = file_digests(dataset_roots[dataset_name])
    assert file_digests(tmp_path / "again") == before
    other = file_digests(write(tmp_path / "other", **counts, seed=4))
    assert not {digest for path, digest in other.items() if path.endswith((".avi", ".mp4", ".xgtf"))} & set(
        before.values()
    )


@pytest.mark.slow
def test_more_clips_do_not_change_the_others(dataset_name, dataset_roots, tmp_path):
    counts = {"ucf101": {"train_groups": 2, "test_groups": 1, "clips": 2}, "thumos14": {"val": 3, "test": 1}}[
        dataset_name
    ]
    digests = {
        path: digest
        for path, digest in file_digests(dataset_roots[dataset_name]).items()
        if path.endswith((".avi", ".mp4", ".xgtf"))
    }
    more_digests = file_digests(WRITERS[dataset_name][0](tmp_path / "more", **counts, seed=3))
    assert len(digests) == {"ucf101": 64, "thumos14": 3}[dataset_name] and all(
        more_digests[path] == digest for path, digest in digests.items()
    )


def test_pixels_do_not_change_between_releases():
    "A change of what is drawn must raise VERSION of write_ucf101_thumos14, and change these digests of raw pixels."

    def digest(scenes):
        return hashlib.sha256(b"".join(image.tobytes() for image in render_video(scenes))).hexdigest()[:16]

    assert {name: digest(sample_action_clip(0, name, 1, 1).frames) for name in MOTIONS} == {
        "BasketballDunk": "f00eaa8c3ad84255",
        "VolleyballSpiking": "3c2bae391ef2ebf7",
        "GolfSwing": "1356b7989764dbb5",
        "TennisSwing": "aa07218c4c137940",
        "CricketBowling": "10bf2196be3dc764",
        "LongJump": "48b358829ab25b6b",
        "PoleVault": "9bf8346216ec88ae",
        "Diving": "b1014dc6a72cdf64",
    }
    assert digest(sample_untrimmed_video(0, 5).frames) == "991cc1f19940b3f6"


@pytest.mark.slow
def test_annotations_do_not_change_between_releases(dataset_name, dataset_roots):
    "The same for annotations. Texts only: video libraries differ."
    text_digests = sorted(
        (path, digest)
        for path, digest in file_digests(dataset_roots[dataset_name]).items()
        if path.endswith((".txt", ".json", ".xgtf"))
    )
    assert (
        hashlib.sha256(repr(text_digests).encode()).hexdigest()[:16]
        == {"ucf101": "eae55a2fa75248d1", "thumos14": "99b3d07f178adfa2"}[dataset_name]
    )


@pytest.mark.slow
def test_existing_files_are_not_overwritten_and_failed_writing_leaves_none(
    dataset_name, dataset_roots, tmp_path, monkeypatch
):
    write, counts = WRITERS[dataset_name]
    before = file_digests(dataset_roots[dataset_name])
    with pytest.raises(InputError, match="toybox.json"):
        write(dataset_roots[dataset_name], **counts, seed=4)
    (tmp_path / "theirs").mkdir()
    with pytest.raises(InputError, match="toybox.json"):
        write(tmp_path / "theirs", **counts)
    monkeypatch.setattr("cgsaliency.synth.write_ucf101_thumos14.render_video", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "half", **counts)
    assert file_digests(dataset_roots[dataset_name]) == before and [path.name for path in tmp_path.iterdir()] == [
        "theirs"
    ]
