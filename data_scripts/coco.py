"""MSCOCO 2014: pictures, captions, boxes, and Karpathy's split. `python data_scripts/coco.py DATA [--only annotations] [--check]`.

Object proposals are no part of the data: the reproduction finds them (notebook aoa/proposals), with the settings of its scale.
"""
import sys
from pathlib import Path

from cgsaliency.core.errors import BadInput
from cgsaliency.data.coco import karpathy_splits, read_listing
from fetching import DataSet, Source, compared, counted, main

BY_HAND = """Nothing has to be asked for. All of it takes 20 GB, and as much again while it is unpacked; `--only annotations` takes 0.3 GB. It goes into
  DATA/coco/annotations/{captions,instances}_{train,val}2014.json, DATA/coco/train2014/, DATA/coco/val2014/ and DATA/coco/dataset_coco.json"""
PICTURES = {"train2014": 82783, "val2014": 40504}


def check(folder: Path, pictures: dict = PICTURES):
    problems = []
    for year, size in pictures.items():
        for kind in ("captions", "instances"):
            path = folder / f"annotations/{kind}_{year}.json"
            try: listing = read_listing(path)
            except BadInput as error: problems.append(str(error)); continue
            problems += counted(path, "pictures", len(listing.images), size)
            if kind == "captions": problems += compared(folder / year, [image["file_name"] for image in listing.images.values()], ".jpg")
    try: problems += counted(folder / "dataset_coco.json", "pictures", sum(len(getattr(karpathy_splits(folder / "dataset_coco.json"), part)) for part in ("train", "val", "test")), sum(pictures.values()))
    except BadInput as error: problems.append(str(error))
    return problems


COCO = DataSet("MSCOCO", "coco", BY_HAND, check, (
    Source("http://images.cocodataset.org/annotations/annotations_trainval2014.zip", "annotations_trainval2014.zip", "md5:0a379cfc70b0e71301e0f377548639bd", ".", "annotations"),
    Source("https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip", "caption_datasets.zip", "", ".", "annotations"),
    Source("http://images.cocodataset.org/zips/train2014.zip", "train2014.zip", "md5:0da8c0bd3d6becc4dcb32757491aca88", ".", "pictures"),
    Source("http://images.cocodataset.org/zips/val2014.zip", "val2014.zip", "md5:a3d79f5ed8d289b7a7554ce06a5782b3", ".", "pictures")))
if __name__ == "__main__": sys.exit(main(COCO))
