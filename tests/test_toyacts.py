"""Drawn actions: seed and number alone decide them, and what is written says what was drawn."""
import hashlib, subprocess, sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from cgsaliency.core.errors import BadInput
from cgsaliency.data.acts import draw_film, imagine_act, imagine_untrimmed
from cgsaliency.data.athletes import MOTIONS
from cgsaliency.data.frames import read_frames, video_times
from cgsaliency.data.scenes import draw
from cgsaliency.data.toyacts import OLD_NAMES, make_thumos14, make_ucf101

SETS = {"ucf101": (make_ucf101, {"train_groups": 1, "test_groups": 1, "clips": 2}), "thumos14": (make_thumos14, {"val": 2, "test": 1})}
VIPER, DATA = "{http://lamp.cfar.umd.edu/viper#}", "{http://lamp.cfar.umd.edu/viperdata#}"


@pytest.fixture(scope="module", params=SETS)
def name(request) -> str: return request.param


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp("acts") / name, **counts, seed=3) for name, (make, counts) in SETS.items()}


def bytes_of(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(root.rglob("*")) if path.is_file()}


def persons_of(path: Path) -> list[tuple[set[str], dict[int, tuple[int, ...]]]]:
    persons = []
    for person in ElementTree.parse(path).getroot().find(f"{VIPER}data").find(f"{VIPER}sourcefile").iter(f"{VIPER}object"):
        location, *flags = person.iter(f"{VIPER}attribute")
        assert person.get("name") == "PERSON" and location.get("name") == "Location"
        boxes = {}
        for box in location:
            start, stop = map(int, box.get("framespan").split(":"))
            x, y, w, h = (int(box.get(side)) for side in ("x", "y", "width", "height"))
            for frame in range(start - 1, stop): assert boxes.setdefault(frame, (x, y, x + w, y + h)) == (x, y, x + w, y + h)
        persons.append(({flag.get("name") for flag in flags for value in flag.iter(f"{DATA}bvalue") if value.get("value") == "true"}, boxes))
    return persons


def test_boxes_of_every_clip_are_those_that_were_drawn(roots):
    files, watched = sorted((roots["ucf101"] / "UCF101_24_Annotations").rglob("*.xgtf")), 0
    assert len(files) == 8 * 2 * 2
    for path in files:
        _, label, group, clip = path.stem.split("_")
        made = imagine_act(3, label, int(group[1:]), int(clip[1:]))
        bystanders = [other for other in made.others if other.category == ("people",)]
        assert persons_of(path) == [({OLD_NAMES.get(label, label)}, dict(zip(made.actor.frames, made.actor.boxes))), *((set(), dict(zip(other.frames, other.boxes))) for other in bystanders)]
        watched += bool(bystanders)
        facts = {attribute.get("name"): attribute[0].get("value") for attribute in ElementTree.parse(path).getroot().find(f".//{VIPER}file")}
        assert (facts["NUMFRAMES"], facts["H-FRAME-SIZE"], facts["V-FRAME-SIZE"]) == (str(len(made.frames)), "160", "120")
        assert len(video_times(roots["ucf101"] / f"UCF-101/{label}/{path.stem}.avi")) == len(made.frames)
    assert 0 < watched < len(files)


def test_lists_name_every_clip_once_with_its_class(roots):
    folder = roots["ucf101"] / "ucfTrainTestlist"
    numbers = dict(reversed(line.split()) for line in (folder / "classInd.txt").read_text().splitlines())
    train, test = ([line.split() for line in (folder / f"{part}list01.txt").read_text().splitlines()] for part in ("train", "test"))
    assert list(numbers) == sorted(MOTIONS) and all(numbers[clip.split("/")[0]] == label for clip, label in train) and {len(line) for line in test} == {1}
    named = [line[0] for line in train + test]
    assert sorted(named) == sorted(path.relative_to(roots["ucf101"] / "UCF-101").as_posix() for path in (roots["ucf101"] / "UCF-101").rglob("*.avi"))


def test_seconds_of_every_film_are_those_that_were_drawn(roots):
    for part, name, offset, count in (("val", "validation", 0, 2), ("test", "test", 10000, 1)):
        said = {}
        for path in (roots["thumos14"] / f"annotation/annotation_{part}").glob(f"*_{part}.txt"):
            for line in path.read_text().splitlines():
                video, span = line.split("  ")
                said.setdefault(video, set()).add((path.name.removesuffix(f"_{part}.txt"), *map(float, span.split(" "))))
        assert sorted(said) == [f"video_{name}_{k:07}" for k in range(1, count + 1)]
        for k, video in enumerate(sorted(said), 1):
            film, times = imagine_untrimmed(3, offset + k), video_times(roots["thumos14"] / f"videos/{video}.mp4")
            assert said[video] == {(action.name, action.start, action.stop) for action in film.actions} and len(times) == len(film.frames) and abs(times[1] - 1 / film.rate) < .001


