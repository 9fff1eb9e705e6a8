"""MSCOCO 2014: images, captions, boxes, and Karpathy's split.

`python data_scripts/coco.py DATA [--only annotations] [--check]`.

Object proposals are not part of the data: the notebook aoa/proposals computes them, with the settings of its scale."""

import sys
from pathlib import Path

from cgsaliency.core.errors import InputError
from cgsaliency.data.coco import COCO_SPLITS, karpathy_splits, read_annotation_file
from fetching import DataSet, Source, count_problems, file_problems, main

BY_HAND = """Everything can be downloaded: 20 GB, and as much again while it is unpacked; `--only annotations` takes
0.3 GB. The files are
  DATA/coco/annotations/{captions,instances}_{train,val}2014.json, DATA/coco/train2014/, DATA/coco/val2014/
  and DATA/coco/dataset_coco.json"""
IMAGES = {"train2014": 82783, "val2014": 40504}


def check(folder: Path, images: dict = IMAGES):
    problems = []
    for year, size in images.items():
        for kind in ("captions", "instances"):
            path = folder / f"annotations/{kind}_{year}.json"
            try:
                listing = read_annotation_file(path)
            except InputError as error:
                problems.append(str(error))
                continue
            problems += count_problems(path, "images", len(listing.images), size)
            if kind == "captions":
                names = [image["file_name"] for image in listing.images.values()]
                problems += file_problems(folder / year, names, ".jpg")
    path = folder / "dataset_coco.json"
    try:
        splits = karpathy_splits(path)
        total = sum(len(getattr(splits, split)) for split in COCO_SPLITS)
        problems += count_problems(path, "images", total, sum(images.values()))
    except InputError as error:
        problems.append(str(error))
    return problems


COCO = DataSet(
    "MSCOCO",
    "coco",
    BY_HAND,
    check,
    (
        Source(
            "http://images.cocodataset.org/annotations/annotations_trainval2014.zip",
            "annotations_trainval2014.zip",
            "md5:0a379cfc70b0e71301e0f377548639bd",
            ".",
            "annotations",
        ),
        Source(
            "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
            "caption_datasets.zip",
            "",
            ".",
            "annotations",
        ),
        Source(
            "http://images.cocodataset.org/zips/train2014.zip",
            "train2014.zip",
            "md5:0da8c0bd3d6becc4dcb32757491aca88",
            ".",
            "images",
        ),
        Source(
            "http://images.cocodataset.org/zips/val2014.zip",
            "val2014.zip",
            "md5:a3d79f5ed8d289b7a7554ce06a5782b3",
            ".",
            "images",
        ),
    ),
)
if __name__ == "__main__":
    sys.exit(main(COCO))
