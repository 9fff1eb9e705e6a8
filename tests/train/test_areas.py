"""Region captioners are trained on synthetic images, saved, loaded, and scored by both measures of attention."""

from dataclasses import replace

import pytest
import torch

from cgsaliency.core.errors import InputError
from cgsaliency.core.protocols import AttentionCaptioner
from cgsaliency.core.regions import QuadRegions, reproject
from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.data.vocabulary import Vocabulary
from cgsaliency.evaluate.attention_correctness import correctness_rows
from cgsaliency.evaluate.noun_correctness import central_square, find_nouns, noun_rows
from cgsaliency.explain.attention import area_attention, area_weights
from cgsaliency.features.proposals import ProposalCache
from cgsaliency.features.region_encoder import RegionEncoder
from cgsaliency.features.region_inputs import RandomBoxes, RegionInputs, cache_feature_maps, region_views
from cgsaliency.models.areas_of_attention import WithImageVector
from cgsaliency.models.base import load_captioner
from cgsaliency.models.decode import Ensemble
from cgsaliency.models.region_captioner import RegionCaptioner
from cgsaliency.reproduce.scale_config import load_scale
from cgsaliency.train.areas import (
    CaptionDecoding,
    CaptionValidation,
    ComparisonData,
    RegionDataset,
    encode_image_regions,
    generate_region_captions,
    region_validation_loss,
    train_region_captioner,
)
from cgsaliency.train.captioner import encode_captions, generate_captions
from cgsaliency.train.loop import TrainConfig

REGION_TYPES = ("grid", "proposals", "spatial_transformers")
MODEL_KWARGS = {"word_dim": 8, "hidden_dim": 12, "dropout": 0.2}


@pytest.fixture(scope="module")
def training_data(toybox, tmp_path_factory):
    "Samples, vocabulary, captions and boxes of eight synthetic images."
    samples = load_flickr30k(toybox, "train").samples[:8]
    vocabulary = Vocabulary.from_captions([caption.tokens for sample in samples for caption in sample.captions])
    boxes = (
        ProposalCache(tmp_path_factory.mktemp("proposals"), samples, max_proposals=12, on_empty="full_image")
        .find(progress=False)
        .padded_boxes(samples, region_views(samples, "toyvgg", "proposals"), 10)[0]
    )
    return samples, vocabulary, encode_captions(list(samples), vocabulary, 12, 2), boxes


def train_model(training_data, region_type, folder, seed=0, use_images=False, init_weights=None, **kwargs):
    "Train a region captioner for a few steps; return it with its history, and the inputs."
    samples, vocabulary, captions, boxes = training_data
    torch.manual_seed(0)
    encoder = RegionEncoder("toyvgg", num_classes=4)
    if use_images:
        inputs = RegionInputs.from_images(samples, "toyvgg", boxes)
    else:
        inputs = cache_feature_maps(encoder, folder / "features", samples, boxes)
    data = RegionDataset(inputs, captions)
    encoder_kwargs = {"network": "toyvgg", "region_type": region_type, "stride": 4, "num_classes": 4}
    return (
        train_region_captioner(
            folder / region_type / str(seed),
            vocabulary,
            encoder_kwargs,
            MODEL_KWARGS,
            data,
            data,
            TrainConfig(epochs=3, batch_size=4, learning_rate=0.01, seed=seed),
            init_weights or encoder.network.state_dict(),
            finetune_cnn=use_images,
            **kwargs,
        ),
        inputs,
    )


@pytest.mark.parametrize("region_type", REGION_TYPES)
@pytest.mark.parametrize("use_images", (False, True))
def test_training_is_deterministic_and_loaded_models_give_the_same_captions(
    training_data, tmp_path, region_type, use_images
):
    (model, history), inputs = train_model(training_data, region_type, tmp_path, use_images=use_images)
    assert history[-1]["loss"] < history[0]["loss"]
    (same_model, same_history), _ = train_model(training_data, region_type, tmp_path / "again", use_images=use_images)
    assert history == same_history and all(
        torch.equal(value, same_model.state_dict()[name]) for name, value in model.state_dict().items()
    )
    loaded = load_captioner(RegionCaptioner, tmp_path / region_type / "0")
    generated = generate_region_captions(loaded, inputs)
    assert generated == generate_region_captions(model, inputs)
    assert set(generated) == {sample.id for sample in training_data[0]}


