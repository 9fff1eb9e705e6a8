"""What the toybox draws is decided by its seed alone."""
import hashlib
from pathlib import Path

from cgsaliency.core.records import PARTS
from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.data.toybox import make_flickr30k
from cgsaliency.evaluate.pointing import CATEGORIES, questions_of


def bytes_of(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_same_bytes_again_and_others_with_another_seed(toybox, tmp_path):
    again = make_flickr30k(tmp_path / "again", train=8, val=2, test=2, seed=7)
    assert bytes_of(again) == bytes_of(toybox)
    other = make_flickr30k(tmp_path / "other", train=8, val=2, test=2, seed=8)
    same = [name for name, digest in bytes_of(other).items() if bytes_of(toybox).get(name) == digest and name.endswith((".jpg", ".xml"))]
    assert same == []


def test_the_bytes_do_not_change_between_releases(toybox):
    "A change of what is drawn has to raise toybox.VERSION, and this digest with it. Text only: a JPEG library may encode otherwise."
    known = {name: digest for name, digest in bytes_of(toybox).items() if name.endswith((".xml", ".txt", ".token"))}
    assert hashlib.sha256(repr(sorted(known.items())).encode()).hexdigest() == "c5c61d0bd8ac5219a6165ff9ef0c3c099755138ebcc097037d64feda1cf62f9e"


def test_more_pictures_leave_the_first_as_they_are(toybox, tmp_path):
    more = bytes_of(make_flickr30k(tmp_path / "more", train=12, val=2, test=2, seed=7))
    drawn = {name: digest for name, digest in bytes_of(toybox).items() if name.endswith((".jpg", ".xml")) or "/Sentences/" in name}
    assert drawn and all(more[name] == digest for name, digest in drawn.items())


def test_every_kind_of_phrase_occurs(tmp_path):
    root = make_flickr30k(tmp_path / "toybox", train=150, val=1, test=1)
    records = load_flickr30k(root, "train").records
    phrases = [phrase for record in records for _, phrase in record.phrase_mentions]
    assert {name for phrase in phrases for name in phrase.categories} >= {*CATEGORIES, "notvisual"}
    assert any(phrase.no_box for phrase in phrases) and any(phrase.scene for phrase in phrases)
    assert any(len(phrase.boxes) > 1 for phrase in phrases) and any(len(phrase.categories) > 1 for phrase in phrases)
    assert all(list(questions_of(record)) for record in records)


def test_parts_share_no_picture(toybox):
    ids = [record.id for part in PARTS for record in load_flickr30k(toybox, part).records]
    assert len(ids) == len(set(ids)) == 12
