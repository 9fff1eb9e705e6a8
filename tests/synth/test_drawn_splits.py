"""A split that is drawn alone has the same files as when all splits are drawn."""

from pathlib import Path

import pytest

from cgsaliency.core.errors import InputError
from cgsaliency.data.coco import load_coco
from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.data.msrvtt import load_msrvtt
from cgsaliency.data.msvd import load_msvd
from cgsaliency.data.thumos14 import load_thumos14
from cgsaliency.data.ucf101 import load_ucf101
from cgsaliency.synth.write_coco import write_coco
from cgsaliency.synth.write_flickr30k import write_flickr30k
from cgsaliency.synth.write_msvd_msrvtt import write_msrvtt, write_msvd
from cgsaliency.synth.write_ucf101_thumos14 import write_thumos14, write_ucf101

SIZES = {"train": 8, "val": 2, "test": 3}
WRITERS = {
    "flickr30k": (write_flickr30k, SIZES, load_flickr30k),
    "coco": (write_coco, SIZES, load_coco),
    "msvd": (write_msvd, {"train": 2, "val": 1, "test": 1}, load_msvd),
    "msrvtt": (write_msrvtt, {"train": 2, "val": 1, "test": 1}, load_msrvtt),
    "ucf101": (write_ucf101, {"train_groups": 4, "test_groups": 1, "clips": 1}, load_ucf101),
    "thumos14": (write_thumos14, {"val": 1, "test": 1}, load_thumos14),
}
MEDIA = {".jpg", ".avi", ".mp4", ".xgtf", ".xml"}


def media(root: Path) -> dict[str, bytes]:
    "Return the content of each image, video and annotation of one sample."
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.*") if path.suffix in MEDIA}


def contents(samples, root: Path) -> list[tuple]:
    "Return what the loader reads of each sample."
    return [
        (sample.id, sample.path.relative_to(root).as_posix(), sample.width, sample.captions, sample.actions)
        for sample in samples
    ]


@pytest.mark.parametrize("name", WRITERS)
def test_splits_that_are_drawn_apart_are_those_of_all(name, tmp_path):
    write, sizes, load = WRITERS[name]
    training = ("val",) if name == "thumos14" else ("train",)
    others = ("test",) if name == "thumos14" else ("val", "test")
    write(tmp_path / "all", **sizes)
    write(tmp_path / "training", **sizes, splits=training)
    write(tmp_path / "others", **sizes, splits=others)
    all_media, training_media, other_media = (media(tmp_path / part) for part in ("all", "training", "others"))
    assert training_media and other_media and not training_media.keys() & other_media.keys()
    assert training_media | other_media == all_media
    for part, splits in (("training", training), ("others", others)):
        for split in splits:
            samples, expected = (load(tmp_path / folder, split).samples for folder in (part, "all"))
            assert contents(samples, tmp_path / part) == contents(expected, tmp_path / "all")
    write(tmp_path / "all", **sizes, splits=training)  # already there
    with pytest.raises(InputError, match="toybox.json"):
        write(tmp_path / "training", **sizes)


@pytest.mark.parametrize("name", WRITERS)
def test_unknown_splits_are_rejected(name, tmp_path):
    write, sizes, _ = WRITERS[name]
    with pytest.raises(InputError, match="there is no split 'testing'"):
        write(tmp_path / "data", **sizes, splits=("testing",))
    assert not (tmp_path / "data").exists()