@pytest.mark.parametrize("region_type", REGION_TYPES)
def test_maps_are_scored_by_both_measures(training_data, tmp_path, region_type):
    (model, _), inputs = train_model(training_data, region_type, tmp_path)
    samples = training_data[0]
    views = region_views(samples, "toyvgg", region_type)
    encoded_images = encode_image_regions(model, [part[:] for part in inputs.model_inputs(region_type)], views)

    def explain(sample, caption_index, condition="state", crop=None):
        encoded = encoded_images[inputs.ids.index(sample.id)]
        regions, captioner = encoded.regions, encoded.captioner
        assert isinstance(captioner, AttentionCaptioner) and isinstance(captioner, WithImageVector)
        assert isinstance(regions, QuadRegions)
        tokens = sample.captions[caption_index].tokens
        weights = area_weights(captioner, encoded.features, tokens, condition, truncate=True)
        known = captioner.encode_words(list(tokens), truncate=True)[1]
        assert torch.allclose(weights[known].sum(1), torch.ones(len(known)), atol=1e-5)
        return area_attention(
            captioner,
            encoded.features,
            reproject(regions, crop(sample)) if crop else regions,
            tokens,
            condition,
            truncate=True,
            map_size=28,
        )

    nouns = noun_rows(
        lambda sample, caption_index: explain(sample, caption_index, crop=central_square), samples, find_nouns(samples)
    )
    phrases = correctness_rows(explain, samples[:3])
    for rows in (nouns, phrases):
        assert rows.mass.between(0, 1.0001).all() and len(rows)
    assert not torch.equal(explain(samples[0], 0).saliency, explain(samples[0], 0, "word").saliency)


def test_an_ensemble_generates_captions(training_data, tmp_path):
    members = [train_model(training_data, "grid", tmp_path, seed)[0][0] for seed in (0, 1)]
    inputs = train_model(training_data, "grid", tmp_path)[1]
    captions = generate_captions(Ensemble(members), inputs.ids, (inputs.inputs, inputs.inputs), beam=2)
    assert set(captions) == set(inputs.ids)


def test_a_missing_encoder_config_is_reported(training_data, tmp_path):
    samples = {"train": training_data[0], "val": training_data[0], "test": training_data[0]}
    with pytest.raises(InputError, match="encoder_config.json"):
        ComparisonData.from_records(samples, tmp_path / "encoder_config.json", tmp_path)


# Regions in training and at test time


def test_a_training_draws_random_proposals_and_validates_with_the_best(training_data, tmp_path, monkeypatch):
    "aoa, section 4.1: each time an image is processed, some of its regions are drawn at random."
    drawn, draw = [], RandomBoxes.draw

    def record(boxes, indices, generator):
        drawn.append((list(indices), draw(boxes, indices, generator)))
        return drawn[-1][1]

    monkeypatch.setattr(RandomBoxes, "draw", record)
    (model, history), inputs = train_model(training_data, "proposals", tmp_path, num_boxes=3)
    samples_of_image = [boxes[indices.index(0)] for indices, boxes in drawn if 0 in indices]
    assert len(drawn) == 3 * 2 and len(samples_of_image) == 3  # each image once in each of three epochs
    assert all(boxes.shape == (3, 4) for boxes in samples_of_image)
    assert len({tuple(boxes.flatten().tolist()) for boxes in samples_of_image}) > 1
    assert {tuple(box) for boxes in samples_of_image for box in boxes.tolist()} <= set(
        map(tuple, inputs.boxes[0].tolist())
    )
    data = RegionDataset(replace(inputs, boxes=inputs.boxes[:, :3]), training_data[2])
    losses = [epoch["val_loss"] for epoch in history]
    assert abs(region_validation_loss(model, data) - min(losses)) < 1e-5


