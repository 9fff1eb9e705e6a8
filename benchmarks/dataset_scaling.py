"""Measure time and memory of loading data of the official sizes.

`python benchmarks/dataset_scaling.py [--folder FOLDER]`

data_scripts/official_size.py writes the annotation files, at half size and at the official size ('whole'). Each
measurement runs in a new process. It records CPU seconds, which depend little on other processes, and the increase of
the peak memory, and is reported relative to a plain read of the same bytes: json.load, or read() of each file. The
exponent is log(time ratio) / log(ratio of items) from half to whole: 1 for linear growth, 2 for quadratic growth.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "data_scripts"))

OUT = Path(__file__).parent / "results" / "dataset_scaling.csv"
SIZES = {"half": 0.5, "whole": 1.0}
BOXES = 100  # proposals of an image
BATCH = 50  # images of a request for boxes


# ---------------------------------------------------------------- tasks


@dataclass(frozen=True)
class Task:
    "A task to measure: its preparation, the call, and the plain read relative to which it is reported."

    prepare: Callable[[Path], Any]  # takes the folder; not measured
    run: Callable[[Path, Any], int]  # takes the folder and the result of `prepare`; returns the number of items
    plain_read: Callable[[Path], Any]  # reads the same bytes
    plain_description: str  # of the plain read


def no_preparation(folder: Path) -> None:
    "Return None."
    return None


def parse(*paths: Path) -> list[Any]:
    "Parse JSON files."
    contents = []
    for path in paths:
        with path.open() as file:
            contents.append(json.load(file))
    return contents


def captions_files(folder: Path) -> list[Path]:
    "Return the paths of MSCOCO's captions."
    return [folder / "coco/annotations" / f"captions_{part}2014.json" for part in ("train", "val")]


def instances_files(folder: Path) -> list[Path]:
    "Return the paths of MSCOCO's instances."
    return [folder / "coco/annotations" / f"instances_{part}2014.json" for part in ("train", "val")]


def read_flickr30k(folder: Path) -> int:
    "Read the bytes of Flickr30k's files; return their number."
    total = len((folder / "flickr30k/results_20130124.token").read_bytes())
    with zipfile.ZipFile(folder / "flickr30k_entities/annotations.zip") as archive:
        total += sum(len(archive.read(name)) for name in archive.namelist())
    return total


def load(kind: str, **options: Any) -> Callable[[Path, Any], int]:
    "Return a function that loads the training part of a data set and returns its size."

    def run(folder: Path, _: Any) -> int:
        return len(training_part(kind, folder, **options).samples)

    return run


def training_part(kind: str, folder: Path, **options: Any) -> Any:
    "Load the training part of a data set."
    from cgsaliency.data.coco import load_coco
    from cgsaliency.data.flickr30k import load_flickr30k
    from cgsaliency.data.msrvtt import load_msrvtt
    from cgsaliency.data.video_index import VideoIndex

    if kind == "coco":
        return load_coco(folder, "train", **options)
    if kind == "flickr30k":
        return load_flickr30k(folder, "train", **options)
    index = VideoIndex(folder / "video_index")
    return load_msrvtt(folder / "msrvtt", "train", index=index, **options)


def split_flickr30k(folder: Path, _: Any) -> int:
    "Read the splits of Flickr30k; return the number of images in them."
    from cgsaliency.data.flickr30k import read_splits

    return sum(
        len(getattr(read_splits(folder, family), part))
        for family in ("karpathy", "entities")
        for part in ("train", "val", "test")
    )


def split_coco(folder: Path, _: Any) -> int:
    "Read the splits of MSCOCO; return the number of images in them."
    from cgsaliency.data.coco import karpathy_splits

    splits = karpathy_splits(folder / "coco/dataset_coco.json", restval=True)
    return sum(len(getattr(splits, part)) for part in ("train", "val", "test"))


def coco_records(folder: Path) -> Any:
    "Return the records of MSCOCO's training images and of restval."
    return training_part("coco", folder, restval=True).samples


def build_vocabulary(samples: Any) -> Any:
    "Return the vocabulary of the samples' captions."
    from cgsaliency.data.vocabulary import Vocabulary

    captions = (caption.tokens for sample in samples for caption in sample.captions)
    return Vocabulary.from_captions(captions, min_count=5, use_unk=True)


def count_words(folder: Path, samples: Any) -> int:
    "Build the vocabulary; return the number of samples."
    build_vocabulary(samples)
    return len(samples)


def records_and_vocabulary(folder: Path) -> Any:
    "Return the records of MSCOCO's training images and their vocabulary."
    samples = coco_records(folder)
    return samples, build_vocabulary(samples)


def encode(folder: Path, prepared: Any) -> int:
    "Encode all captions as token ids; return the number of samples."
    from cgsaliency.train.captioner import encode_captions

    samples, vocabulary = prepared
    encode_captions(list(samples), vocabulary)
    return len(samples)


def image_records(folder: Path) -> list[Any]:
    "Return records of as many images as MSCOCO has, without captions."
    from cgsaliency.core.records import Sample

    share = json.loads((folder / "official_size.json").read_text())["share"]
    return [Sample(str(number), folder / f"{number}.jpg", 640, 480) for number in range(round(123_287 * share))]


def drawn_proposals(folder: Path, samples: list[Any]) -> Any:
    "Return a cache whose files hold random boxes; existing files are not changed."
    import torch

    from cgsaliency.core.tensors import save_tensors
    from cgsaliency.features.proposals import ProposalCache

    cache, rng = ProposalCache(folder, samples, max_proposals=BOXES), torch.Generator().manual_seed(0)
    size = torch.tensor([samples[0].width, samples[0].height])
    for path, metadata, chunk_samples in cache.chunks:
        if path.exists():
            continue
        boxes = torch.rand(len(chunk_samples), BOXES, 2, 2, generator=rng).sort(2).values * size
        scores = torch.rand(len(chunk_samples), BOXES, generator=rng)
        counts = torch.full((len(chunk_samples),), BOXES)
        save_tensors(path, {"boxes": boxes.flatten(2), "scores": scores, "counts": counts}, "proposals", metadata)
    return cache


def proposal_records(folder: Path) -> list[Any]:
    "Write random boxes of all images; return the images' records."
    samples = image_records(folder)
    drawn_proposals(folder / "proposals", samples)
    return samples


def open_proposals(folder: Path, samples: Any) -> int:
    "Open the files of all images; return the number of images."
    from cgsaliency.features.proposals import ProposalCache

    ProposalCache(folder / "proposals", samples, max_proposals=BOXES).find(progress=False)
    return len(samples)


def opened_proposals(folder: Path) -> Any:
    "Return the records of all images and the cache of their boxes."
    from cgsaliency.features.proposals import ProposalCache

    samples = proposal_records(folder)
    return samples, ProposalCache(folder / "proposals", samples, max_proposals=BOXES)


def batches_of_boxes(folder: Path, prepared: Any) -> int:
    "Read the boxes of 200 random batches of images, as in training; return the number of images."
    from cgsaliency.core.geometry import ImageCrop

    samples, cache = prepared
    rng, crop = random.Random(0), ImageCrop.full(640, 480, 224)
    for _ in range(200):
        cache.padded_boxes(rng.sample(samples, BATCH), [crop] * BATCH, 50)
    return len(samples)


def read_proposals(folder: Path) -> int:
    "Read the bytes of all files; return their number."
    return sum(len(path.read_bytes()) for path in sorted((folder / "proposals").glob("*.safetensors")))


def read_some_proposals(folder: Path) -> int:
    "Read the bytes of one image for each image of the 200 batches; return their number."
    paths, rng = sorted((folder / "proposals").glob("*.safetensors")), random.Random(0)
    size = 20 * BOXES
    total = 0
    for path in rng.choices(paths, k=200 * BATCH):
        with path.open("rb") as file:
            total += len(file.read(size))
    return total


def open_features(folder: Path, samples: Any) -> int:
    "Open a feature cache without features; return the number of images."
    from cgsaliency.features.cache import FeatureCache

    cache = FeatureCache(folder / "features", {"of": "volume"}, [sample.id for sample in samples], (196, 512))
    assert len(cache.missing_ids()) == len(samples)
    return len(samples)


def ids_file(folder: Path) -> Path:
    "Return the path of a file with the ids of all images; write it if it is missing."
    path = folder / "ids.json"
    if not path.is_file():
        path.write_text(json.dumps([sample.id for sample in image_records(folder)]))
    return path


def with_ids(folder: Path) -> Any:
    "Write the file of the ids; return the records of all images."
    ids_file(folder)
    return image_records(folder)


def msrvtt_files(folder: Path) -> list[Path]:
    "Return the paths of MSR-VTT's annotation files."
    return [folder / "msrvtt/train_val_videodatainfo.json", folder / "msrvtt/test_videodatainfo.json"]


COCO_FILES = "json.load of its files"
TASKS = {
    "load Flickr30k, training images": Task(no_preparation, load("flickr30k"), read_flickr30k, "read() of its files"),
    "load MSCOCO, training images and restval": Task(
        no_preparation,
        load("coco", restval=True),
        lambda folder: parse(*captions_files(folder), folder / "coco/dataset_coco.json"),
        COCO_FILES,
    ),
    "load MSCOCO, training images": Task(
        no_preparation,
        load("coco"),
        lambda folder: parse(*captions_files(folder), folder / "coco/dataset_coco.json"),
        COCO_FILES,
    ),
    "load MSCOCO, training images and restval, with instances": Task(
        no_preparation,
        load("coco", restval=True, instances=True),
        lambda folder: parse(*captions_files(folder), *instances_files(folder), folder / "coco/dataset_coco.json"),
        COCO_FILES,
    ),
    "load MSR-VTT, training videos, from an index": Task(
        lambda folder: training_part("msrvtt", folder),
        load("msrvtt"),
        lambda folder: parse(*msrvtt_files(folder)),
        "json.load of its files",
    ),
    "splits of Flickr30k": Task(no_preparation, split_flickr30k, read_flickr30k, "read() of its files"),
    "splits of MSCOCO": Task(
        no_preparation, split_coco, lambda folder: parse(folder / "coco/dataset_coco.json"), "json.load of its file"
    ),
    "vocabulary of MSCOCO": Task(
        coco_records, count_words, lambda folder: parse(*captions_files(folder)), "json.load of the captions"
    ),
    "target words of MSCOCO": Task(
        records_and_vocabulary, encode, lambda folder: parse(*captions_files(folder)), "json.load of the captions"
    ),
    "proposals: open the files of all images": Task(
        proposal_records, open_proposals, read_proposals, "read() of the files"
    ),
    f"proposals: 200 batches of {BATCH} images": Task(
        opened_proposals, batches_of_boxes, read_some_proposals, f"read() of one image's bytes, {200 * BATCH} times"
    ),
    "feature store: open, with the ids of all images": Task(
        with_ids, open_features, lambda folder: parse(ids_file(folder)), "json.load of the ids"
    ),
}


# ---------------------------------------------------------------- measuring

MODULES = (  # imported before the measurements
    "cgsaliency.data.coco",
    "cgsaliency.data.flickr30k",
    "cgsaliency.data.msrvtt",
    "cgsaliency.features.proposals",
    "cgsaliency.data.vocabulary",
    "cgsaliency.data.video_index",
    "cgsaliency.models.base",
    "cgsaliency.features.cache",
)


def child(name: str, folder: Path, plain: bool) -> None:
    "Run a task, or its plain read, and print seconds, bytes and items."
    from memory import forget_highest, highest_memory

    task = TASKS[name]
    if not plain:
        for module in MODULES:
            importlib.import_module(module)
    prepared = None if plain else task.prepare(folder)
    forget_highest()
    start_memory, start = highest_memory(), time.process_time()
    items = task.plain_read(folder) if plain else task.run(folder, prepared)
    print(
        json.dumps(
            {
                "seconds": time.process_time() - start,
                "bytes": highest_memory() - start_memory,
                "items": items if isinstance(items, int) else 0,
            }
        )
    )


def measure(name: str, folder: Path, plain: bool, repeats: int) -> dict[str, float]:
    "Return the minimum seconds and the maximum memory of several processes."
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
    "Measure a task at both sizes."
    by_size = {}
    for size in SIZES:
        measurement, plain = (measure(name, folder / size, is_plain, repeats) for is_plain in (False, True))
        by_size[size] = measurement
        label = f"{name}: {size}"
        yield label, int(measurement["items"]), "items", ""
        yield label, float(measurement["seconds"]), "CPU s", ""
        yield label, float(measurement["seconds"] / max(plain["seconds"], 1e-4)), "times", TASKS[name].plain_description
        yield f"{label}, memory", float(measurement["bytes"] / 2**20), "MiB", ""
        yield (
            f"{label}, memory",
            float(measurement["bytes"] / max(plain["bytes"], 2**20)),
            "times",
            TASKS[name].plain_description,
        )
    half, whole = by_size["half"], by_size["whole"]
    yield (
        f"{name}: exponent",
        math.log(whole["seconds"] / half["seconds"]) / math.log(whole["items"] / half["items"]),
        "",
        "time over items, half to whole",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keep the files in this folder, 2 GB; by default they are deleted")
    parser.add_argument("--only", help="measure the tasks whose names contain this")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.folder, args.plain)
        return
    import torch

    from measure import machine, write_rows
    from official_size import write_all

    with tempfile.TemporaryDirectory() as temporary_dir:
        folder = args.folder or Path(temporary_dir)
        for size, share in SIZES.items():
            write_all(folder / size, share=share)
        for name in TASKS:
            if args.only is None or args.only in name:
                write_rows(
                    args.out, machine(torch.device("cpu")), rows_of(name, folder, args.repeats), prefix=name + ":"
                )


if __name__ == "__main__":
    main()
