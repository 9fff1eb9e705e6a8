"""Annotations of the official sizes: the cost of loading, splits and vocabulary grows linearly."""

import csv
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

import dataset_scaling
import official_size
from assertions import assert_input_error
from call_counts import MAX_EXPONENT, count_calls, growth_exponent
from cgsaliency.data.coco import karpathy_splits, load_coco, read_annotation_file
from cgsaliency.data.flickr30k import load_flickr30k, read_splits
from cgsaliency.data.msrvtt import load_msrvtt
from cgsaliency.data.video_index import VideoIndex
from cgsaliency.data.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parents[2]

SHARES = {"small": 0.01, "large": 0.04}


@pytest.fixture(scope="module")
def dataset_folders(shared_data, tmp_path_factory) -> dict[str, Path]:
    "Folders with 1% and 4% of the official annotations."
    folders = {}
    for name, share in SHARES.items():
        folders[name] = tmp_path_factory.mktemp("volume") / name
        official_size.write_all(folders[name], shared_data, share)
    return folders


LOADERS = {
    "flickr30k": lambda folder: load_flickr30k(folder, "train"),
    "flickr30k, annotations": lambda folder: load_flickr30k(folder, "train", "entities", annotations_only=True),
    "coco": lambda folder: load_coco(folder, "train"),
    "coco and restval": lambda folder: load_coco(folder, "train", restval=True),
    "coco with instances": lambda folder: load_coco(folder, "val", instances=True),
    "msrvtt": lambda folder: load_msrvtt(folder / "msrvtt", "train", index=VideoIndex(folder / "index")),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADERS)
def test_loading_scales_linearly(dataset_folders, name):
    load, costs = LOADERS[name], {}
    for size, folder in dataset_folders.items():
        samples = load(folder).samples
        costs[size] = len(samples), count_calls(lambda: load(folder))
    assert costs["large"][0] > 3.5 * costs["small"][0]
    assert growth_exponent(costs["small"], costs["large"]) < MAX_EXPONENT


def test_call_counts_distinguish_quadratic_from_linear():
    def quadratic(size: int) -> int:
        return count_calls(lambda: [abs(i - j) for i in range(size) for j in range(size)])

    assert growth_exponent((20, quadratic(20)), (80, quadratic(80))) > 1.8

    def linear(size: int) -> int:
        return count_calls(lambda: [abs(i) for i in range(size)])

    assert growth_exponent((20, linear(20)), (80, linear(80))) < 1.1


@pytest.mark.slow
def test_vocabulary_and_splits_scale_linearly(dataset_folders):
    costs = {name: {} for name in ("vocabulary", "encode", "karpathy", "flickr30k")}
    for size, folder in dataset_folders.items():
        training_samples = load_coco(folder, "train", restval=True).samples
        captions = [caption.tokens for sample in training_samples for caption in sample.captions]
        vocabulary = Vocabulary.from_captions(captions)
        costs["vocabulary"][size] = len(captions), count_calls(lambda: Vocabulary.from_captions(captions))
        costs["encode"][size] = len(captions), count_calls(lambda: [vocabulary.encode(tokens) for tokens in captions])
        costs["karpathy"][size] = len(captions), count_calls(lambda: karpathy_splits(folder / "coco/dataset_coco.json"))
        costs["flickr30k"][size] = len(read_splits(folder).train), count_calls(lambda: read_splits(folder))
    for name, costs_by_size in costs.items():
        assert growth_exponent(costs_by_size["small"], costs_by_size["large"]) < MAX_EXPONENT, name


def traced_memory(function: Callable) -> tuple[object, int, int]:
    "Return the result of a function, and the bytes of Python objects afterwards and at their maximum."
    tracemalloc.start()
    try:
        result = function()
        return result, *tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_captions_of_coco_are_in_memory_once(dataset_folders):
    "Each caption is in memory once, as text; the parsed files are freed when the samples are made."
    files = [
        dataset_folders["large"] / "coco/annotations" / f"captions_{dataset}2014.json" for dataset in ("train", "val")
    ]
    dataset, after, maximum = traced_memory(lambda: load_coco(dataset_folders["large"], "train", restval=True))
    _, parsed, _ = traced_memory(
        lambda: [json.loads(path.read_text()) for path in [*files, dataset_folders["large"] / "coco/dataset_coco.json"]]
    )
    assert after < parsed and maximum < 1.5 * parsed
    words = [token for sample in dataset.samples for caption in sample.captions for token in caption.tokens]
    assert len({id(word) for word in words}) == len(set(words)) < len(words) / 100  # each word is one object