def test_proposals_at_test_time_are_the_best_ones(training_data, tmp_path):
    "aoa, section 4.2: the regions are sorted by their objectness."
    (model, _), inputs = train_model(training_data, "proposals", tmp_path)
    captions = {n: generate_region_captions(model, inputs, 2, num_boxes=n) for n in (1, 4, 10, 1000)}
    for n in (1, 4):
        first = replace(inputs, boxes=inputs.boxes[:, :n])
        assert captions[n] == generate_region_captions(model, first, 2)
        assert torch.equal(inputs.with_num_boxes(n).boxes[:], inputs.boxes[:, :n])
    assert captions[10] == captions[1000] == generate_region_captions(model, inputs, 2)


@pytest.mark.parametrize("region_type", ("grid", "spatial_transformers"))
def test_a_stride_at_test_time_gives_the_captions_of_a_model_with_this_stride(training_data, tmp_path, region_type):
    (model, _), inputs = train_model(training_data, region_type, tmp_path)
    for stride in (1, 14):
        captions = generate_region_captions(model, inputs, 2, stride=stride)
        model.region_encoder.stride, trained_stride = stride, model.region_encoder.stride
        assert captions == generate_region_captions(model, inputs, 2)
        model.region_encoder.stride = trained_stride
        maps = inputs.inputs.float()
        with torch.no_grad(), model.with_stride(stride):
            assert model.init_state(maps).features.shape[1] == (14 // stride) ** 2
    with torch.no_grad():
        assert model.stride is None and model.init_state(maps).features.shape[1] == 16


def test_transformers_continue_a_captioner_of_the_grid(training_data, tmp_path):
    "aoa, section 3.3: all weights are those of the grid's captioner, besides the transformation layers."
    (grid, _), _ = train_model(training_data, "grid", tmp_path)
    weights = grid.state_dict()
    config = TrainConfig(epochs=1, batch_size=4, learning_rate=1e-30, seed=0)  # nothing is learned
    samples, vocabulary, captions, boxes = training_data
    inputs = cache_feature_maps(RegionEncoder("toyvgg", num_classes=4), tmp_path / "maps", samples, boxes)
    encoder_kwargs = {"network": "toyvgg", "region_type": "spatial_transformers", "stride": 4, "num_classes": 4}
    data = RegionDataset(inputs, captions)
    model, _ = train_region_captioner(
        tmp_path / "continued", vocabulary, encoder_kwargs, MODEL_KWARGS, data, data, config, weights
    )
    continued = model.state_dict()
    assert all((continued[name] - value).abs().max() < 1e-12 for name, value in weights.items())
    new_names = continued.keys() - weights.keys()
    assert new_names and all(name.startswith("region_encoder.spatial_transformer.") for name in new_names)


def test_the_best_epoch_is_that_of_the_best_captions(training_data, tmp_path):
    scores = iter((0.2, 0.9, 0.5))
    validation = CaptionValidation("CIDEr-D", lambda captions: next(scores), CaptionDecoding(2, stride=1))
    (model, history), inputs = train_model(training_data, "grid", tmp_path, validation=validation)
    assert [epoch["score"] for epoch in history] == [0.2, 0.9, 0.5] == [epoch["CIDEr-D"] for epoch in history]
    loss = region_validation_loss(model, RegionDataset(inputs, training_data[2]))
    assert abs(loss - history[1]["val_loss"]) < 1e-5 < abs(loss - history[2]["val_loss"])


@pytest.mark.parametrize("scale", ("smoke", "toybox", "paper", "rehearsal"))
def test_all_notebooks_of_a_scale_read_the_same_proposals(scale):
    "The name of a file of proposals depends on these settings: with others, each notebook would search anew."
    sections = load_scale(scale)
    searched = {name: sections["aoa/proposals"][name] for name in ("method", "max_proposals")}
    readers = {name: section["proposals"] for name, section in sections.items() if (section or {}).get("proposals")}
    assert {"aoa/train_region_types", "aoa/finetuned", "aoa/figure4"} <= readers.keys()
    for name, settings in readers.items():
        assert {key: settings[key] for key in searched} == searched, name
        assert settings["num_boxes"] < searched["max_proposals"], name  # some of those found are drawn in training
