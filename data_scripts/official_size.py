"""Write annotation files of the official sizes, for measurements: `python data_scripts/official_size.py FOLDER`.

Flickr30k and Flickr30k Entities: all 31,783 images, 158,915 sentences and 275,775 boxes of the real annotations, with
both families of splits. MSR-VTT: the real sentences, 200,000 of 10,000 videos. MSCOCO 2014: 123,287 images, 616,767
captions and 886,284 instances with outlines, made by repeating those of a sample under new ids. Each image and video
is one stand-in file of a few pixels under many names: FOLDER serves to measure how long loading takes, and trains
nothing.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import zipfile
from itertools import cycle
from pathlib import Path
from typing import Any, Iterable, Iterator, Sequence

from PIL import Image
from tqdm.auto import tqdm

from cgsaliency.core.artefacts import read_json, write_json, written_whole
from cgsaliency.core.errors import BadInput
from cgsaliency.data.flickr30k import entities_files, parse_sentence, read_splits
from cgsaliency.data.frames import write_video
from cgsaliency.data.msrvtt import part_of, read_msrvtt

SOURCE = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
IMAGES = {"train": 82_783, "val": 40_504}  # of MSCOCO 2014
CAPTIONS = {"train": 414_113, "val": 202_654}
INSTANCES = {"train": 595_000, "val": 291_284}
SPLITS = {"val": 5000, "test": 5000}  # of its official validation images; the rest is 'restval'
LINKS = 30_000  # names of one file; ext4 allows 65,000


def stand_ins(paths: Iterable[Path], example: Path) -> None:
    "Make each path a hard link to a copy of the example, or a copy where the file system has no hard links."
    original = None
    for number, path in enumerate(paths):
        if number % LINKS == 0:
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

    They hold annotations.zip, the token file made of its sentences, the splits, and the images."""
    lists = {family: read_splits(source, family) for family in ("entities", "karpathy")}
    chosen = {
        family: {part: share_of(getattr(splits, part), share) for part in ("train", "val", "test")}
        for family, splits in lists.items()
    }
    every = {id for parts in chosen.values() for ids in parts.values() for id in ids}
    captions: dict[str, list[str]] = {}
    with written_whole(folder / "flickr30k_entities") as target:
        (target / "karpathy").mkdir(parents=True)
        shutil.copyfile(source / "flickr30k_entities/UNRELATED_CAPTIONS", target / "UNRELATED_CAPTIONS")
        for family, name in (("entities", "{}.txt"), ("karpathy", "karpathy/imgs_{}.txt")):
            for part, ids in chosen[family].items():
                (target / name.format(part)).write_text(
                    "".join(f"{id}{'.jpg' if family == 'karpathy' else ''}\n" for id in ids)
                )
        with zipfile.ZipFile(target / "annotations.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, content in tqdm(entities_files(source / "flickr30k_entities"), "Flickr30k Entities", 2 * 31_783):
                kind, _, file = name.rpartition("/")
                id = file.rpartition(".")[0]
                if id not in every:
                    continue
                archive.writestr(name, content)
                if kind.endswith("Sentences"):
                    captions[id] = [
                        " ".join(parse_sentence(line).tokens)
                        for line in content.decode("utf8").splitlines()
                        if line.strip()
                    ]
    with written_whole(folder / "flickr30k") as target:
        (target / "flickr30k-images").mkdir(parents=True)
        with (target / "results_20130124.token").open("w", encoding="utf8") as file:
            for id in sorted(captions):
                file.writelines(f"{id}.jpg#{number}\t{text}\n" for number, text in enumerate(captions[id]))
        stand_ins((target / "flickr30k-images" / f"{id}.jpg" for id in sorted(captions)), image)


# ---------------------------------------------------------------- MSR-VTT


def write_msrvtt(folder: Path, source: Path, share: float, video: Path) -> None:
    "Write msrvtt/ into the folder: the JSON files of its two parts, and the videos."
    captions = read_msrvtt(source / "msrvtt")
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for name in sorted(captions, key=lambda name: int(name.removeprefix("video"))):
        parts[part_of(name)].append(name)
    chosen = {part: share_of(names, share) for part, names in parts.items()}
    with written_whole(folder / "msrvtt") as target:
        for file, videos, own in (
            ("train_val_videodatainfo.json", "TrainValVideo", ("train", "val")),
            ("test_videodatainfo.json", "TestVideo", ("test",)),
        ):
            (target / videos).mkdir(parents=True)
            names = [name for part in own for name in chosen[part]]
            sentences = (
                {"caption": text, "video_id": name, "sen_id": number}
                for number, (name, text) in enumerate((name, text) for name in names for text in captions[name])
            )
            with (target / file).open("w") as out:
                json.dump(
                    {"info": {}, "videos": [{"video_id": name} for name in names], "sentences": list(sentences)}, out
                )
            stand_ins((target / videos / f"{name}.mp4" for name in names), video)


# ---------------------------------------------------------------- MSCOCO


def quotas(total: int, items: int) -> Iterator[int]:
    "Share a total among items as evenly as whole numbers allow."
    for number in range(items):
        yield total * (number + 1) // items - total * number // items


def write_coco(folder: Path, source: Path, share: float, image: Path) -> None:
    """Write coco/ into the folder: captions and instances of 2014, Karpathy's split, and the images.

    What the sample says is repeated under new ids."""
    annotations = source / "coco_mini/annotations"
    sample, things = read_json(annotations / "captions_val2017.json"), read_json(annotations / "instances_val2017.json")
    said: dict[int, list[dict]] = {}
    found: dict[int, list[dict]] = {}
    for one in sample["annotations"]:
        said.setdefault(one["image_id"], []).append(one)
    for one in things["annotations"]:
        found.setdefault(one["image_id"], []).append(one)
    sources = [one for one in sample["images"] if one["id"] in found]
    with written_whole(folder / "coco") as target:
        (target / "annotations").mkdir(parents=True)
        split: list[dict] = []
        first = 0
        for part, whole in IMAGES.items():
            count = max(1, round(whole * share))
            images = [
                {**one, "id": first + number, "file_name": f"COCO_{part}2014_{first + number:012d}.jpg"}
                for number, one in zip(range(count), cycle(sources))
            ]
            origins = [one["id"] for _, one in zip(range(count), cycle(sources))]
            write_repeated(
                target / "annotations" / f"captions_{part}2014.json",
                {"info": {}, "licenses": []},
                images,
                origins,
                said,
                round(CAPTIONS[part] * share),
            )
            write_repeated(
                target / "annotations" / f"instances_{part}2014.json",
                {"info": {}, "licenses": [], "categories": things["categories"]},
                images,
                origins,
                found,
                round(INSTANCES[part] * share),
            )
            (target / f"{part}2014").mkdir()
            stand_ins((target / f"{part}2014" / one["file_name"] for one in images), image)
            split += karpathy(part, images, origins, said, share)
            first += count
        with (target / "dataset_coco.json").open("w") as out:
            json.dump({"images": split, "dataset": "coco"}, out)


def write_repeated(
    path: Path, head: dict, images: list[dict], origins: list[int], sources: dict[int, list[dict]], total: int
) -> None:
    "Write a JSON file in which each image has annotations of the sample image that it repeats, under ids of their own."
    plain = {
        id: [json.dumps({key: value for key, value in one.items() if key not in ("id", "image_id")})[1:] for one in own]
        for id, own in sources.items()
    }
    with path.open("w") as out:
        out.write(json.dumps(head)[:-1] + ', "images": ' + json.dumps(images) + ', "annotations": [')
        id = 0
        for image, origin, number in tqdm(zip(images, origins, quotas(total, len(images))), path.name, len(images)):
            for _, text in zip(range(number), cycle(plain[origin])):
                out.write(f'{", " if id else ""}{{"id": {id}, "image_id": {image["id"]}, {text}')
                id += 1
        out.write("]}")


def karpathy(
    part: str, images: list[dict], origins: list[int], said: dict[int, list[dict]], share: float
) -> list[dict]:
    "Return entries of dataset_coco.json: of the validation images some are 'val', some 'test', the rest 'restval'."
    sizes = {name: round(size * share) for name, size in SPLITS.items()} if part == "val" else {}
    names = [name for name, size in sizes.items() for _ in range(size)]
    rest = "restval" if part == "val" else "train"
    return [
        {
            "filepath": f"{part}2014",
            "filename": one["file_name"],
            "cocoid": one["id"],
            "imgid": one["id"],
            "split": names[number] if number < len(names) else rest,
            "sentences": [
                {"tokens": caption["caption"].lower().rstrip(" .").split(), "raw": caption["caption"]}
                for caption in said[origin]
            ],
        }
        for number, (one, origin) in enumerate(zip(images, origins))
    ]


# ---------------------------------------------------------------- command


def write_all(folder: Path, source: Path = SOURCE, share: float = 1.0) -> None:
    """Write the data sets that are not in the folder yet.

    Raises BadInput where the source is absent, and where the folder holds another share."""
    missing = [name for name in ("flickr30k_entities", "msrvtt", "coco_mini") if not (source / name).is_dir()]
    if missing:
        raise BadInput(
            source,
            f"lacks {', '.join(missing)}: the small real data that the files are made of",
            "Give the folder that holds them with --source; without them nothing can be written",
        )
    if not 0 < share <= 1:
        raise BadInput("--share", f"is {share}", "Give a number above 0, at most 1")
    about = folder / "official_size.json"
    if about.is_file() and read_json(about) != {"share": share}:
        raise BadInput(folder, f"holds a share of {read_json(about)['share']}", "Choose another folder")
    write_json(about, {"share": share})
    with tempfile.TemporaryDirectory() as made:
        image, video = Path(made) / "image.jpg", Path(made) / "video.mp4"
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
    given = parser.parse_args(arguments)
    try:
        write_all(given.folder, given.source, given.share)
    except BadInput as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
