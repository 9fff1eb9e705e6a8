"""Flickr30k Entities: phrases and boxes of Flickr30k, and its splits.

`python data_scripts/flickr30k_entities.py DATA [--check] [--prepare]`."""

import sys
from pathlib import Path

from cgsaliency.core.errors import InputError
from cgsaliency.core.io import atomic_write, numbered_lines
from cgsaliency.core.records import SPLIT_NAMES
from cgsaliency.data.flickr30k import entities_files, read_karpathy_splits, read_unrelated_captions
from fetching import DataSet, Source, count_problems, loader_problems, main

BASE_URL = "https://raw.githubusercontent.com/BryanPlummer/flickr30k_entities/master"
BY_HAND = """Everything can be downloaded. For Karpathy's split, which cgvs and Liu et al. use, put
dataset_flickr30k.json of https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip
(data_scripts/coco.py downloads it) into
  DATA/flickr30k_entities/karpathy/
and run this with --prepare."""
SIZES = {"train": 29783, "val": 1000, "test": 1000}


def check(folder: Path, sizes: dict = SIZES):
    problems, listed = [], {}
    for split, size in sizes.items():
        path = folder / f"{split}.txt"
        try:
            listed[split] = [line for _, line in numbered_lines(path, "Run this script without --check")]
        except InputError as error:
            problems.append(str(error))
            continue
        problems += count_problems(path, "images", len(listed[split]), size)
    problems += (
        loader_problems(lambda: read_unrelated_captions(folder / "UNRELATED_CAPTIONS"))
        if (folder / "UNRELATED_CAPTIONS").is_file()
        else [f"{folder / 'UNRELATED_CAPTIONS'}: missing"]
    )
    try:
        files = {name for name, _ in entities_files(folder)}
    except InputError as error:
        return [*problems, str(error)]
    if listed.keys() != sizes.keys():
        return problems
    expected = {id for ids in listed.values() for id in ids}
    for kind, suffix in (("Annotations", "xml"), ("Sentences", "txt")):
        existing = {Path(name).stem for name in files if name.startswith(f"{kind}/") and name.endswith(f".{suffix}")}
        problems += [f"{folder}, {kind}/{id}.{suffix}: missing" for id in sorted(expected - existing)]
        problems += [f"{folder}, {kind}/{id}.{suffix}: not of the data set" for id in sorted(existing - expected)]
    return problems


def prepare(data: Path) -> None:
    "Write Karpathy's split as lists of images."
    path = data / "flickr30k_entities/karpathy/dataset_flickr30k.json"
    if not path.is_file():
        raise InputError(path, "is not there", "Put Karpathy's file there; see --help")
    splits = read_karpathy_splits(path)
    for split in SPLIT_NAMES:
        ids, target = getattr(splits, split), path.parent / f"imgs_{split}.txt"
        with atomic_write(target) as part:
            part.write_text("".join(f"{id}.jpg\n" for id in ids))
        print(f"{target}: {len(ids)} images")


FLICKR30K_ENTITIES = DataSet(
    "Flickr30k Entities",
    "flickr30k_entities",
    BY_HAND,
    check,
    (
        Source(f"{BASE_URL}/annotations.zip", "annotations.zip"),
        *(Source(f"{BASE_URL}/{name}", name) for name in ("train.txt", "val.txt", "test.txt", "UNRELATED_CAPTIONS")),
    ),
    prepare,
    "Karpathy's split as lists",
)
if __name__ == "__main__":
    sys.exit(main(FLICKR30K_ENTITIES))
