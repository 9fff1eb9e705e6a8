"""Synthetic images in the layout of MSCOCO: the official loader reads them, and the seed alone decides them."""

import hashlib
from pathlib import Path

import pytest

from assertions import assert_input_error, file_digests
from cgsaliency.data.coco import load_coco
from cgsaliency.data.media import read_image
from cgsaliency.synth.scenes import render, sample_scene
from cgsaliency.synth.write_coco import COCO_CATEGORIES, COCO_NAMES, FIRST_SCENE, coco_captions, coco_ids, write_coco

COUNTS = {"train": 9, "val": 3, "test": 4}


@pytest.fixture(scope="module")
def coco_root(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("drawn"), **COUNTS, seed=3)


def test_the_official_loader_reads_what_was_written(coco_root):
    for split, count in COUNTS.items():
        dataset = load_coco(coco_root, split, restval=True, instances=True)
        assert len(dataset.samples) == count and dataset.skipped == ()
        splits = (
            [("train", k) for k in range(7)] + [("restval", k) for k in range(2)]
            if split == "train"
            else [(split, k) for k in range(count)]
        )
        for sample, (coco_split, k) in zip(dataset.samples, splits, strict=True):
            index, id = coco_ids(coco_split, k)
            scene = sample_scene(3, index)
            captions = [
                " ".join(phrase for phrase, _ in caption)[:-2] for caption in coco_captions(scene, index, seed=3)
            ]
            assert (
                sample.id == str(id)
                and sample.path.name == f"COCO_{'train' if coco_split == 'train' else 'val'}2014_{id:012d}.jpg"
            )
            assert (sample.width, sample.height) == (scene.width, scene.height) == read_image(sample.path).size
            assert sorted(dataset.raw_captions[sample.id]) == sorted(caption + "." for caption in captions)
            assert [" ".join(caption.tokens) for caption in sample.captions] == [
                caption[:-1].lower() for caption in dataset.raw_captions[sample.id]
            ] and not sample.phrase_mentions
            boxes = [
                (name, box)
                for scene_object in scene.objects
                if (name := COCO_NAMES.get(scene_object.kind, scene_object.kind)) in COCO_CATEGORIES
                for box in scene_object.boxes
            ]
            assert boxes and sorted(
                (instance.category, instance.box) for instance in dataset.instances[sample.id]
            ) == sorted(boxes)
            assert not any(instance.crowd for instance in dataset.instances[sample.id])


def test_the_seed_decides_the_files(coco_root, tmp_path):
    assert file_digests(write_coco(tmp_path / "again", **COUNTS, seed=3)) == file_digests(coco_root)
    assert not set(file_digests(write_coco(tmp_path / "other", **COUNTS, seed=4)).values()) & set(
        file_digests(coco_root).values()
    )


def test_more_images_do_not_change_the_others(coco_root, tmp_path):
    more_digests = file_digests(write_coco(tmp_path / "more", train=14, val=3, test=4, seed=3))
    image_digests = {path: digest for path, digest in file_digests(coco_root).items() if path.endswith(".jpg")}
    assert len(image_digests) == 16 and all(more_digests[path] == digest for path, digest in image_digests.items())


def test_pixels_and_annotations_do_not_change_between_releases(coco_root):
    """A change of what is drawn must raise VERSION of write_coco, and change these digests: of pixels before they are
    encoded, and of texts."""
    pixels = hashlib.sha256(
        b"".join(render(sample_scene(0, coco_ids(split, k)[0])).tobytes() for split in FIRST_SCENE for k in range(3))
    ).hexdigest()[:16]
    texts = hashlib.sha256(
        repr([entry for entry in file_digests(coco_root).items() if entry[0].endswith(".json")]).encode()
    ).hexdigest()[:16]
    assert (pixels, texts) == ("1752805616dd2283", "86517cbc26f235bb")


def test_existing_files_are_not_overwritten_and_failed_writing_leaves_none(coco_root, tmp_path, monkeypatch):
    before = file_digests(coco_root)
    assert_input_error(lambda: write_coco(coco_root, **COUNTS, seed=4), "toybox.json")
    (tmp_path / "theirs/coco").mkdir(parents=True)
    assert_input_error(lambda: write_coco(tmp_path / "theirs", 1, 1, 1), "toybox.json")
    monkeypatch.setattr("cgsaliency.synth.write_coco.coco_instances", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_coco(tmp_path / "half", 1, 1, 1)
    assert (
        file_digests(coco_root) == before
        and not list((tmp_path / "half").iterdir())
        and not list((tmp_path / "theirs/coco").iterdir())
    )
