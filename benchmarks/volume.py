"""Measure time and memory of loading data of the official sizes: `python benchmarks/volume.py [--folder FOLDER]`.

The annotation files are written once by data_scripts/official_size.py, at half and at whole size. Each measurement
is a process of its own: CPU seconds, so that other work on the machine counts little, and the most memory that it took
beyond what was there before. Each is set beside a plain read of the same bytes: json.load, or read() of each file. The
exponent is log(time ratio) / log(ratio of items) from half to whole: 1 where twice the items take twice the time, 2
where something is quadratic.
"""

import argparse
import importlib
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "data_scripts"))

OUT = Path(__file__).parent / "results" / "volume.csv"
SIZES = {"half": 0.5, "whole": 1.0}
BOXES = 100  # proposals of an image
BATCH = 50  # images whose boxes are asked for at a time


# ---------------------------------------------------------------- what is measured


@dataclass(frozen=True)
class Work:
    "Something to measure: what has to be there before, the work, and the plain read that it is set beside."

    prepare: Callable[[Path], Any]  # of the folder; not measured
    run: Callable[[Path, Any], int]  # of the folder and what was prepared; gives the number of items
    plain: Callable[[Path], Any]  # reads the same bytes
    plainly: str  # how


def nothing(folder: Path) -> None:
    return None


def parse(*paths: Path) -> list[Any]:
    contents = []
    for path in paths:
        with path.open() as file:
            contents.append(json.load(file))
    return contents


def captions_files(folder: Path) -> list[Path]:
    return [folder / "coco/annotations" / f"captions_{part}2014.json" for part in ("train", "val")]


def instances_files(folder: Path) -> list[Path]:
    return [folder / "coco/annotations" / f"instances_{part}2014.json" for part in ("train", "val")]


def read_flickr30k(folder: Path) -> int:
    total = len((folder / "flickr30k/results_20130124.token").read_bytes())
    with zipfile.ZipFile(folder / "flickr30k_entities/annotations.zip") as archive:
        total += sum(len(archive.read(name)) for name in archive.namelist())
    return total


def load(kind: str, **choice: Any) -> Callable[[Path, Any], int]:
    def run(folder: Path, _: Any) -> int:
        return len(part_of(kind, folder, **choice).records)

    return run


def part_of(kind: str, folder: Path, **choice: Any) -> Any:
    from cgsaliency.data.coco import load_coco
    from cgsaliency.data.flickr30k import load_flickr30k
    from cgsaliency.data.msrvtt import load_msrvtt
    from cgsaliency.data.video_index import VideoIndex

    if kind == "coco":
        return load_coco(folder, "train", **choice)
    if kind == "flickr30k":
        return load_flickr30k(folder, "train", **choice)
    index = VideoIndex(folder / "video_index")
    return load_msrvtt(folder / "msrvtt", "train", index=index, **choice)


def split_flickr30k(folder: Path, _: Any) -> int:
    from cgsaliency.data.flickr30k import read_splits

    return sum(
        len(getattr(read_splits(folder, family), part))
        for family in ("karpathy", "entities")
        for part in ("train", "val", "test")
    )


def split_coco(folder: Path, _: Any) -> int:
    from cgsaliency.data.coco import karpathy_splits

    splits = karpathy_splits(folder / "coco/dataset_coco.json")
    return sum(len(getattr(splits, part)) for part in ("train", "val", "test"))


def coco_records(folder: Path) -> Any:
    return part_of("coco", folder).records


def count_words(folder: Path, records: Any) -> int:
    from cgsaliency.data.text import Vocabulary

    Vocabulary.of((sentence.tokens for record in records for sentence in record.sentences), min_count=5, unknown=True)
    return len(records)


def records_and_vocabulary(folder: Path) -> Any:
    from cgsaliency.data.text import Vocabulary

    records = coco_records(folder)
    return records, Vocabulary.of(
        (sentence.tokens for record in records for sentence in record.sentences), min_count=5, unknown=True
    )


def encode(folder: Path, prepared: Any) -> int:
    from cgsaliency.models.captioning import target_words

    records, vocabulary = prepared
    target_words(list(records), vocabulary)
    return len(records)


def image_records(folder: Path) -> list[Any]:
    "Records of as many images as MSCOCO has, without captions."
    from cgsaliency.core.records import Record

    share = json.loads((folder / "official_size.json").read_text())["share"]
    return [Record(str(number), folder / f"{number}.jpg", 640, 480) for number in range(round(123_287 * share))]


