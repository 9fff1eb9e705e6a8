"""The MSCOCO loader on broken files, one fault at a time, and on a sample of the official files."""

import json
import shutil
from pathlib import Path

import pytest

from assertions import assert_input_error, damage_file
from cgsaliency.core.records import SPLIT_NAMES
from cgsaliency.data.coco import COCO_SPLITS, Coco, load_coco, tokenize
from cgsaliency.data.flickr30k import assert_disjoint
from cgsaliency.data.media import read_image
from cgsaliency.synth.write_coco import write_coco

COUNTS = {"train": 9, "val": 3, "test": 4}


@pytest.fixture(scope="module")
def coco_root(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("drawn"), **COUNTS, seed=3)


@pytest.fixture
def coco_copy(coco_root, tmp_path) -> Path:
    return Path(shutil.copytree(coco_root, tmp_path / "data"))


def edit_json(path: Path, change) -> None:
    "Apply the change to the content of a JSON file."
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"restval": True},
        {"split_scheme": "aoa", "split_sizes": (3, 4)},
        {"split_scheme": "aoa", "split_sizes": (5, 2), "restval": True},
    ],
)
def test_splits_share_no_image(coco_root, arguments):
    split_names = SPLIT_NAMES if arguments.get("restval") else COCO_SPLITS
    datasets = [load_coco(coco_root, split, **arguments) for split in split_names]
    ids = [sample.id for dataset in datasets for sample in dataset.samples]
    assert len(set(ids)) == len(ids) and all(
        dataset.splits == datasets[0].splits and tuple(dataset.by_id) == getattr(dataset.splits, dataset.split)
        for dataset in datasets
    )
    assert len(ids) == 16  # every image is in one split
    assert len(datasets[0].splits.restval) == (0 if arguments.get("restval") else 2)


@pytest.mark.parametrize("scheme", [{}, {"split_scheme": "aoa", "split_sizes": (3, 4)}])
def test_restval_is_a_split_of_official_validation_images_that_can_be_added(coco_root, scheme):
    train, restval = (load_coco(coco_root, split, **scheme) for split in ("train", "restval"))
    both = load_coco(coco_root, "train", restval=True, **scheme)
    assert {sample.path.parent.name for sample in train.samples} == {"train2014"}
    assert {sample.path.parent.name for sample in restval.samples} == {"val2014"}
    assert both.samples == train.samples + restval.samples
    assert_input_error(lambda: load_coco(coco_root, "restval", restval=True, **scheme), "no restval sample can be used")


def test_overlapping_split_schemes_are_rejected(coco_root):
    karpathy = load_coco(coco_root, "train", restval=True).splits
    aoa = load_coco(coco_root, "test", "aoa", split_sizes=(3, 4)).splits
    assert set(karpathy.train) & set(aoa.test)
    assert_input_error(lambda: assert_disjoint(karpathy.train, aoa.test), "use the splits of one scheme")
    assert [int(id) for id in (*aoa.val, *aoa.test)] == sorted(int(id) for id in (*aoa.val, *aoa.test))


# Broken files. The record of the first test image is damaged: loading raises, or skips this image alone


def first_test_id(coco_root: Path) -> int:
    return int(load_coco(coco_root).splits.test[0])


def captions_file(coco_root: Path) -> Path:
    return coco_root / "coco/annotations/captions_val2014.json"


def instances_file(coco_root: Path) -> Path:
    return coco_root / "coco/annotations/instances_val2014.json"


def annotation_of(content: dict, id: int) -> dict:
    return next(annotation for annotation in content["annotations"] if annotation["image_id"] == id)


def change_image(**change):
    def damage(coco_root: Path, id: int) -> None:
        edit_json(
            captions_file(coco_root),
            lambda content: next(image for image in content["images"] if image["id"] == id).update(change),
        )

    return damage


