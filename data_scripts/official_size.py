"""Write annotation files of the official sizes, for measurements: `python data_scripts/official_size.py FOLDER`.

Flickr30k and Flickr30k Entities: all 31,783 images, 158,915 captions and 275,775 boxes of the real annotations, with
both split schemes. MSR-VTT: the real captions, 200,000 of 10,000 videos. MSCOCO 2014: 123,287 images, 616,767 captions
and 886,284 instances with outlines, which repeat those of a sample under new ids. All images, and all videos, are hard
links to one placeholder of a few pixels: the files serve to measure loading times, not to train.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from cgsaliency.core.errors import InputError
from cgsaliency.core.io import atomic_write, read_json, write_json
from cgsaliency.core.records import SPLIT_NAMES
from cgsaliency.data.flickr30k import entities_files, parse_caption, read_splits
from cgsaliency.data.media import write_video
from cgsaliency.data.msrvtt import msrvtt_split, read_msrvtt

SOURCE = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
IMAGES = {"train": 82_783, "val": 40_504}  # of MSCOCO 2014
CAPTIONS = {"train": 414_113, "val": 202_654}
INSTANCES = {"train": 595_000, "val": 291_284}
SPLITS = {"val": 5000, "test": 5000}  # of its official validation images; the others are 'restval'
LINKS = 30_000  # hard links to one file; ext4 allows 65,000


def write_placeholders(paths: Iterable[Path], example: Path) -> None:
    "Create each path as a hard link to a copy of the example, or as a copy if the file system has no hard links."
    original = None
    for index, path in enumerate(paths):
        if index % LINKS == 0:
            shutil.copyfile(example, path)
            original = path
            continue
        try:
            os.link(original, path)
        except OSError:
            shutil.copyfile(example, path)


def share_of(items: Sequence[Any], share: float) -> list[Any]:
    "Return the first items, at least one."
    return list(items[: max(1, round(len(items) * share))])


# ---------------------------------------------------------------- Flickr30k


def write_flickr30k(folder: Path, source: Path, share: float, image: Path) -> None:
    """Write flickr30k/ and flickr30k_entities/ into the folder.

    They hold annotations.zip, a token file of its captions, the splits, and the images."""
    schemes = {scheme: read_splits(source, scheme) for scheme in ("entities", "karpathy")}
    selected = {
        scheme: {split: share_of(getattr(splits, split), share) for split in SPLIT_NAMES}
        for scheme, splits in schemes.items()
    }
    selected_ids = {id for splits in selected.values() for ids in splits.values() for id in ids}
    captions: dict[str, list[str]] = {}
    with atomic_write(folder / "flickr30k_entities") as target:
        (target / "karpathy").mkdir(parents=True)
        shutil.copyfile(source / "flickr30k_entities/UNRELATED_CAPTIONS", target / "UNRELATED_CAPTIONS")
        for scheme, name, suffix in (("entities", "{}.txt", ""), ("karpathy", "karpathy/imgs_{}.txt", ".jpg")):
            for split, ids in selected[scheme].items():
                (target / name.format(split)).write_text("".join(f"{id}{suffix}\n" for id in ids))
        with zipfile.ZipFile(target / "annotations.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, content in tqdm(entities_files(source / "flickr30k_entities"), "Flickr30k Entities", 2 * 31_783):
                kind, _, file = name.rpartition("/")
                id = file.rpartition(".")[0]
                if id not in selected_ids:
                    continue
                archive.writestr(name, content)
                if kind.endswith("Sentences"):
                    captions[id] = [
                        " ".join(parse_caption(line).tokens)
                        for line in content.decode("utf8").splitlines()
                        if line.strip()
                    ]
    with atomic_write(folder / "flickr30k") as target:
        (target / "flickr30k-images").mkdir(parents=True)
        with (target / "results_20130124.token").open("w", encoding="utf8") as file:
            for id in sorted(captions):
                file.writelines(f"{id}.jpg#{index}\t{text}\n" for index, text in enumerate(captions[id]))
        write_placeholders((target / "flickr30k-images" / f"{id}.jpg" for id in sorted(captions)), image)


# ---------------------------------------------------------------- MSR-VTT


def write_msrvtt(folder: Path, source: Path, share: float, video: Path) -> None:
    "Write msrvtt/ into the folder: its two JSON files, and the videos."
    captions = read_msrvtt(source / "msrvtt")
    names_by_split: dict[str, list[str]] = {split: [] for split in SPLIT_NAMES}
    for name in sorted(captions, key=lambda name: int(name.removeprefix("video"))):
        names_by_split[msrvtt_split(name)].append(name)
    selected = {split: share_of(names, share) for split, names in names_by_split.items()}
    with atomic_write(folder / "msrvtt") as target:
        for file, videos, splits in (
            ("train_val_videodatainfo.json", "TrainValVideo", ("train", "val")),
            ("test_videodatainfo.json", "TestVideo", ("test",)),
        ):
            (target / videos).mkdir(parents=True)
            names = [name for split in splits for name in selected[split]]
            pairs = [(name, text) for name in names for text in captions[name]]
            sentences = [
                {"caption": text, "video_id": name, "sen_id": index} for index, (name, text) in enumerate(pairs)
            ]
            content = {"info": {}, "videos": [{"video_id": name} for name in names], "sentences": sentences}
            with (target / file).open("w") as out:
                json.dump(content, out)
            write_placeholders((target / videos / f"{name}.mp4" for name in names), video)


# ---------------------------------------------------------------- MSCOCO


def quotas(total: int, items: int) -> Iterator[int]:
    "Share a total among items as evenly as whole numbers allow."
    for index in range(items):
        yield total * (index + 1) // items - total * index // items


def write_coco(folder: Path, source: Path, share: float, image: Path) -> None:
    """Write coco/ into the folder: captions and instances of 2014, Karpathy's split, and the images.

    The annotations of the sample are repeated under new ids."""
    annotations = source / "coco_mini/annotations"
    sample = read_json(annotations / "captions_val2017.json")
    sample_instances = read_json(annotations / "instances_val2017.json")
    captions: dict[int, list[dict]] = {}
    instances: dict[int, list[dict]] = {}
    for caption in sample["annotations"]:
        captions.setdefault(caption["image_id"], []).append(caption)
    for instance in sample_instances["annotations"]:
        instances.setdefault(instance["image_id"], []).append(instance)
    sources = [entry for entry in sample["images"] if entry["id"] in instances]
    with atomic_write(folder / "coco") as target:
        (target / "annotations").mkdir(parents=True)
        split_entries: list[dict] = []
        first = 0
        for split, size in IMAGES.items():
            count = max(1, round(size * share))
            images = [
                {**entry, "id": first + index, "file_name": f"COCO_{split}2014_{first + index:012d}.jpg"}
                for index, entry in zip(range(count), cycle(sources), strict=False)
            ]
            origins = [entry["id"] for _, entry in zip(range(count), cycle(sources), strict=False)]
            write_repeated(
                target / "annotations" / f"captions_{split}2014.json",
                {"info": {}, "licenses": []},
                images,
                origins,
                captions,
                round(CAPTIONS[split] * share),
            )
            write_repeated(
                target / "annotations" / f"instances_{split}2014.json",
                {"info": {}, "licenses": [], "categories": sample_instances["categories"]},
                images,
                origins,
                instances,
                round(INSTANCES[split] * share),
            )
            (target / f"{split}2014").mkdir()
            write_placeholders((target / f"{split}2014" / entry["file_name"] for entry in images), image)
            split_entries += karpathy_entries(split, images, origins, captions, share)
            first += count
        with (target / "dataset_coco.json").open("w") as out:
            json.dump({"images": split_entries, "dataset": "coco"}, out)


def write_repeated(
    path: Path, head: dict, images: list[dict], origins: list[int], sources: dict[int, list[dict]], total: int
) -> None:
    "Write a JSON file in which each image has the annotations of the sample image that it repeats, under new ids."

    def without_ids(annotation: dict) -> str:
        "Return the JSON of the annotation without its ids and opening brace."
        return json.dumps({key: value for key, value in annotation.items() if key not in ("id", "image_id")})[1:]

    texts = {id: [without_ids(annotation) for annotation in annotations] for id, annotations in sources.items()}
    with path.open("w") as out:
        out.write(json.dumps(head)[:-1] + ', "images": ' + json.dumps(images) + ', "annotations": [')
        id = 0
        for image, origin, count in tqdm(
            zip(images, origins, quotas(total, len(images)), strict=True), path.name, len(images)
        ):
            for _, text in zip(range(count), cycle(texts[origin]), strict=False):
                out.write(f'{", " if id else ""}{{"id": {id}, "image_id": {image["id"]}, {text}')
                id += 1
        out.write("]}")


def karpathy_entries(
    split: str, images: list[dict], origins: list[int], captions: dict[int, list[dict]], share: float
) -> list[dict]:
    "Return entries of dataset_coco.json: some validation images are 'val', some 'test', and the others 'restval'."
    sizes = {name: round(size * share) for name, size in SPLITS.items()} if split == "val" else {}
    names = [name for name, size in sizes.items() for _ in range(size)]
    default = "restval" if split == "val" else "train"
    return [
        {
            "filepath": f"{split}2014",
            "filename": image["file_name"],
            "cocoid": image["id"],
            "imgid": image["id"],
            "split": names[index] if index < len(names) else default,
            "sentences": [
                {"tokens": caption["caption"].lower().rstrip(" .").split(), "raw": caption["caption"]}
                for caption in captions[origin]
            ],
        }
        for index, (image, origin) in enumerate(zip(images, origins, strict=True))
    ]


# ---------------------------------------------------------------- command


def write_all(folder: Path, source: Path = SOURCE, share: float = 1.0) -> None:
    """Write the data sets that are not in the folder yet.

    Raises InputError if the source is missing, or if the folder holds another share."""
    missing = [name for name in ("flickr30k_entities", "msrvtt", "coco_mini") if not (source / name).is_dir()]
    if missing:
        raise InputError(
            source,
            f"lacks {', '.join(missing)}: the small real data sets that the files repeat",
            "Give the folder that holds them with --source",
        )
    if not 0 < share <= 1:
        raise InputError("--share", f"is {share}", "Give a number above 0, at most 1")
    about = folder / "official_size.json"
    if about.is_file() and read_json(about) != {"share": share}:
        raise InputError(folder, f"holds a share of {read_json(about)['share']}", "Choose another folder")
    write_json(about, {"share": share})
    with tempfile.TemporaryDirectory() as temporary:
        image, video = Path(temporary) / "image.jpg", Path(temporary) / "video.mp4"
        Image.new("RGB", (16, 16), (90, 120, 150)).save(image)
        write_video(video, [Image.new("RGB", (16, 16), (9 * k, 120, 150)) for k in range(4)])
        for name, write, example in (
            ("flickr30k", write_flickr30k, image),
            ("msrvtt", write_msrvtt, video),
            ("coco", write_coco, image),
        ):
            if not (folder / name).is_dir():
                write(folder, source, share, example)


def main(arguments: Sequence[str] | None = None) -> int:
    "Run the command; return its exit code."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write to, 0.9 GB")
    parser.add_argument("--share", type=float, default=1.0, help="of each data set")
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the small real data")
    args = parser.parse_args(arguments)
    try:
        write_all(args.folder, args.source, args.share)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
