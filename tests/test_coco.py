"""MSCOCO: what is drawn comes back through the official loader, broken files are named, and a sample of the official files is read."""
import hashlib, json, shutil
from pathlib import Path
from random import Random

import pytest
from faults import refused, spoil

from cgsaliency.core.errors import BadInput
from cgsaliency.core.records import PARTS
from cgsaliency.data.coco import Coco, load_coco, tokens_of
from cgsaliency.data.flickr30k import refuse_seen
from cgsaliency.data.frames import read_picture
from cgsaliency.data.scenes import draw, imagine
from cgsaliency.data.toybox import describe
from cgsaliency.data.toycoco import FIRST, NAMED, CATEGORIES, make_coco, numbered

COUNTS = {"train": 9, "val": 3, "test": 4}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path: return make_coco(tmp_path_factory.mktemp("drawn"), **COUNTS, seed=3)


@pytest.fixture
def copy(root, tmp_path) -> Path: return Path(shutil.copytree(root, tmp_path / "data"))


def bytes_of(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(root.rglob("*")) if path.is_file()}


def changed(path: Path, change) -> None:
    "Nothing; the JSON file says what the change makes of it."
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# The drawn miniature

def test_what_is_drawn_comes_back(root):
    for part, count in COUNTS.items():
        found = load_coco(root, part, instances=True)
        assert len(found.records) == count and found.skipped == ()
        splits = [("train", k) for k in range(7)] + [("restval", k) for k in range(2)] if part == "train" else [(part, k) for k in range(count)]
        for record, (split, k) in zip(found.records, splits, strict=True):
            number, id = numbered(split, k)
            scene = imagine(3, number)
            said = [" ".join(words for words, _ in sentence)[:-2] for sentence in describe(scene, Random(f"coco/3/{number}"))]
            assert record.id == str(id) and record.path.name == f"COCO_{'train' if split == 'train' else 'val'}2014_{id:012d}.jpg"
            assert (record.width, record.height) == (scene.width, scene.height) == read_picture(record.path).size
            assert sorted(found.captions[record.id]) == sorted(one + "." for one in said)
            assert [" ".join(sentence.tokens) for sentence in record.sentences] == [caption[:-1].lower() for caption in found.captions[record.id]] and not record.phrase_mentions
            boxes = [(name, box) for thing in scene.things if (name := NAMED.get(thing.kind, thing.kind)) in CATEGORIES for box in thing.boxes]
            assert boxes and sorted((one.category, one.box) for one in found.instances[record.id]) == sorted(boxes)
            assert not any(one.crowd for one in found.instances[record.id])


@pytest.mark.parametrize("choice", [{}, {"restval": False}, {"family": "paper", "sizes": (3, 4)}, {"family": "paper", "sizes": (5, 2), "restval": False}])
def test_parts_share_no_picture(root, choice):
    parts = [load_coco(root, part, **choice) for part in PARTS]
    ids = [record.id for part in parts for record in part.records]
    assert len(set(ids)) == len(ids) and all(part.splits == parts[0].splits and tuple(part.by_id) == getattr(part.splits, part.part) for part in parts)
    assert len(ids) == 16 - 2 * (choice == {"restval": False}) - 2 * (choice.get("sizes") == (5, 2))


def test_the_families_overlap_and_models_are_not_tested_on_what_they_saw(root):
    one, other = load_coco(root, "train").splits, load_coco(root, "test", "paper", sizes=(3, 4)).splits
    assert set(one.train) & set(other.test)
    refused(lambda: refuse_seen(one.train, other.test), "take all parts from one family")
    assert [int(id) for id in (*other.val, *other.test)] == sorted(int(id) for id in (*other.val, *other.test))


def test_the_same_bytes_again_and_others_with_another_seed(root, tmp_path):
    assert bytes_of(make_coco(tmp_path / "again", **COUNTS, seed=3)) == bytes_of(root)
    assert not set(bytes_of(make_coco(tmp_path / "other", **COUNTS, seed=4)).values()) & set(bytes_of(root).values())


