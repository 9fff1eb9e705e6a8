"""Region captioners are trained on synthetic images, saved, loaded, and scored by both measures of attention."""

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
from cgsaliency.models.areas_of_attention import WithImageVector
from cgsaliency.models.base import load_captioner
from cgsaliency.models.decode import Ensemble
from cgsaliency.models.region_captioner import RegionCaptioner
from cgsaliency.train.areas import (
    ComparisonData,
    RegionDataset,
    RegionInputs,
    cache_feature_maps,
    full_image_crops,
    generate_region_captions,
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
        .padded_boxes(samples, full_image_crops(samples, "toyvgg"), 10)[0]
    )
    return samples, vocabulary, encode_captions(list(samples), vocabulary, 12, 2), boxes


def train_model(training_data, region_type, folder, seed=0, use_images=False):
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
            encoder.network.state_dict(),
            finetune_cnn=use_images,
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
    crops = dict(zip((sample.id for sample in samples), full_image_crops(samples, "toyvgg")))

    def explain(sample, caption_index, condition="state", crop=None):
        k = inputs.ids.index(sample.id)
        with torch.no_grad():
            features, corners, image_vector = model.region_encoder.encode_regions(
                inputs.inputs[k : k + 1].float(), inputs.boxes[k : k + 1]
            )
        regions, captioner = QuadRegions(corners[0], crops[sample.id]), WithImageVector(model.decoder, image_vector[0])
        assert isinstance(captioner, AttentionCaptioner)
        tokens = sample.captions[caption_index].tokens
        weights = area_weights(captioner, features[0], tokens, condition, truncate=True)
        known = captioner.encode_words(list(tokens), truncate=True)[1]
        assert torch.allclose(weights[known].sum(1), torch.ones(len(known)), atol=1e-5)
        return area_attention(
            captioner,
            features[0],
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
