"""The Flickr30k loader on broken files, one fault at a time, and on the official annotations where they are."""
import json, shutil
from collections import Counter
from pathlib import Path

import pytest
from faults import refused

from cgsaliency.core.errors import BadInput
from cgsaliency.core.records import PARTS
from cgsaliency.data.flickr30k import entities_files, load_flickr30k, parse_annotation, parse_sentence, read_splits, refuse_seen, splits_of_json
from cgsaliency.data.frames import read_picture
from cgsaliency.models.backbone import Backbone
from cgsaliency.models.descriptors import Describer


@pytest.fixture
def copy(toybox, tmp_path) -> Path:
    return Path(shutil.copytree(toybox, tmp_path / "data"))


def first(root: Path, kind: str) -> Path:
    id = read_splits(root).train[0]
    return {"picture": root / f"flickr30k/flickr30k-images/{id}.jpg", "sentences": root / f"flickr30k_entities/Sentences/{id}.txt",
            "xml": root / f"flickr30k_entities/Annotations/{id}.xml", "captions": root / "flickr30k/results_20130124.token"}[kind]


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


def some_chain(root: Path) -> str:
    "A chain of the first picture that has a box."
    sentence = parse_sentence(first(root, "sentences").read_text().splitlines()[0])
    known = parse_annotation(first(root, "xml").read_bytes())
    return next(phrase.chain for phrase in sentence.phrases if phrase.chain in known.boxes)


FAULTS = {
    "a missing picture": ("picture", lambda path, root: path.unlink(), "there is no such picture"),
    "XML without a size": ("xml", lambda path, root: edit(path, "<width>", "<breadth>") or edit(path, "</width>", "</breadth>"), "size/width"),
    "XML that is cut off": ("xml", lambda path, root: path.write_bytes(path.read_bytes()[:200]), "not whole XML"),
    "missing XML": ("xml", lambda path, root: path.unlink(), "is not there"),
    "empty XML": ("xml", lambda path, root: path.write_bytes(b""), "not whole XML"),
    "an unclosed bracket": ("sentences", lambda path, root: path.write_text(path.read_text().replace("]", "", 1) if path.read_text().splitlines()[0].count("]") == 1 else path.read_text().splitlines()[0].replace("]", "") + "\n"), "inside another"),
    "a bracket open at the end": ("sentences", lambda path, root: path.write_text("The end of [/EN#7/people a man\n"), "never closed"),
    "an entity without annotation": ("xml", lambda path, root: path.write_text(path.read_text().replace(f"<name>{some_chain(root)}</name>", "<name>999999</name>")), "has no annotation"),
    "boxes outside the picture": ("xml", lambda path, root: edit(path, "<xmax>", "<xmax>9"), "leaves the picture"),
    "sentences that are not the captions": ("sentences", lambda path, root: path.write_text("Other words .\n" * 5), "its words are not those"),
    "sentences that are not text": ("sentences", lambda path, root: path.write_bytes(b"\xff\xfe\x00"), "not UTF-8"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_file_is_named_or_left_out_and_listed(copy, fault):
    kind, damage, says = FAULTS[fault]
    file = first(copy, kind)
    whole = load_flickr30k(copy, "train")
    damage(file, copy)
    refused(lambda: load_flickr30k(copy, "train"), says, file.name)
    rest = load_flickr30k(copy, "train", broken="skip")
    assert rest.records == whole.records[1:]
    assert [id for id, _ in rest.skipped] == [whole.records[0].id] and says in rest.skipped[0][1]
    assert "1 of 8 train records left out" in rest.footnote and file.name in rest.footnote


def test_captions_that_are_cut_off_are_refused(copy):
    first(copy, "captions").write_text("100000001.jpg#0\tA dog .\n100000001.jp")
    with pytest.raises(BadInput, match="line 2"): load_flickr30k(copy)
    first(copy, "captions").unlink()
    with pytest.raises(BadInput, match="is not there"): load_flickr30k(copy)


def test_a_truncated_jpeg_is_named_and_no_feature_is_written(copy, tmp_path):
    file = first(copy, "picture")
    file.write_bytes(file.read_bytes()[:600])
    with pytest.raises(BadInput, match=f"{file.name}.*cannot be decoded whole"): read_picture(file)
    records = load_flickr30k(copy, "train").records
    with pytest.raises(BadInput, match=file.name): Describer(Backbone("toynet")).store(tmp_path / "features", records, progress=False)
    assert not list((tmp_path / "features").rglob("*.safetensors"))


def test_annotations_can_be_read_without_pictures_and_captions(copy):
    whole = load_flickr30k(copy, "train")
    shutil.rmtree(copy / "flickr30k")
    assert load_flickr30k(copy, "train", annotations_only=True).records == whole.records
    with pytest.raises(BadInput): load_flickr30k(copy, "train")


def test_splits_that_overlap_or_miss_are_refused(copy):
    lists = copy / "flickr30k_entities/karpathy"
    train, test = lists / "imgs_train.txt", lists / "imgs_test.txt"
    before = test.read_text()
    test.write_text(before + train.read_text().splitlines()[0] + "\n")
    with pytest.raises(BadInput, match="1 pictures are in both"): read_splits(copy)
    test.write_text("\n")
    with pytest.raises(BadInput, match="names no picture"): read_splits(copy)
    test.unlink()
    with pytest.raises(BadInput, match="is not there"): read_splits(copy)


def test_an_unrelated_caption_is_marked(toybox):
    records = [record for part in PARTS for record in load_flickr30k(toybox, part).records]
    assert [(record.id, k) for record in records for k, sentence in enumerate(record.sentences) if not sentence.related] == [(records[0].id, 4)]


def test_karpathys_json_gives_the_same_splits(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps({"images": [{"filename": f"{k}.jpg", "split": part} for k, part in enumerate(PARTS)]}))
    assert splits_of_json(tmp_path / "dataset.json").val == ("1",)
    (tmp_path / "dataset.json").write_text('{"images": [{"filename": "1.jpg"}]}')
    with pytest.raises(BadInput, match="image 0"): splits_of_json(tmp_path / "dataset.json")


# The official annotations

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
            for phrase in parse_sentence(line).phrases:
                mentions += 1
                chains[id, phrase.chain] += phrase.chain != "0"
    assert mentions == 559_767
    assert sum(1 for count in chains.values() if count) == 243_891


def test_karpathys_and_the_entities_splits_overlap_and_mixing_is_refused(shared_data):
    karpathy, entities = read_splits(shared_data, "karpathy"), read_splits(shared_data, "entities")
    assert len(set(karpathy.test) & set(entities.test)) == 25
    assert len(set(karpathy.train) & set(entities.test)) == 903
    with pytest.raises(BadInput, match="overlap: take all parts from one family"): refuse_seen(karpathy.train, entities.test)