def test_a_film_is_drawn_as_its_scenes_are():
    for scenes in (imagine_act(0, "Diving", 1, 1).frames, imagine_untrimmed(0, 4).frames[:30]):
        assert [picture.tobytes() for picture in draw_film(scenes)] == [draw(scene).tobytes() for scene in scenes]


def test_decoded_frames_are_the_drawn_ones(roots):
    import numpy as np

    for path in sorted((roots["ucf101"] / "UCF-101").rglob("*g01_c01.avi")):
        drawn = draw_film(imagine_act(3, path.parent.name, 1, 1).frames)
        assert max(np.abs(np.asarray(one).astype(float) - np.asarray(other)).mean() for one, other in zip(read_frames(path, None).frames, drawn, strict=True)) < 6


def test_the_same_bytes_again_in_another_process_and_others_with_another_seed(name, roots, tmp_path):
    make, counts = SETS[name]
    code = f"import sys; from pathlib import Path; from cgsaliency.data.toyacts import {make.__name__} as make; make(Path(sys.argv[1]), **{counts}, seed=3)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "again")], check=True, cwd=Path(__file__).parent.parent)
    before = bytes_of(roots[name])
    assert bytes_of(tmp_path / "again") == before
    other = bytes_of(make(tmp_path / "other", **counts, seed=4))
    assert not {digest for path, digest in other.items() if path.endswith((".avi", ".mp4", ".xgtf"))} & set(before.values())


def test_more_clips_leave_the_first_as_they_are(name, roots, tmp_path):
    more = {"ucf101": {"train_groups": 2, "test_groups": 1, "clips": 2}, "thumos14": {"val": 3, "test": 1}}[name]
    drawn = {path: digest for path, digest in bytes_of(roots[name]).items() if path.endswith((".avi", ".mp4", ".xgtf"))}
    made = bytes_of(SETS[name][0](tmp_path / "more", **more, seed=3))
    assert len(drawn) == {"ucf101": 64, "thumos14": 3}[name] and all(made[path] == digest for path, digest in drawn.items())


def test_the_drawing_does_not_change_between_releases():
    "A change of what is drawn has to raise toyacts.VERSION, and these digests with it. Pixels before any encoder."
    def seen(scenes): return hashlib.sha256(b"".join(picture.tobytes() for picture in draw_film(scenes))).hexdigest()[:16]
    assert {name: seen(imagine_act(0, name, 1, 1).frames) for name in MOTIONS} == {
        "BasketballDunk": "6a686e2698dff0ab", "VolleyballSpiking": "faf9f773c118d64e", "GolfSwing": "0a3fc296b80d2aaa", "TennisSwing": "3288968a4efe8715", "CricketBowling": "178577de575dc182", "LongJump": "4cee2945f9ffff99", "PoleVault": "2c2ed039f0ec696d", "Diving": "ff1ff80824ecbaa6"}
    assert seen(imagine_untrimmed(0, 5).frames) == "5480bc282e454fce"


def test_the_annotations_do_not_change_between_releases(name, roots):
    "As for the drawing. Text only: a video library may encode otherwise."
    known = sorted((path, digest) for path, digest in bytes_of(roots[name]).items() if path.endswith((".txt", ".json", ".xgtf")))
    assert hashlib.sha256(repr(known).encode()).hexdigest()[:16] == {"ucf101": "ff72bd40eaaa1cfd", "thumos14": "077da38b089ba5c1"}[name]


def test_nothing_is_overwritten_and_nothing_is_left_half_made(name, roots, tmp_path, monkeypatch):
    make, counts = SETS[name]
    before = bytes_of(roots[name])
    with pytest.raises(BadInput, match="toybox.json"): make(roots[name], **counts, seed=4)
    (tmp_path / "theirs").mkdir()
    with pytest.raises(BadInput, match="toybox.json"): make(tmp_path / "theirs", **counts)
    monkeypatch.setattr("cgsaliency.data.toyacts.draw_film", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError): make(tmp_path / "half", **counts)
    assert bytes_of(roots[name]) == before and [path.name for path in tmp_path.iterdir()] == ["theirs"]
