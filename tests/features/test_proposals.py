"""Proposals: the same boxes in every process, inside the image, written completely or not at all."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from assertions import assert_input_error, damage_file
from cgsaliency.core.geometry import ImageCrop
from cgsaliency.core.records import Sample
from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.data.media import read_image
from cgsaliency.features.proposals import (
    ProposalCache,
    box_recall,
    edge_boxes,
    edge_map,
    sample_boxes,
    selective_search,
    sliding_window_boxes,
)
from cgsaliency.synth.scenes import render, sample_scene

FINDERS = {"edge_boxes": edge_boxes, "selective_search": selective_search}

DIGEST_SCRIPT = """
import hashlib, sys
import cv2
cv2.setNumThreads(int(sys.argv[1]))
cv2.setRNGSeed(int(sys.argv[1]))
from cgsaliency.features.proposals import edge_boxes, selective_search
from cgsaliency.synth.scenes import render, sample_scene
for index in map(int, sys.argv[2:]):
    image = render(sample_scene(3, index))
    found = [b"".join(part.numpy().tobytes() for part in find(image)) for find in (edge_boxes, selective_search)]
    print(index, *(hashlib.sha256(content).hexdigest() for content in found))
"""


def digests_in_new_process(threads: int, *scenes: int) -> set[str]:
    command = [sys.executable, "-c", DIGEST_SCRIPT, str(threads), *map(str, scenes)]
    return set(
        subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parents[2]
        ).stdout.splitlines()
    )


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    folder, written_samples = tmp_path_factory.mktemp("images"), []
    for index in range(5):
        scene = sample_scene(3, index)
        render(scene).save(folder / f"{index}.png")
        written_samples.append(Sample(str(index), folder / f"{index}.png", scene.width, scene.height))
    return written_samples


@pytest.fixture(scope="module")
def proposal_cache(samples, tmp_path_factory) -> ProposalCache:
    return ProposalCache(tmp_path_factory.mktemp("proposals"), samples, chunk_size=2).find(progress=False)


@pytest.fixture(scope="module")
def blank_image(tmp_path_factory) -> Sample:
    path = tmp_path_factory.mktemp("blank") / "blank.png"
    Image.new("RGB", (90, 60), (120, 130, 140)).save(path)
    return Sample("blank", path, 90, 60)


@pytest.mark.slow
def test_proposals_do_not_depend_on_process_threads_and_order():
    first = digests_in_new_process(1, 0, 1)
    assert len(first) == 2 and digests_in_new_process(2, 1, 0) == first and digests_in_new_process(4, 0) <= first


@pytest.mark.parametrize("name", FINDERS)
@pytest.mark.parametrize("size", [(160, 120), (500, 375), (75, 240), (24, 16), (500, 12)])
def test_boxes_lie_in_the_image_and_are_sorted_by_score(name, size):
    image = render(sample_scene(3, 1)).resize(size)
    boxes, scores = FINDERS[name](image, 30, on_empty="empty")
    assert (
        len(boxes) == len(scores) <= 30
        and boxes.dtype == scores.dtype == torch.float32
        and (scores[:-1] >= scores[1:]).all()
    )
    assert (
        (boxes[:, :2] >= 0).all()
        and (boxes[:, 2:] <= torch.tensor(size) + 1e-3).all()
        and (boxes[:, 2:] > boxes[:, :2]).all()
    )
    assert len(boxes) or min(size) < 20


@pytest.mark.parametrize("name", FINDERS)
def test_boxes_are_half_open_and_move_with_the_object(name):
    "The best box of an object in the middle is symmetric about the middle: no coordinate is counted from 1."

    def best(left: int, top: int) -> torch.Tensor:
        image = Image.new("RGB", (240, 200), (60, 90, 140))
        image.paste((240, 220, 80), (left, top, left + 100, top + 80))
        boxes, _ = FINDERS[name](image)
        return boxes[box_iou(boxes, torch.tensor([[left, top, left + 100, top + 80]]).float()).argmax()]

    centered, moved = best(70, 60), best(90, 76)
    middle = (centered[:2] + centered[2:]) / 2
    assert (middle - torch.tensor([120.0, 100.0])).abs().max() <= 2.5
    assert (moved - centered - torch.tensor([20.0, 16.0]).repeat(2)).abs().max() <= 6
    assert (centered[:2] >= torch.tensor([62, 52])).all() and (centered[:2] <= torch.tensor([71, 61])).all()


@pytest.mark.parametrize("name", FINDERS)
def test_images_without_edges(name, blank_image, tmp_path):
    image = read_image(blank_image.path)
    assert_input_error(
        lambda: FINDERS[name](image, location="7.jpg"), "7.jpg: has no proposal", "on_empty='full_image'"
    )
    assert FINDERS[name](image, on_empty="full_image")[0].tolist() == [[0, 0, 90, 60]]
    assert_input_error(
        lambda: ProposalCache(tmp_path, [blank_image], name).find(progress=False), "image 'blank'", "1 of 1 images"
    )
    cache = ProposalCache(tmp_path, [blank_image], name, on_empty="full_image").find(progress=False)
    boxes, mask = cache.padded_boxes([blank_image], [ImageCrop.full(90, 60, 224)], 3)
    assert (
        boxes[0, 0].tolist() == [0, 0, 224, 224]
        and mask.tolist() == [[True, False, False]]
        and len(cache["blank"][0]) == 0
    )


MODEL_FAULTS = {
    "absent": (None, "there is no such model"),
    "empty": (b"", "model.yml.gz"),
    "words": (b"words", "model.yml.gz"),
    "bytes": (b"\x00\xff\x00", "cannot be read completely"),
    "of another kind": (gzip.compress(b"%YAML:1.0\n---\na: 1\n"), "options is missing"),
    "cut off": (gzip.compress(b"%YAML:1.0\n---\na: 1\n" * 50)[:-9], "cannot be read completely"),
    "a part missing": (b"%YAML:1.0\n---\noptions:\n   numberOfTrees: 1\n", "childs is missing"),
}


# with ids: a gzip header contains the time, and the workers of pytest must agree on the names of tests
@pytest.mark.parametrize("content, message", MODEL_FAULTS.values(), ids=MODEL_FAULTS)
def test_broken_models_are_reported(content, message, tmp_path):
    path = tmp_path / "model.yml.gz"
    if content is not None:
        path.write_bytes(content)
    assert_input_error(lambda: edge_boxes(render(sample_scene(3, 0)), model=path), message, "omit it and use gradients")


def write_forest(path: Path, votes: int = 16) -> Path:
    "Write a forest with one tree of one split: there is an edge if the gradient in the middle of the patch is strong."
    options = dict(
        stride=2,
        shrinkNumber=2,
        patchSize=32,
        patchInnerSize=16,
        numberOfGradientOrientations=4,
        gradientSmoothingRadius=0,
        regFeatureSmoothingRadius=2,
        ssFeatureSmoothingRadius=8,
        gradientNormalizationRadius=4,
        selfsimilarityGridSize=5,
        numberOfTrees=1,
        numberOfTreesToEvaluate=1,
    )
    middle = [8 * 16 + 8, 8 * 16 + 7, 7 * 16 + 8, 7 * 16 + 7]
    arrays = {
        "childs": [2, 0, 0],
        "featureIds": [3 * 256 + 8 * 16 + 8, 0, 0],
        "thresholds": [0.6, 0.0, 0.0],
        "edgeBoundaries": [0, 0, 0, 4 * votes],
        "edgeBins": middle * votes,
    }
    lines = ["%YAML:1.0", "---", "options:", *(f"   {name}: {value}" for name, value in options.items())]
    for name, values in arrays.items():
        lines += [f"{name}:", f"   - [ {', '.join(map(str, values))} ]"]
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    return path


def test_a_forest_gives_the_edges(tmp_path, samples):
    model = write_forest(tmp_path / "model.yml.gz")
    image = Image.new("RGB", (160, 120), (60, 90, 140))
    image.paste((240, 220, 80), (50, 30, 120, 90))
    strength, _ = edge_map(image, model)
    assert strength.max() > 0 and not strength[50:70, 65:105].any()
    assert box_iou(edge_boxes(image, model=model)[0], torch.tensor([[50.0, 30.0, 120.0, 90.0]])).max() > 0.6
    by_forest = ProposalCache(tmp_path, samples[:1], model=model, on_empty="full_image").find(progress=False)
    assert by_forest.chunks[0][0] != ProposalCache(tmp_path, samples[:1]).chunks[0][0]
    assert by_forest.chunks[0][0] == ProposalCache(tmp_path, samples[:1], model=model).chunks[0][0]
    assert_input_error(
        lambda: ProposalCache(tmp_path, samples, model=tmp_path / "none.yml.gz"), "there is no such model"
    )


def test_weak_edges_give_no_box(tmp_path):
    model = write_forest(tmp_path / "model.yml.gz", votes=1)
    image = render(sample_scene(3, 0))
    boxes, scores = edge_boxes(image, model=model, on_empty="empty")
    assert boxes.shape == (0, 4) and scores.shape == (0,) and edge_map(image, model)[0].any()
    assert_input_error(lambda: edge_boxes(image, model=model), "has no proposal")


def test_the_cache_holds_the_boxes_of_edge_boxes(proposal_cache, samples):
    for sample in samples:
        assert all(
            torch.equal(cached, expected)
            for cached, expected in zip(proposal_cache[sample.id], edge_boxes(read_image(sample.path), 100))
        )
    assert (
        list(proposal_cache.seconds()) == [sample.id for sample in samples]
        and min(proposal_cache.seconds().values()) > 0
    )
    assert len(proposal_cache.chunks) == 3 and "seconds" not in json.dumps(
        [about for _, about, _ in proposal_cache.chunks]
    )


def test_missing_files_are_made_again_with_the_same_bytes(proposal_cache, samples):
    paths = [path for path, _, _ in proposal_cache.chunks]
    contents, mtimes = [path.read_bytes() for path in paths], [path.stat().st_mtime_ns for path in paths]
    paths[1].unlink()
    resumed = ProposalCache(proposal_cache.folder, samples, chunk_size=2)
    assert_input_error(lambda: resumed["2"], "is not there", "`find` writes it again")
    resumed.find(progress=False)
    assert [path.read_bytes() for path in paths] == contents
    assert [path.stat().st_mtime_ns == mtime for path, mtime in zip(paths, mtimes)] == [True, False, True]


def test_each_setting_and_set_of_images_has_its_own_files(proposal_cache, samples):
    names = {
        ProposalCache(proposal_cache.folder, *arguments, chunk_size=2, **options).chunks[0][0]
        for arguments, options in [
            ((samples,), {}),
            ((samples,), {"max_proposals": 50}),
            ((samples,), {"beta": 0.55}),
            ((samples, "selective_search"), {}),
            ((samples, "selective_search"), {"seed": 1}),
            ((samples[1:],), {}),
        ]
    }
    assert len(names) == 6 and proposal_cache.chunks[0][0] in names
    assert ProposalCache(proposal_cache.folder, samples[:4], chunk_size=2).chunks[0][0] == proposal_cache.chunks[0][0]


def test_truncated_files_and_files_of_other_images_are_reported(proposal_cache, samples, tmp_path):
    path = tmp_path / proposal_cache.chunks[0][0].name
    complete = proposal_cache.chunks[0][0].read_bytes()
    for content, message in [
        (complete[:-40], "is not a complete safetensors file"),
        (b"", "is not a complete safetensors file"),
        (proposal_cache.chunks[1][0].read_bytes(), "holds proposals of other images"),
    ]:
        damage_file(path, content)
        assert_input_error(
            lambda: ProposalCache(tmp_path, samples[:2], chunk_size=2).find(progress=False), str(path), message
        )
    assert_input_error(
        lambda: proposal_cache.padded_boxes([Sample("9", Path("9.png"), 9, 9)], [ImageCrop.full(9, 9, 9)]),
        "has no image '9'",
    )
    missing_image = Sample("cut", tmp_path / "cut.png", 160, 120)
    assert_input_error(
        lambda: ProposalCache(tmp_path, [missing_image]).find(progress=False), "cut.png", "there is no such image"
    )


def test_padded_boxes_in_crops(proposal_cache, samples):
    full_crops, center_crops = [
        [crop(sample.width, sample.height, 224) for sample in samples]
        for crop in (ImageCrop.full, ImageCrop.center_crop)
    ]
    boxes, masks = proposal_cache.padded_boxes(samples, full_crops, 20)
    assert boxes.shape == (5, 20, 4) and masks.shape == (5, 20) and not boxes[~masks].any()
    for image_boxes, mask, sample, crop in zip(boxes, masks, samples, full_crops):
        first = proposal_cache[sample.id][0][:20]
        assert mask.sum() == len(first) and torch.allclose(image_boxes[mask], crop.boxes_to_input(first))
    boxes, masks = proposal_cache.padded_boxes(samples, center_crops, 20)
    for image_boxes, mask, sample, crop in zip(boxes, masks, samples, center_crops):
        expected = []
        for x0, y0, x1, y1 in proposal_cache[sample.id][0].tolist():
            width, height = (
                min(x1, crop.left + crop.width) - max(x0, crop.left),
                min(y1, crop.top + crop.height) - max(y0, crop.top),
            )
            if width > 0 and height > 0 and width * height >= (x1 - x0) * (y1 - y0) / 2:
                expected.append((x0, y0, x1, y1))
        assert torch.allclose(image_boxes[mask], crop.boxes_to_input(torch.tensor(expected[:20])), atol=1e-3)
        assert (image_boxes >= 0).all() and (image_boxes <= 224).all()
    corner = ImageCrop(160, 120, 0, 0, 1, 1, 224, 224)
    assert_input_error(lambda: proposal_cache.padded_boxes(samples[:1], [corner]), "image '0'", "its view shows none")


def test_boxes_of_a_resized_file_are_scaled_to_the_annotated_image(samples, tmp_path):
    read_image(samples[0].path).resize((224, 224)).save(tmp_path / "resized.png")
    sample = Sample("0", tmp_path / "resized.png", 160, 120)
    boxes, _ = ProposalCache(tmp_path, [sample]).find(progress=False)["0"]
    assert (boxes[:, 2:] <= torch.tensor([160, 120])).all() and boxes[:, 2].max() > 130


def test_sampled_boxes_are_distributed_evenly():
    mask = torch.tensor([[True] * 8 + [False] * 4]).expand(400, -1)
    boxes = torch.arange(12.0)[None, :, None].expand(400, -1, 4)
    sampled, sampled_mask = sample_boxes(boxes, mask, 4, torch.Generator().manual_seed(1))
    counts = sampled[..., 0].long().flatten().bincount(minlength=12)
    assert sampled_mask.all() and counts[8:].sum() == 0 and counts[:8].min() > 150 and counts.sum() == 1600
    assert all(len(set(row)) == 4 for row in sampled[..., 0].tolist())


@pytest.mark.slow
def test_proposals_recall_more_annotated_boxes_than_a_grid(shared_data):
    "On photographs, 50 proposals of each method recall more annotated boxes than 50 boxes of a grid."
    folder = shared_data / "flickr30k" / "original-size"
    dataset = load_flickr30k(shared_data, "test", "entities", on_error="skip", annotations_only=True)
    samples = [sample for sample in dataset.samples if (folder / f"{sample.id}.jpg").is_file()][:8]
    if len(samples) < 4:
        pytest.skip("fewer than four test photographs in their own size")
    recalled = {"grid": [], **{name: [] for name in FINDERS}}
    for sample in samples:
        image = read_image(folder / f"{sample.id}.jpg")
        truth = torch.tensor(sorted({box for _, phrase in sample.phrase_mentions for box in phrase.boxes}))
        recalled["grid"].append(box_recall(sliding_window_boxes(*image.size, 50), truth, 50))
        for name, find in FINDERS.items():
            recalled[name].append(box_recall(find(image, 50)[0], truth, 50))
    shares = {name: torch.cat(parts).float().mean().item() for name, parts in recalled.items()}
    assert min(shares["edge_boxes"], shares["selective_search"]) > shares["grid"], shares


@pytest.mark.slow
def test_workers_write_the_same_bytes(proposal_cache, samples, tmp_path):
    for workers in 1, 3:
        cache = ProposalCache(tmp_path / str(workers), samples, chunk_size=2).find(progress=False, workers=workers)
        assert [path.read_bytes() for path, _, _ in cache.chunks] == [
            path.read_bytes() for path, _, _ in proposal_cache.chunks
        ]
        assert list(cache.seconds()) == [sample.id for sample in samples]
    missing_image = Sample("cut", tmp_path / "cut.png", 160, 120)
    assert_input_error(
        lambda: ProposalCache(tmp_path / "broken", [*samples, missing_image], chunk_size=2).find(
            progress=False, workers=2
        ),
        "cut.png",
        "there is no such image",
    )
    # the files completed before it stay
    assert len(list((tmp_path / "broken").glob("*.safetensors"))) == 2


def test_padded_boxes_of_many_images_equal_those_of_each_image(proposal_cache, samples):
    "Images in any order, some twice, from several files, give the boxes of `ImageCrop.boxes_to_input` of each image."
    order = [4, 0, 3, 0, 1]
    ordered = [samples[k] for k in order]
    for make_crop in ImageCrop.full, ImageCrop.center_crop:
        crops = [make_crop(sample.width, sample.height, 224) for sample in ordered]
        boxes, masks = proposal_cache.padded_boxes(ordered, crops, 70)
        for k, (sample, crop) in enumerate(zip(ordered, crops)):
            single_boxes, mask = proposal_cache.padded_boxes([sample], [crop], 70)
            assert torch.equal(boxes[k], single_boxes[0]) and torch.equal(masks[k], mask[0])
            found_boxes = proposal_cache[sample.id][0]
            cropped = crop.boxes_to_input(found_boxes)
            large = (cropped[:, 2:] - cropped[:, :2]).prod(1) >= 0.5 * (found_boxes[:, 2:] - found_boxes[:, :2]).prod(
                1
            ) * (224 / crop.width) * (224 / crop.height)
            assert torch.equal(cropped[large][:70], boxes[k][masks[k]])
