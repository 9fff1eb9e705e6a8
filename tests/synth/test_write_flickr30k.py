"""Synthetic images in the layout of Flickr30k: the seed alone decides the files."""

import hashlib

from assertions import file_digests
from cgsaliency.core.records import SPLIT_NAMES
from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.evaluate.pointing_game import PHRASE_CATEGORIES, pointing_items
from cgsaliency.synth.write_flickr30k import write_flickr30k


def test_the_seed_decides_the_files(toybox, tmp_path):
    again = write_flickr30k(tmp_path / "again", train=8, val=2, test=2, seed=7)
    assert file_digests(again) == file_digests(toybox)
    other = write_flickr30k(tmp_path / "other", train=8, val=2, test=2, seed=8)
    same = [
        name
        for name, digest in file_digests(other).items()
        if file_digests(toybox).get(name) == digest and name.endswith((".jpg", ".xml"))
    ]
    assert same == []


def test_texts_do_not_change_between_releases(toybox):
    """A change of what is drawn must raise VERSION of write_flickr30k, and change this digest. Texts only: JPEG
    libraries differ."""
    text_digests = {
        name: digest for name, digest in file_digests(toybox).items() if name.endswith((".xml", ".txt", ".token"))
    }
    assert (
        hashlib.sha256(repr(sorted(text_digests.items())).encode()).hexdigest()
        == "02f0fd4418fe51e0eeae97d3a9df09503d61db4a44149fee837c59302ebcb752"
    )


def test_more_images_do_not_change_the_others(toybox, tmp_path):
    more_digests = file_digests(write_flickr30k(tmp_path / "more", train=12, val=2, test=2, seed=7))
    digests = {
        name: digest
        for name, digest in file_digests(toybox).items()
        if name.endswith((".jpg", ".xml")) or "/Sentences/" in name
    }
    assert digests and all(more_digests[name] == digest for name, digest in digests.items())


def test_every_kind_of_phrase_occurs(tmp_path):
    root = write_flickr30k(tmp_path / "toybox", train=150, val=1, test=1)
    samples = load_flickr30k(root, "train").samples
    phrases = [phrase for sample in samples for _, phrase in sample.phrase_mentions]
    assert {name for phrase in phrases for name in phrase.categories} >= {*PHRASE_CATEGORIES, "notvisual"}
    assert any(phrase.unboxed for phrase in phrases) and any(phrase.scene for phrase in phrases)
    assert any(len(phrase.boxes) > 1 for phrase in phrases) and any(len(phrase.categories) > 1 for phrase in phrases)
    assert all(list(pointing_items(sample)) for sample in samples)


def test_splits_share_no_image(toybox):
    ids = [sample.id for split in SPLIT_NAMES for sample in load_flickr30k(toybox, split).samples]
    assert len(ids) == len(set(ids)) == 12
