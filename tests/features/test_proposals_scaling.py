"""Proposals of many images: the cost of opening and reading grows linearly."""

from pathlib import Path

import torch

import dataset_scaling
from assertions import assert_input_error
from call_counts import MAX_EXPONENT, count_calls, growth_exponent
from cgsaliency.core.geometry import ImageCrop
from cgsaliency.core.records import Sample
from cgsaliency.features.proposals import ProposalCache


def random_cache(folder: Path, num_images: int) -> tuple[list[Sample], ProposalCache]:
    "Return samples, and a cache whose files hold random boxes for them."
    samples = [Sample(str(k), folder / f"{k}.jpg", 64, 48) for k in range(num_images)]
    return samples, dataset_scaling.drawn_proposals(folder, samples)


def test_opening_and_reading_proposals_scale_linearly_and_hold_no_tensor(tmp_path):
    costs = {}
    for num_images in 1024, 4096:
        samples, cache = random_cache(tmp_path / str(num_images), num_images)
        costs[num_images] = num_images, count_calls(lambda: cache.find(progress=False))
        views = [ImageCrop.full(64, 48, 224)] * 50
        count_calls(lambda: cache.padded_boxes(samples[:: num_images // 50][:50], views))
        assert not any(isinstance(value, torch.Tensor) for value in vars(cache).values())
    assert growth_exponent(costs[1024], costs[4096]) < MAX_EXPONENT
    calls = [
        count_calls(lambda: cache.padded_boxes(samples[: 50 * k], [ImageCrop.full(64, 48, 224)] * (50 * k)))
        for k in (1, 8)
    ]
    assert calls[1] < 10 * calls[0]


def test_a_batch_of_boxes_reads_only_its_files(tmp_path):
    samples, cache = random_cache(tmp_path, 1024)
    for path, _, _ in cache.chunks[1:]:
        path.unlink()
    boxes, mask = cache.padded_boxes(samples[10:20], [ImageCrop.full(64, 48, 224)] * 10)
    assert boxes.shape == (10, 50, 4) and mask.any(1).all()
    assert_input_error(lambda: cache.padded_boxes(samples[250:260], [ImageCrop.full(64, 48, 224)] * 10), "is not there")