def drawn_proposals(folder: Path, records: list[Any]) -> Any:
    "Return a store whose files hold random boxes, as if they had been found; files that are there stay."
    import torch
    from cgsaliency.core.tensors import save_tensors
    from cgsaliency.data.proposals import ProposalStore

    store, draw = ProposalStore(folder, records, most=BOXES), torch.Generator().manual_seed(0)
    size = torch.tensor([records[0].width, records[0].height])
    for path, about, own in store.blocks:
        if path.exists():
            continue
        boxes = torch.rand(len(own), BOXES, 2, 2, generator=draw).sort(2).values * size
        scores = torch.rand(len(own), BOXES, generator=draw)
        counts = torch.full((len(own),), BOXES)
        save_tensors(path, {"boxes": boxes.flatten(2), "scores": scores, "counts": counts}, "proposals", about)
    return store


def proposal_records(folder: Path) -> list[Any]:
    "Records of all images, whose boxes have been written."
    records = image_records(folder)
    drawn_proposals(folder / "proposals", records)
    return records


def open_proposals(folder: Path, records: Any) -> int:
    from cgsaliency.data.proposals import ProposalStore

    ProposalStore(folder / "proposals", records, most=BOXES).find(progress=False)
    return len(records)


def opened_proposals(folder: Path) -> Any:
    from cgsaliency.data.proposals import ProposalStore

    records = proposal_records(folder)
    return records, ProposalStore(folder / "proposals", records, most=BOXES)


def batches_of_boxes(folder: Path, prepared: Any) -> int:
    "Ask for the boxes of 200 batches of images in random order, as a training does."
    from cgsaliency.core.geometry import View

    records, store = prepared
    draw, view = random.Random(0), View.whole(640, 480, 224)
    for _ in range(200):
        store.boxes_of(draw.sample(records, BATCH), [view] * BATCH, 50)
    return len(records)


def read_proposals(folder: Path) -> int:
    return sum(len(path.read_bytes()) for path in sorted((folder / "proposals").glob("*.safetensors")))


def read_some_proposals(folder: Path) -> int:
    "Read as many files as the 200 batches ask for images."
    paths, draw = sorted((folder / "proposals").glob("*.safetensors")), random.Random(0)
    size = 20 * BOXES
    total = 0
    for path in draw.choices(paths, k=200 * BATCH):
        with path.open("rb") as file:
            total += len(file.read(size))
    return total


def open_features(folder: Path, records: Any) -> int:
    from cgsaliency.models.features import FeatureStore

    store = FeatureStore(folder / "features", {"of": "volume"}, [record.id for record in records], (196, 512))
    assert len(store.missing()) == len(records)
    return len(records)


def ids_file(folder: Path) -> Path:
    path = folder / "ids.json"
    if not path.is_file():
        path.write_text(json.dumps([record.id for record in image_records(folder)]))
    return path


def with_ids(folder: Path) -> Any:
    ids_file(folder)
    return image_records(folder)


def msrvtt_files(folder: Path) -> list[Path]:
    return [folder / "msrvtt/train_val_videodatainfo.json", folder / "msrvtt/test_videodatainfo.json"]


COCO_FILES = "json.load of its files"
WORKS = {
    "load Flickr30k, training images": Work(nothing, load("flickr30k"), read_flickr30k, "read() of its files"),
    "load MSCOCO, training images and restval": Work(
        nothing,
        load("coco"),
        lambda folder: parse(*captions_files(folder), folder / "coco/dataset_coco.json"),
        COCO_FILES,
    ),
    "load MSCOCO, training images": Work(
        nothing,
        load("coco", restval=False),
        lambda folder: parse(*captions_files(folder), folder / "coco/dataset_coco.json"),
        COCO_FILES,
    ),
    "load MSCOCO, training images and restval, with instances": Work(
        nothing,
        load("coco", instances=True),
        lambda folder: parse(*captions_files(folder), *instances_files(folder), folder / "coco/dataset_coco.json"),
        COCO_FILES,
    ),
    "load MSR-VTT, training videos, from an index": Work(
        lambda folder: part_of("msrvtt", folder),
        load("msrvtt"),
        lambda folder: parse(*msrvtt_files(folder)),
        "json.load of its files",
    ),
    "splits of Flickr30k": Work(nothing, split_flickr30k, read_flickr30k, "read() of its files"),
    "splits of MSCOCO": Work(
        nothing, split_coco, lambda folder: parse(folder / "coco/dataset_coco.json"), "json.load of its file"
    ),
    "vocabulary of MSCOCO": Work(
        coco_records, count_words, lambda folder: parse(*captions_files(folder)), "json.load of the captions"
    ),
    "target words of MSCOCO": Work(
        records_and_vocabulary, encode, lambda folder: parse(*captions_files(folder)), "json.load of the captions"
    ),
    "proposals: open the files of all images": Work(
        proposal_records, open_proposals, read_proposals, "read() of the files"
    ),
    f"proposals: 200 batches of {BATCH} images": Work(
        opened_proposals, batches_of_boxes, read_some_proposals, f"read() of one image's bytes, {200 * BATCH} times"
    ),
    "feature store: open, with the ids of all images": Work(
        with_ids, open_features, lambda folder: parse(ids_file(folder)), "json.load of the ids"
    ),
}


