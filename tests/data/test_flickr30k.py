"""The Flickr30k loader on broken files, one fault at a time, and on the official annotations where they are."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from assertions import assert_input_error
from cgsaliency.core.errors import InputError
from cgsaliency.core.records import SPLIT_NAMES
from cgsaliency.data.flickr30k import (
    assert_disjoint,
    entities_files,
    load_flickr30k,
    parse_annotation,
    parse_caption,
    read_karpathy_splits,
    read_splits,
)
from cgsaliency.data.media import read_image
from cgsaliency.features.backbone import Backbone
from cgsaliency.features.extractor import DescriptorExtractor


@pytest.fixture
def toybox_copy(toybox, tmp_path) -> Path:
    return Path(shutil.copytree(toybox, tmp_path / "data"))


def first_file(root: Path, kind: str) -> Path:
    id = read_splits(root).train[0]
    return {
        "image": root / f"flickr30k/flickr30k-images/{id}.jpg",
        "sentences": root / f"flickr30k_entities/Sentences/{id}.txt",
        "xml": root / f"flickr30k_entities/Annotations/{id}.xml",
        "captions": root / "flickr30k/results_20130124.token",
    }[kind]


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


def first_boxed_entity(root: Path) -> str:
    "Return the id of the first entity of the first image that has a box."
    caption = parse_caption(first_file(root, "sentences").read_text().splitlines()[0])
    annotation = parse_annotation(first_file(root, "xml").read_bytes())
    return next(phrase.entity_id for phrase in caption.phrases if phrase.entity_id in annotation.boxes)


FILE_FAULTS = {
    "a missing image": ("image", lambda path, root: path.unlink(), "there is no such image"),
    "XML without a size": (
        "xml",
        lambda path, root: edit(path, "<width>", "<breadth>") or edit(path, "</width>", "</breadth>"),
        "size/width",
    ),
    "XML that is cut off": ("xml", lambda path, root: path.write_bytes(path.read_bytes()[:200]), "not valid XML"),
    "missing XML": ("xml", lambda path, root: path.unlink(), "is not there"),
    "empty XML": ("xml", lambda path, root: path.write_bytes(b""), "not valid XML"),
    "an unclosed bracket": (
        "sentences",
        lambda path, root: path.write_text(
            path.read_text().replace("]", "", 1)
            if path.read_text().splitlines()[0].count("]") == 1
            else path.read_text().splitlines()[0].replace("]", "") + "\n"
        ),
        "inside another",
    ),
    "a bracket open at the end": (
        "sentences",
        lambda path, root: path.write_text("The end of [/EN#7/people a man\n"),
        "never closed",
    ),
    "an entity without annotation": (
        "xml",
        lambda path, root: path.write_text(
            path.read_text().replace(f"<name>{first_boxed_entity(root)}</name>", "<name>999999</name>")
        ),
        "has no annotation",
    ),
    "boxes outside the image": ("xml", lambda path, root: edit(path, "<xmax>", "<xmax>9"), "exceeds the image"),
    "entity sentences that are not the captions": (
        "sentences",
        lambda path, root: path.write_text("Other words .\n" * 5),
        "its words are not those",
    ),
    "sentences that are not text": ("sentences", lambda path, root: path.write_bytes(b"\xff\xfe\x00"), "not UTF-8"),
}


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_broken_files_raise_or_are_skipped_and_listed(toybox_copy, fault):
    kind, damage, message = FILE_FAULTS[fault]
    file = first_file(toybox_copy, kind)
    complete = load_flickr30k(toybox_copy, "train")
    damage(file, toybox_copy)
    assert_input_error(lambda: load_flickr30k(toybox_copy, "train"), message, file.name)
    remaining = load_flickr30k(toybox_copy, "train", on_error="skip")
    assert remaining.samples == complete.samples[1:]
    assert [id for id, _ in remaining.skipped] == [complete.samples[0].id] and message in remaining.skipped[0][1]
    assert "1 of 8 train samples left out" in remaining.skipped_note and file.name in remaining.skipped_note


def test_truncated_captions_are_reported(toybox_copy):
    first_file(toybox_copy, "captions").write_text("100000001.jpg#0\tA dog .\n100000001.jp")
    with pytest.raises(InputError, match="line 2"):
        load_flickr30k(toybox_copy)
    first_file(toybox_copy, "captions").unlink()
    with pytest.raises(InputError, match="is not there"):
        load_flickr30k(toybox_copy)


def test_truncated_jpegs_are_reported_and_no_feature_is_written(toybox_copy, tmp_path):
    file = first_file(toybox_copy, "image")
    file.write_bytes(file.read_bytes()[:600])
    with pytest.raises(InputError, match=f"{file.name}.*cannot be decoded completely"):
        read_image(file)
    samples = load_flickr30k(toybox_copy, "train").samples
    with pytest.raises(InputError, match=file.name):
        DescriptorExtractor(Backbone("toynet")).cache(tmp_path / "features", samples, progress=False)
    assert not list((tmp_path / "features").rglob("*.safetensors"))


def test_annotations_are_read_without_images_and_captions(toybox_copy):
    complete = load_flickr30k(toybox_copy, "train")
    shutil.rmtree(toybox_copy / "flickr30k")
    assert load_flickr30k(toybox_copy, "train", annotations_only=True).samples == complete.samples
    with pytest.raises(InputError):
        load_flickr30k(toybox_copy, "train")


def test_overlapping_empty_and_missing_splits_are_reported(toybox_copy):
    lists = toybox_copy / "flickr30k_entities/karpathy"
    train, test = lists / "imgs_train.txt", lists / "imgs_test.txt"
    before = test.read_text()
    test.write_text(before + train.read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match="1 images are in both"):
        read_splits(toybox_copy)
    test.write_text("\n")
    assert read_splits(toybox_copy).test == ()
    with pytest.raises(InputError, match="no test sample can be used"):
        load_flickr30k(toybox_copy, "test")
    for path in (train, lists / "imgs_val.txt"):
        path.write_text("")
    with pytest.raises(InputError, match="holds lists that name no image"):
        read_splits(toybox_copy)
    test.unlink()
    with pytest.raises(InputError, match="is not there"):
        read_splits(toybox_copy)


def test_unrelated_captions_are_marked(toybox):
    samples = [sample for split in SPLIT_NAMES for sample in load_flickr30k(toybox, split).samples]
    assert [
        (sample.id, k) for sample in samples for k, caption in enumerate(sample.captions) if not caption.related
    ] == [(samples[0].id, 4)]


def test_karpathy_json_gives_the_same_splits(tmp_path):
    (tmp_path / "dataset.json").write_text(
        json.dumps({"images": [{"filename": f"{k}.jpg", "split": split} for k, split in enumerate(SPLIT_NAMES)]})
    )
    assert read_karpathy_splits(tmp_path / "dataset.json").val == ("1",)
    (tmp_path / "dataset.json").write_text('{"images": [{"filename": "1.jpg"}]}')
    with pytest.raises(InputError, match="image 0"):
        read_karpathy_splits(tmp_path / "dataset.json")


# The official annotations


@pytest.mark.slow
def test_official_counts(shared_data):
    texts, trees = {}, {}
    for name, content in entities_files(shared_data / "flickr30k_entities"):
        kind, _, file = name.rpartition("/")
        (texts if kind.endswith("Sentences") else trees)[file.rpartition(".")[0]] = content
    assert len(texts) == len(trees) == 31_783
    # 275,775 is the number of boxes in the files; a box of several chains is one box
    assert sum(content.count(b"<bndbox>") for content in trees.values()) == 275_775
    mentions, chains = 0, Counter()
    for id, content in texts.items():
        for line in content.decode("utf8").splitlines():
            for phrase in parse_caption(line).phrases:
                mentions += 1
                chains[id, phrase.entity_id] += phrase.entity_id != "0"
    assert mentions == 559_767
    assert sum(1 for count in chains.values() if count) == 243_891


def test_karpathy_and_entities_splits_overlap_and_must_not_be_mixed(shared_data):
    karpathy, entities = read_splits(shared_data, "karpathy"), read_splits(shared_data, "entities")
    assert len(set(karpathy.test) & set(entities.test)) == 25
    assert len(set(karpathy.train) & set(entities.test)) == 903
    with pytest.raises(InputError, match="overlap: use the splits of one scheme"):
        assert_disjoint(karpathy.train, entities.test)
