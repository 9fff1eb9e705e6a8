"""Flickr30k: 31,783 photographs with five sentences each. `python data_scripts/flickr30k.py DATA [--check]`."""
import sys
from pathlib import Path

from cgsaliency.data.flickr30k import read_captions
from fetching import DataSet, compared, counted, main, read_by

BY_HAND = """Photographs and sentences are given to researchers who ask: fill in the form at
https://shannon.cs.illinois.edu/DenotationGraph/ ; then put
  flickr30k-images.tar.gz, unpacked, into   DATA/flickr30k/flickr30k-images/<id>.jpg
  results_20130124.token            into   DATA/flickr30k/
The splits come with Flickr30k Entities (data_scripts/flickr30k_entities.py)."""
PICTURES = 31783


def check(folder: Path, pictures: int = PICTURES):
    token = folder / "results_20130124.token"
    try: captions = read_captions(token)
    except Exception: return [*read_by(lambda: read_captions(token)), *counted(folder / "flickr30k-images", "pictures", len(list((folder / "flickr30k-images").glob("*.jpg"))), pictures)]
    return [*counted(token, "pictures with sentences", len(captions), pictures), *(f"{token}: {id} has {len(own)} sentences; each has 5" for id, own in captions.items() if len(own) != 5),
            *compared(folder / "flickr30k-images", [f"{id}.jpg" for id in captions], ".jpg")]


FLICKR30K = DataSet("Flickr30k", "flickr30k", BY_HAND, check)
if __name__ == "__main__": sys.exit(main(FLICKR30K))