def test_more_pictures_leave_the_others_as_they_are(root, tmp_path):
    more = bytes_of(make_coco(tmp_path / "more", train=14, val=3, test=4, seed=3))
    drawn = {path: digest for path, digest in bytes_of(root).items() if path.endswith(".jpg")}
    assert len(drawn) == 16 and all(more[path] == digest for path, digest in drawn.items())


def test_the_drawing_does_not_change_between_releases(root):
    "A change of what is drawn or written has to raise toycoco.VERSION, and these digests with it. Pixels before any encoder."
    pixels = hashlib.sha256(b"".join(draw(imagine(0, numbered(split, k)[0])).tobytes() for split in FIRST for k in range(3))).hexdigest()[:16]
    texts = hashlib.sha256(repr([one for one in bytes_of(root).items() if one[0].endswith(".json")]).encode()).hexdigest()[:16]
    assert (pixels, texts) == ("6d53c346e0c243a7", "640dcaac6f80f0bb")


def test_nothing_is_overwritten_and_nothing_is_left_half_made(root, tmp_path, monkeypatch):
    before = bytes_of(root)
    refused(lambda: make_coco(root, **COUNTS, seed=4), "toybox.json")
    (tmp_path / "theirs/coco").mkdir(parents=True)
    refused(lambda: make_coco(tmp_path / "theirs", 1, 1, 1), "toybox.json")
    monkeypatch.setattr("cgsaliency.data.toycoco.instances_of", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError): make_coco(tmp_path / "half", 1, 1, 1)
    assert bytes_of(root) == before and not list((tmp_path / "half").iterdir()) and not list((tmp_path / "theirs/coco").iterdir())


# Broken files. The first test picture's record is spoilt: refused, or left out and listed, while all others stay

def first(root: Path) -> int: return int(load_coco(root).splits.test[0])
def captions(root: Path) -> Path: return root / "coco/annotations/captions_val2014.json"
def things(root: Path) -> Path: return root / "coco/annotations/instances_val2014.json"
def of(content: dict, id: int) -> dict: return next(one for one in content["annotations"] if one["image_id"] == id)


def image(**change):
    def damage(root: Path, id: int) -> None: changed(captions(root), lambda content: next(one for one in content["images"] if one["id"] == id).update(change))
    return damage


def caption(**change):
    def damage(root: Path, id: int) -> None: changed(captions(root), lambda content: of(content, id).update(change))
    return damage


def thing(**change):
    def damage(root: Path, id: int) -> None: changed(things(root), lambda content: of(content, id).update(change))
    return damage


def unlisted(file):
    def damage(root: Path, id: int) -> None: changed(file(root), lambda content: content.update(images=[one for one in content["images"] if one["id"] != id]))
    return damage


