"""Flickr30k Entities: phrases and boxes of Flickr30k, and its splits. `python data_scripts/flickr30k_entities.py DATA [--check] [--prepare]`."""
import json, sys
from pathlib import Path

from cgsaliency.core.artefacts import read_lines, written_whole
from cgsaliency.core.errors import BadInput
from cgsaliency.core.records import PARTS
from cgsaliency.data.flickr30k import entities_files, read_unrelated, splits_of_json
from fetching import DataSet, Source, counted, main, read_by

PLACE = "https://raw.githubusercontent.com/BryanPlummer/flickr30k_entities/master"
BY_HAND = """Nothing has to be asked for. Whoever also wants Karpathy's split, which cgvs and Liu et al. use, puts dataset_flickr30k.json of
https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip (data_scripts/coco.py fetches it) into
  DATA/flickr30k_entities/karpathy/
and calls this with --prepare."""
SIZES = {"train": 29783, "val": 1000, "test": 1000}


def check(folder: Path, sizes: dict = SIZES):
    problems, listed = [], {}
    for part, size in sizes.items():
        path = folder / f"{part}.txt"
        try: listed[part] = [line for _, line in read_lines(path, "Run this script without --check")]
        except BadInput as error: problems.append(str(error)); continue
        problems += counted(path, "pictures", len(listed[part]), size)
    problems += read_by(lambda: read_unrelated(folder / "UNRELATED_CAPTIONS")) if (folder / "UNRELATED_CAPTIONS").is_file() else [f"{folder / 'UNRELATED_CAPTIONS'}: missing"]
    try: there = {name for name, _ in entities_files(folder)}
    except BadInput as error: return [*problems, str(error)]
    every = {id for ids in listed.values() for id in ids}
    for kind, ending in (("Annotations", "xml"), ("Sentences", "txt")):
        own = {Path(name).stem for name in there if name.startswith(f"{kind}/") and name.endswith(f".{ending}")}
        if listed.keys() == sizes.keys(): problems += [f"{folder}, {kind}/{id}.{ending}: missing" for id in sorted(every - own)] + [f"{folder}, {kind}/{id}.{ending}: not of the data set" for id in sorted(own - every)]
    return problems


def prepare(data: Path) -> None:
    path = data / "flickr30k_entities/karpathy/dataset_flickr30k.json"
    if not path.is_file(): raise BadInput(path, "is not there", "Put Karpathy's file there, see --help")
    splits = splits_of_json(path)
    for part in PARTS:
        ids = getattr(splits, part)
        with written_whole(path.parent / f"imgs_{part}.txt") as file: file.write_text("".join(f"{id}.jpg\n" for id in ids))
        print(f"{path.parent / f'imgs_{part}.txt'}: {len(ids)} pictures")


FLICKR30K_ENTITIES = DataSet("Flickr30k Entities", "flickr30k_entities", BY_HAND, check, (
    Source(f"{PLACE}/annotations.zip", "annotations.zip"),
    *(Source(f"{PLACE}/{name}", name) for name in ("train.txt", "val.txt", "test.txt", "UNRELATED_CAPTIONS"))), prepare, "Karpathy's split as lists")
if __name__ == "__main__": sys.exit(main(FLICKR30K_ENTITIES))