# ---------------------------------------------------------------- measuring

MODULES = (  # imported before anything is measured
    "cgsaliency.data.coco",
    "cgsaliency.data.flickr30k",
    "cgsaliency.data.msrvtt",
    "cgsaliency.data.proposals",
    "cgsaliency.data.text",
    "cgsaliency.data.video_index",
    "cgsaliency.models.captioning",
    "cgsaliency.models.features",
)


def child(name: str, folder: Path, plain: bool) -> None:
    "Do one work, or its plain read, and print what it took."
    from memory import forget_highest, highest_memory

    work = WORKS[name]
    if not plain:
        for module in MODULES:
            importlib.import_module(module)
    prepared = None if plain else work.prepare(folder)
    forget_highest()
    before, start = highest_memory(), time.process_time()
    items = work.plain(folder) if plain else work.run(folder, prepared)
    print(
        json.dumps(
            {
                "seconds": time.process_time() - start,
                "bytes": highest_memory() - before,
                "items": items if isinstance(items, int) else 0,
            }
        )
    )


def measured(name: str, folder: Path, plain: bool, repeats: int) -> dict[str, float]:
    "Return the least seconds and the most memory of some processes."
    command = [
        sys.executable,
        str(Path(__file__)),
        "--child",
        name,
        "--folder",
        str(folder),
        *(["--plain"] if plain else []),
    ]
    rows = [
        json.loads(
            subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
            ).stdout.splitlines()[-1]
        )
        for _ in range(repeats)
    ]
    return {
        "seconds": min(row["seconds"] for row in rows),
        "bytes": max(row["bytes"] for row in rows),
        "items": rows[0]["items"],
    }


def rows_of(name: str, folder: Path, repeats: int) -> Iterator[tuple[str, float, str, str]]:
    "Measure one work at both sizes."
    by_size = {}
    for size in SIZES:
        own, plain = (measured(name, folder / size, which, repeats) for which in (False, True))
        by_size[size] = own
        label = f"{name}: {size}"
        yield label, int(own["items"]), "items", ""
        yield label, float(own["seconds"]), "CPU s", ""
        yield label, float(own["seconds"] / max(plain["seconds"], 1e-4)), "times", WORKS[name].plainly
        yield f"{label}, memory", float(own["bytes"] / 2**20), "MiB", ""
        yield f"{label}, memory", float(own["bytes"] / max(plain["bytes"], 2**20)), "times", WORKS[name].plainly
    half, whole = by_size["half"], by_size["whole"]
    yield (
        f"{name}: exponent",
        math.log(whole["seconds"] / half["seconds"]) / math.log(whole["items"] / half["items"]),
        "",
        "time over items, half to whole",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, help="where the files are kept for another time, 2 GB; by default they go afterwards"
    )
    parser.add_argument("--only", help="measure works whose names contain this")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.folder, given.plain)
        return
    import torch
    from measure import machine, write_rows
    from official_size import write_all

    with tempfile.TemporaryDirectory() as made:
        folder = given.folder or Path(made)
        for size, share in SIZES.items():
            write_all(folder / size, share=share)
        for name in WORKS:
            if given.only is None or given.only in name:
                write_rows(
                    given.out, machine(torch.device("cpu")), rows_of(name, folder, given.repeats), prefix=name + ":"
                )


if __name__ == "__main__":
    main()