FAULTS = {
    "a missing picture": (lambda root, id: load_coco(root).by_id[str(id)].path.unlink(), "there is no such picture", "COCO_val2014_"),
    "a picture that no file lists": (unlisted(captions), "no captions file lists picture", "annotations"),
    "a picture without captions": (lambda root, id: changed(captions(root), lambda content: content.update(annotations=[one for one in content["annotations"] if one["image_id"] != id])), "has no caption", "captions_val2014.json, image with id"),
    "a caption that is empty": (caption(caption=" ... "), "field 'caption' is missing or has no words", "captions_val2014.json, annotation"),
    "a caption that is no text": (caption(caption=7), "field 'caption' is missing or has no words", "captions_val2014.json, annotation"),
    "a picture without a size": (image(width=None), "field 'width' is missing or no number of pixels", "captions_val2014.json, image with id"),
    "a picture of no height": (image(height=0), "field 'height' is missing", "captions_val2014.json, image with id"),
    "a picture without a file's name": (image(file_name=None), "field 'file_name' is missing or no text", "captions_val2014.json, image with id"),
    "a box outside its picture": (thing(bbox=[100, 20, 90, 30]), "field 'bbox' is [100, 20, 90, 30], which leaves the picture of", "instances_val2014.json, annotation"),
    "a box of three numbers": (thing(bbox=[100, 20, 9]), "expected [left, top, width, height]", "instances_val2014.json, annotation"),
    "a box of negative width": (thing(bbox=[100, 20, -9, 9]), "which leaves the picture of", "instances_val2014.json, annotation"),
    "an unknown category": (thing(category_id=91), "field 'category_id' is 91, which is not among the file's 13 categories", "instances_val2014.json, annotation"),
    "a picture that the instances do not list": (unlisted(things), "does not list image", "instances_val2014.json"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_record_is_named_or_left_out_and_listed(copy, fault):
    damage, says, place = FAULTS[fault]
    whole, id = load_coco(copy, instances=True), first(copy)
    damage(copy, id)
    refused(lambda: load_coco(copy, instances=True), says, place)
    rest = load_coco(copy, broken="skip", instances=True)
    assert rest.records == whole.records[1:] and [name for name, _ in rest.skipped] == [str(id)] and says in rest.skipped[0][1]
    assert "1 of 4 test records left out" in rest.footnote and str(id) not in {**rest.captions, **rest.instances} and load_coco(copy, "val").footnote == ""


@pytest.mark.parametrize("file", [captions, things])
def test_annotations_of_absent_images_are_refused_or_listed(copy, file):
    "Images that neither the file nor the split knows."
    whole = load_coco(copy, instances=True)
    changed(file(copy), lambda content: content["annotations"].append({**content["annotations"][0], "id": 10 ** 9, "image_id": 999_999_999}))
    refused(lambda: load_coco(copy, instances=True), f"{file(copy).name}, annotation", "speaks of image 999999999, which the file does not list")
    rest = load_coco(copy, broken="skip", instances=True)
    assert rest.records == whole.records and [name for name, _ in rest.skipped] == ["999999999"]


def test_a_file_that_is_not_whole_or_of_another_kind_is_refused(copy):
    official = copy / "coco"
    for name, asked in [("annotations/captions_val2014.json", {}), ("annotations/instances_val2014.json", {"instances": True}), ("dataset_coco.json", {})]:
        path = official / name
        before = path.read_bytes()
        for says, error in [(before[:len(before) // 2], "is not whole JSON"), ("[1, 2]", "is JSON of another kind: it has no list 'images'"), (b"\xff\xfe\x00", "is not UTF-8 text")]:
            spoil(path, says)
            refused(lambda: load_coco(copy, **asked), error, path.name)
            refused(lambda: load_coco(copy, broken="skip", **asked), error, path.name)
        path.write_bytes(before)
    things(copy).replace(captions(copy))
    refused(lambda: load_coco(copy), "captions_val2014.json, annotation", "field 'caption' is missing")


def test_a_missing_file_is_named(copy):
    things(copy).unlink()
    refused(lambda: load_coco(copy, instances=True), "instances_val2014.json: is not there")
    assert load_coco(copy).footnote == "" and load_coco(copy, "train", restval=False, instances=True).footnote == ""      # of other pictures
    (copy / "coco/dataset_coco.json").rename(copy / "coco/other.json")
    refused(lambda: load_coco(copy), "dataset_coco.json: is not there")
    assert load_coco(copy, family="paper", sizes=(3, 4)).footnote == ""
    (copy / "coco/other.json").rename(copy / "coco/dataset_coco.json")
    captions(copy).unlink()
    refused(lambda: load_coco(copy), "no captions file lists picture")
    refused(lambda: load_coco(copy, family="paper"), "captions_val: lists 0 validation pictures, of which 5000 and 5000 are asked for")
    captions(copy).with_name("captions_train2014.json").unlink()
    refused(lambda: load_coco(copy), "holds no captions_val2014.json")


def test_ids_that_are_given_twice_are_refused(copy):
    for file, asked in [(captions, {}), (things, {"instances": True})]:
        before = file(copy).read_text()
        for key, says in [("annotations", "is given to two annotations"), ("images", "is given to two images")]:
            changed(file(copy), lambda content: content[key].append(content[key][0]))
            for broken in ("refuse", "skip"): refused(lambda: load_coco(copy, broken=broken, **asked), file(copy).name, says)
            file(copy).write_text(before)
    listed = json.loads(captions(copy).read_text())["images"][0]
    changed(captions(copy).with_name("captions_train2014.json"), lambda content: content["images"].append(listed))
    refused(lambda: load_coco(copy), f"captions_val2014.json: lists image {listed['id']}, as captions_train2014.json does")


def test_a_split_that_is_empty_or_shares_a_picture_is_refused(copy):
    path = copy / "coco/dataset_coco.json"
    before = path.read_text()
    changed(path, lambda content: content["images"].append({**content["images"][0], "split": "test"}))
    refused(lambda: load_coco(copy), "dataset_coco.json, image 16", "is in two splits, 'train' and 'test'")
    path.write_text(before)
    changed(path, lambda content: content.update(images=[one for one in content["images"] if one["split"] != "val"]))
    refused(lambda: load_coco(copy), "dataset_coco.json: leaves the split 'val' empty")
    refused(lambda: load_coco(copy, family="paper", sizes=(3, 0)), "leaves the split 'test' empty")
    refused(lambda: load_coco(copy, family="paper", sizes=(5, 5)), "lists 9 validation pictures, of which 5 and 5 are asked for")


# The official files

def mini(shared_data: Path, part: str, **choice) -> Coco:
    return load_coco(shared_data, part, "paper", sizes=(20, 30), instances=True, **choice)


def test_a_sample_of_the_official_files_is_read_whole(shared_data):
    parts = {part: mini(shared_data, part) for part in PARTS}
    records = [record for part in parts.values() for record in part.records]
    assert [len(parts[part].records) for part in PARTS] == [29, 20, 30] and len({record.id for record in records}) == 79
    assert all(len(record.sentences) == 5 and read_picture(record.path).size == (record.width, record.height) for record in records)
    found = [(record, one) for part in parts.values() for record in part.records for one in part.instances[record.id]]
    assert len(found) == 624 and sum(one.crowd for _, one in found) == 5
    assert all(0 <= one.box[0] < one.box[2] <= record.width and 0 <= one.box[1] < one.box[3] <= record.height for record, one in found)
    raw = {one["id"]: one for one in json.loads((shared_data / "coco_mini/annotations/instances_val2017.json").read_text())["annotations"]}
    areas = sorted(one["bbox"][2] * one["bbox"][3] for one in raw.values())
    assert sorted((one.box[2] - one.box[0]) * (one.box[3] - one.box[1]) for _, one in found) == pytest.approx(areas)
    assert [int(record.id) for part in ("val", "test", "train") for record in parts[part].records] == sorted(int(record.id) for record in records)


def test_official_captions_become_the_words_of_the_authors_code(shared_data):
    part = mini(shared_data, "train")
    lake = next(caption for known in (mini(shared_data, name) for name in PARTS) for own in known.captions.values() for caption in own if caption.startswith("A plane floating"))
    assert tokens_of(lake) == ("a", "plane", "floating", "on", "top", "of", "a", "lake", "surrounded", "by", "mountains")
    words = {word for record in part.records for sentence in record.sentences for word in sentence.tokens}
    assert all(word == word.lower() and word.isalnum() for word in words if word.isascii()) and {"man", "of", "sitting"} <= words


def test_a_small_sample_does_not_pass_for_the_whole(shared_data):
    refused(lambda: load_coco(shared_data, family="paper"), "lists 79 validation pictures, of which 5000 and 5000 are asked for", "sizes=")
    refused(lambda: load_coco(shared_data), "dataset_coco.json: is not there")
