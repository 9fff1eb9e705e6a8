"""Inputs of mirror images are those of the images, mirrored; the inputs of a training step flip together."""

import pytest
import torch

from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.features.region_encoder import RegionEncoder
from cgsaliency.features.region_inputs import (
    LazyImages,
    MirroredBoxes,
    RandomBoxes,
    RandomFlips,
    RegionInputs,
    cache_feature_maps,
    region_views,
)

NETWORK = "toyvgg"


@pytest.fixture(scope="module")
def samples(toybox):
    "Six synthetic images."
    return load_flickr30k(toybox, "train").samples[:6]


@pytest.fixture(scope="module")
def boxes(samples):
    "Two boxes of each image, and one that is padding."
    views = region_views(samples, NETWORK, "proposals")
    left = torch.tensor([[0.0, 4, view.input_width / 2, 30] for view in views])
    right = torch.tensor([[view.input_width - 20.0, 10, view.input_width, 50] for view in views])
    return torch.stack([left, right, torch.zeros(len(samples), 4)], 1)


def test_boxes_of_mirror_images_lie_at_the_other_side(samples, boxes):
    mirrored = MirroredBoxes(boxes, samples, NETWORK)[:]
    widths = torch.tensor([view.input_width for view in region_views(samples, NETWORK, "proposals")])
    assert torch.equal(mirrored[:, 0, 2], widths.float()) and torch.equal(mirrored[:, 0, 0], widths / 2)
    assert (mirrored[:, 1, 0] == 0).all() and (mirrored[:, 1, 2] == 20).all()
    assert (mirrored[:, 2] == 0).all() and torch.equal(mirrored[..., 1::2], boxes[..., 1::2])
    again = MirroredBoxes(mirrored, samples, NETWORK)[:]
    assert torch.equal(again, boxes)


def test_the_padding_of_mirrored_canvases_stays_at_the_right(samples, boxes):
    inputs, mirrored = (RegionInputs.from_images(samples, NETWORK, boxes, is_mirrored) for is_mirrored in (False, True))
    for k, view in enumerate(region_views(samples, NETWORK, "proposals")):
        canvas, mirrored_canvas = inputs.proposal_inputs[[k]][0], mirrored.proposal_inputs[[k]][0]
        image, padding = slice(None, view.input_width), slice(view.input_width, None)
        assert torch.equal(mirrored_canvas[..., image], canvas[..., image].flip(-1))
        assert torch.equal(mirrored_canvas[..., padding], canvas[..., padding])


def test_about_half_of_the_images_are_flipped_in_a_step():
    values = torch.zeros(400, 1)
    flips = RandomFlips(values, values + 1)
    first, same, other = (flips.draw(range(400), torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert 160 < first.sum() < 240 and torch.equal(first, same) and not torch.equal(first, other)
    assert (flips[:] == 0).all() and flips.key != RandomFlips(values, values + 2).key


def test_flips_of_random_boxes_are_random_samples():
    values = torch.arange(4.0 * 30).view(1, 30, 4).repeat(5, 1, 1).cumsum(-1)
    flips = RandomFlips(RandomBoxes(values, 3), RandomBoxes(values + 0.5, 3))
    drawn = [flips.draw(range(5), torch.Generator().manual_seed(seed)) for seed in range(4)]
    assert {tuple(boxes.shape) for boxes in drawn} == {(5, 3, 4)}
    assert any(not torch.equal(boxes.floor(), values[:, :3]) for boxes in drawn)  # not the best three
    assert torch.equal(flips[:], values[:, :3])


def test_images_have_a_key(samples):
    keys = [
        LazyImages(part, NETWORK, is_mirrored).key for part in (samples, samples[:2]) for is_mirrored in (False, True)
    ]
    assert len(set(keys)) == 4 and LazyImages(samples, NETWORK).key == keys[0]
    assert RandomFlips(*(LazyImages(samples, NETWORK, is_mirrored) for is_mirrored in (False, True))).key not in keys


def test_all_inputs_of_a_step_flip_the_same_images(samples, boxes, tmp_path):
    torch.manual_seed(0)
    encoder = RegionEncoder(NETWORK, "proposals", num_classes=4)
    inputs, mirrored = (
        cache_feature_maps(encoder, tmp_path, samples, boxes, is_mirrored=is_mirrored) for is_mirrored in (False, True)
    )
    flipped_images = set()
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        parts = inputs.with_random_flips(mirrored).with_num_boxes(2).model_inputs("proposals")
        drawn_maps, drawn_boxes, drawn_canvas_maps = (part.draw(range(6), generator) for part in parts)
        for k in range(6):
            is_flipped = torch.equal(drawn_maps[k], mirrored.inputs[[k]][0])
            source = mirrored if is_flipped else inputs
            assert torch.equal(drawn_maps[k], source.inputs[[k]][0])
            assert torch.equal(drawn_canvas_maps[k], source.proposal_inputs[[k]][0])
            assert sorted(drawn_boxes[k].tolist()) == sorted(source.boxes[[k]][0, :2].tolist())
            flipped_images.add((k, is_flipped))
    assert len(flipped_images) == 12  # each image in both forms