def change_caption(**change):
    def damage(coco_root: Path, id: int) -> None:
        edit_json(captions_file(coco_root), lambda content: annotation_of(content, id).update(change))

    return damage


def change_instance(**change):
    def damage(coco_root: Path, id: int) -> None:
        edit_json(instances_file(coco_root), lambda content: annotation_of(content, id).update(change))

    return damage


def remove_image(file):
    def damage(coco_root: Path, id: int) -> None:
        edit_json(
            file(coco_root),
            lambda content: content.update(images=[image for image in content["images"] if image["id"] != id]),
        )

    return damage


RECORD_FAULTS = {
    "a missing image": (
        lambda coco_root, id: load_coco(coco_root).by_id[str(id)].path.unlink(),
        "there is no such image",
        "COCO_val2014_",
    ),
    "an image that no file lists": (remove_image(captions_file), "no captions file lists image", "annotations"),
    "an image without captions": (
        lambda coco_root, id: edit_json(
            captions_file(coco_root),
            lambda content: content.update(
                annotations=[annotation for annotation in content["annotations"] if annotation["image_id"] != id]
            ),
        ),
        "has no caption",
        "captions_val2014.json, image with id",
    ),
    "a caption that is empty": (
        change_caption(caption=" ... "),
        "field 'caption' is missing or has no words",
        "captions_val2014.json, annotation",
    ),
    "a caption that is no text": (
        change_caption(caption=7),
        "field 'caption' is missing or has no words",
        "captions_val2014.json, annotation",
    ),
    "an image without a size": (
        change_image(width=None),
        "field 'width' is missing or no number of pixels",
        "captions_val2014.json, image with id",
    ),
    "an image of no height": (
        change_image(height=0),
        "field 'height' is missing",
        "captions_val2014.json, image with id",
    ),
    "an image without a file's name": (
        change_image(file_name=None),
        "field 'file_name' is missing or no text",
        "captions_val2014.json, image with id",
    ),
    "a box outside its image": (
        change_instance(bbox=[100, 20, 90, 30]),
        "field 'bbox' is [100, 20, 90, 30], which exceeds the image of",
        "instances_val2014.json, annotation",
    ),
    "a box of three numbers": (
        change_instance(bbox=[100, 20, 9]),
        "expected [left, top, width, height]",
        "instances_val2014.json, annotation",
    ),
    "a box of negative width": (
        change_instance(bbox=[100, 20, -9, 9]),
        "which exceeds the image of",
        "instances_val2014.json, annotation",
    ),
    "an unknown category": (
        change_instance(category_id=91),
        "field 'category_id' is 91, which is not among the file's 13 categories",
        "instances_val2014.json, annotation",
    ),
    "an image that the instances do not list": (
        remove_image(instances_file),
        "does not list image",
        "instances_val2014.json",
    ),
}


@pytest.mark.parametrize("fault", RECORD_FAULTS)
def test_broken_records_raise_or_are_skipped_and_listed(coco_copy, fault):
    damage, message, location = RECORD_FAULTS[fault]
    complete, id = load_coco(coco_copy, instances=True), first_test_id(coco_copy)
    damage(coco_copy, id)
    assert_input_error(lambda: load_coco(coco_copy, instances=True), message, location)
    remaining = load_coco(coco_copy, on_error="skip", instances=True)
    assert (
        remaining.samples == complete.samples[1:]
        and [name for name, _ in remaining.skipped] == [str(id)]
        and message in remaining.skipped[0][1]
    )
    assert (
        "1 of 4 test samples left out" in remaining.skipped_note
        and str(id) not in {**remaining.raw_captions, **remaining.instances}
        and load_coco(coco_copy, "val").skipped_note == ""
    )