@pytest.mark.slow
def test_instances_are_read_without_their_outlines(dataset_folders):
    path = dataset_folders["large"] / "coco/annotations/instances_train2014.json"
    _, after, _ = traced_memory(lambda: read_annotation_file(path))
    _, parsed, _ = traced_memory(lambda: json.loads(path.read_text()))
    assert after < parsed / 2


# The script official_size.py


@pytest.mark.slow
def test_written_files_have_the_requested_share(dataset_folders):
    folder = dataset_folders["large"]
    listings = {
        (kind, split): read_annotation_file(folder / "coco/annotations" / f"{kind}_{split}2014.json")
        for kind in ("captions", "instances")
        for split in ("train", "val")
    }
    for split in ("train", "val"):
        assert len(listings["captions", split].images) == round(official_size.IMAGES[split] * 0.04)
        for kind, totals in ("captions", official_size.CAPTIONS), ("instances", official_size.INSTANCES):
            assert (
                sum(len(image_annotations) for image_annotations in listings[kind, split].annotations.values())
                == round(totals[split] * 0.04)
                and not listings[kind, split].orphan_ids
            )
    splits = karpathy_splits(folder / "coco/dataset_coco.json", restval=True)
    assert (len(splits.val), len(splits.test)) == (200, 200) and len(splits.train) == round(82_783 * 0.04) + round(
        40_504 * 0.04
    ) - 400
    assert len(load_msrvtt(folder / "msrvtt", "test").samples) == round(2990 * 0.04)
    assert (
        sum(official_size.IMAGES.values()) == 123_287
        and sum(official_size.CAPTIONS.values()) == 616_767
        and sum(official_size.INSTANCES.values()) == 886_284
    )


@pytest.mark.slow
def test_existing_files_are_kept_and_another_share_is_rejected(dataset_folders, shared_data):
    folder = dataset_folders["small"]
    before = {path: path.stat().st_mtime_ns for path in (folder / "coco/annotations").iterdir()}
    official_size.write_all(folder, shared_data, SHARES["small"])
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert_input_error(lambda: official_size.write_all(folder, shared_data, 0.5), "holds a share of 0.01")
    assert_input_error(lambda: official_size.write_all(folder, shared_data, 0.0), "--share: is 0.0")


@pytest.mark.slow
def test_the_script_reports_missing_sources(tmp_path):
    completed = subprocess.run(
        [
            sys.executable,
            str(ROOT / "data_scripts/official_size.py"),
            str(tmp_path / "output"),
            "--source",
            str(tmp_path / "none"),
        ],
        capture_output=True,
        text=True,
    )
    assert (
        completed.returncode == 1
        and "lacks flickr30k_entities, msrvtt, coco_mini" in completed.stderr
        and "Traceback" not in completed.stderr
        and not (tmp_path / "output").exists()
    )


NUM_TRAINING_ITEMS = {  # of the official splits; each loads within 60 CPU seconds and 3 GiB
    "load MSCOCO, training images and restval": 113_287,
    "load MSCOCO, training images": 82_783,
    "load Flickr30k, training images": 29_000,
}


def test_measured_loaders_stay_within_their_limits():
    "In the results of benchmarks/dataset_scaling.py no exponent is above 1.3, and loaders keep their time and memory."
    with (ROOT / "benchmarks/results/dataset_scaling.csv").open() as file:
        rows = list(csv.DictReader(file))
    exponent_rows = [row for row in rows if row["name"].endswith(": exponent")]
    exponents = {row["name"].removesuffix(": exponent"): float(row["value"]) for row in exponent_rows}
    assert exponents and exponents.keys() <= dataset_scaling.TASKS.keys() and max(exponents.values()) < MAX_EXPONENT
    values = {(row["name"], row["unit"]): float(row["value"]) for row in rows}
    for name in NUM_TRAINING_ITEMS.keys() & exponents.keys():
        assert values[f"{name}: whole", "items"] == NUM_TRAINING_ITEMS[name]
        assert values[f"{name}: whole", "CPU s"] < 60 and values[f"{name}: whole, memory", "MiB"] < 3 * 1024
    missing = dataset_scaling.TASKS.keys() - exponents.keys()
    if missing:
        pytest.skip(f"benchmarks/dataset_scaling.py has not measured: {', '.join(sorted(missing))}")
