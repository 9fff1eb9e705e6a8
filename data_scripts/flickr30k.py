"""Flickr30k: 31,783 photographs with five captions each. `python data_scripts/flickr30k.py DATA [--check]`."""

import sys
from pathlib import Path

from cgsaliency.data.flickr30k import read_captions
from fetching import DataSet, count_problems, file_problems, loader_problems, main

BY_HAND = """Photographs and captions are available to researchers on request: fill in the form at
https://shannon.cs.illinois.edu/DenotationGraph/ ; then put
  flickr30k-images.tar.gz, unpacked, into   DATA/flickr30k/flickr30k-images/<id>.jpg
  results_20130124.token            into   DATA/flickr30k/
The splits are part of Flickr30k Entities (data_scripts/flickr30k_entities.py)."""
NUM_IMAGES = 31783


def check(folder: Path, num_images: int = NUM_IMAGES):
    token, images = folder / "results_20130124.token", folder / "flickr30k-images"
    try:
        captions = read_captions(token)
    except Exception:
        count = len(list(images.glob("*.jpg")))
        return [
            *loader_problems(lambda: read_captions(token)),
            *count_problems(images, "images", count, num_images),
        ]
    return [
        *count_problems(token, "images with captions", len(captions), num_images),
        *(f"{token}: {id} has {len(texts)} captions; each has 5" for id, texts in captions.items() if len(texts) != 5),
        *file_problems(images, [f"{id}.jpg" for id in captions], ".jpg"),
    ]


FLICKR30K = DataSet("Flickr30k", "flickr30k", BY_HAND, check)
if __name__ == "__main__":
    sys.exit(main(FLICKR30K))