@pytest.mark.parametrize("file", [captions_file, instances_file])
def test_annotations_of_unlisted_images_raise_or_are_listed(coco_copy, file):
    "Images that are in neither the file nor the split."
    complete = load_coco(coco_copy, instances=True)
    edit_json(
        file(coco_copy),
        lambda content: content["annotations"].append(
            {**content["annotations"][0], "id": 10**9, "image_id": 999_999_999}
        ),
    )
    assert_input_error(
        lambda: load_coco(coco_copy, instances=True),
        f"{file(coco_copy).name}, annotation",
        "belongs to image 999999999, which the file does not list",
    )
    remaining = load_coco(coco_copy, on_error="skip", instances=True)
    assert remaining.samples == complete.samples and [name for name, _ in remaining.skipped] == ["999999999"]


def test_malformed_files_are_reported(coco_copy):
    official = coco_copy / "coco"
    for name, arguments in [
        ("annotations/captions_val2014.json", {}),
        ("annotations/instances_val2014.json", {"instances": True}),
        ("dataset_coco.json", {}),
    ]:
        path = official / name
        before = path.read_bytes()
        for content, message in [
            (before[: len(before) // 2], "is not valid JSON"),
            ("[1, 2]", "is JSON of another kind: it has no list 'images'"),
            (b"\xff\xfe\x00", "is not UTF-8 text"),
        ]:
            damage_file(path, content)
            assert_input_error(lambda: load_coco(coco_copy, **arguments), message, path.name)
            assert_input_error(lambda: load_coco(coco_copy, on_error="skip", **arguments), message, path.name)
        path.write_bytes(before)
    instances_file(coco_copy).replace(captions_file(coco_copy))
    assert_input_error(lambda: load_coco(coco_copy), "captions_val2014.json, annotation", "field 'caption' is missing")


def test_missing_files_are_reported(coco_copy):
    instances_file(coco_copy).unlink()
    assert_input_error(lambda: load_coco(coco_copy, instances=True), "instances_val2014.json: is not there")
    # of other images
    assert load_coco(coco_copy).skipped_note == "" and load_coco(coco_copy, "train", instances=True).skipped_note == ""
    (coco_copy / "coco/dataset_coco.json").rename(coco_copy / "coco/other.json")
    assert_input_error(lambda: load_coco(coco_copy), "dataset_coco.json: is not there")
    assert load_coco(coco_copy, split_scheme="aoa", split_sizes=(3, 4)).skipped_note == ""
    (coco_copy / "coco/other.json").rename(coco_copy / "coco/dataset_coco.json")
    captions_file(coco_copy).unlink()
    assert_input_error(lambda: load_coco(coco_copy), "no captions file lists image")
    assert_input_error(
        lambda: load_coco(coco_copy, split_scheme="aoa"),
        "captions_val: lists 0 validation images, of which 5000 and 5000 are requested",
    )
    captions_file(coco_copy).with_name("captions_train2014.json").unlink()
    assert_input_error(lambda: load_coco(coco_copy), "holds no captions_val2014.json")


def test_duplicate_ids_are_reported(coco_copy):
    for file, arguments in [(captions_file, {}), (instances_file, {"instances": True})]:
        before = file(coco_copy).read_text()
        for key, message in [("annotations", "is given to two annotations"), ("images", "is given to two images")]:
            edit_json(file(coco_copy), lambda content: content[key].append(content[key][0]))
            for on_error in ("raise", "skip"):
                assert_input_error(
                    lambda: load_coco(coco_copy, on_error=on_error, **arguments), file(coco_copy).name, message
                )
            file(coco_copy).write_text(before)
    listed = json.loads(captions_file(coco_copy).read_text())["images"][0]
    edit_json(
        captions_file(coco_copy).with_name("captions_train2014.json"), lambda content: content["images"].append(listed)
    )
    assert_input_error(
        lambda: load_coco(coco_copy),
        f"captions_val2014.json: lists image {listed['id']}, as captions_train2014.json does",
    )


def test_empty_and_overlapping_splits_are_reported(coco_copy):
    path = coco_copy / "coco/dataset_coco.json"
    before = path.read_text()
    edit_json(path, lambda content: content["images"].append({**content["images"][0], "split": "test"}))
    assert_input_error(
        lambda: load_coco(coco_copy), "dataset_coco.json, image 16", "is in two splits, 'train' and 'test'"
    )
    path.write_text(before)
    edit_json(
        path, lambda content: content.update(images=[image for image in content["images"] if image["split"] != "val"])
    )
    assert load_coco(coco_copy, "test").samples
    assert_input_error(lambda: load_coco(coco_copy, "val"), "no val sample can be used")
    assert_input_error(
        lambda: load_coco(coco_copy, split_scheme="aoa", split_sizes=(3, 0)), "leaves the split 'test' empty"
    )
    assert_input_error(
        lambda: load_coco(coco_copy, split_scheme="aoa", split_sizes=(5, 5)),
        "lists 9 validation images, of which 5 and 5 are requested",
    )


# The official files


def load_sample(shared_data: Path, part: str, **choice) -> Coco:
    return load_coco(shared_data, part, "aoa", restval=True, split_sizes=(20, 30), instances=True, **choice)


def test_a_sample_of_the_official_files_is_read_completely(shared_data):
    datasets = {split: load_sample(shared_data, split) for split in SPLIT_NAMES}
    samples = [sample for split in datasets.values() for sample in split.samples]
    assert [len(datasets[split].samples) for split in SPLIT_NAMES] == [29, 20, 30] and len(
        {sample.id for sample in samples}
    ) == 79
    assert all(
        len(sample.captions) == 5 and read_image(sample.path).size == (sample.width, sample.height)
        for sample in samples
    )
    instances = [
        (sample, instance)
        for split in datasets.values()
        for sample in split.samples
        for instance in split.instances[sample.id]
    ]
    assert len(instances) == 624 and sum(instance.crowd for _, instance in instances) == 5
    assert all(
        0 <= instance.box[0] < instance.box[2] <= sample.width
        and 0 <= instance.box[1] < instance.box[3] <= sample.height
        for sample, instance in instances
    )
    annotations = {
        instance["id"]: instance
        for instance in json.loads((shared_data / "coco_mini/annotations/instances_val2017.json").read_text())[
            "annotations"
        ]
    }
    areas = sorted(instance["bbox"][2] * instance["bbox"][3] for instance in annotations.values())
    assert sorted(
        (instance.box[2] - instance.box[0]) * (instance.box[3] - instance.box[1]) for _, instance in instances
    ) == pytest.approx(areas)
    assert [int(sample.id) for split in ("val", "test", "train") for sample in datasets[split].samples] == sorted(
        int(sample.id) for sample in samples
    )


def test_official_captions_are_tokenized_like_the_authors_code(shared_data):
    dataset = load_sample(shared_data, "train")
    lake = next(
        change_caption
        for split_dataset in (load_sample(shared_data, name) for name in SPLIT_NAMES)
        for image_captions in split_dataset.raw_captions.values()
        for change_caption in image_captions
        if change_caption.startswith("A plane floating")
    )
    assert tokenize(lake) == (
        "a",
        "plane",
        "floating",
        "on",
        "top",
        "of",
        "a",
        "lake",
        "surrounded",
        "by",
        "mountains",
    )
    words = {word for sample in dataset.samples for sentence in sample.captions for word in sentence.tokens}
    assert (
        all(word == word.lower() and word.isalnum() for word in words if word.isascii())
        and {"man", "of", "sitting"} <= words
    )


def test_a_sample_is_not_accepted_as_the_complete_data_set(shared_data):
    assert_input_error(
        lambda: load_coco(shared_data, split_scheme="aoa"),
        "lists 79 validation images, of which 5000 and 5000 are requested",
        "split_sizes=",
    )
    assert_input_error(lambda: load_coco(shared_data), "dataset_coco.json: is not there")
